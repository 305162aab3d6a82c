import io
import json
import math
from pathlib import Path

import pytest
from neurogate_testing.recorder import Recorder
from neurogate_trainer.progress import (
    JsonLinesReporter,
    LogReporter,
    RichReporter,
    TeeReporter,
    console_reporter,
)
from rich.console import Console


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def events(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_events_carry_phase_step_epoch_and_metrics(tmp_path):
    path = tmp_path / "folder" / "events.jsonl"
    with JsonLinesReporter(path) as reporter:
        reporter.phase("fine-tune", total=2, unit="steps")
        reporter.advance(epoch=3, loss=0.5)
        reporter.advance(epoch=3, loss=math.nan)
        reporter.message("grüße", level="warning")
    phase, progress, message = events(path)
    assert (phase["event"], phase["phase"], phase["total"], phase["unit"]) == (
        "phase",
        "fine-tune",
        2,
        "steps",
    )
    assert (progress["step"], progress["total"], progress["epoch"]) == (2, 2, 3)
    assert progress["metrics"] == {"loss": None}
    assert (message["text"], message["level"]) == ("grüße", "warning")
    assert [entry["sequence"] for entry in (phase, progress, message)] == [1, 2, 3]
    assert phase["time"].endswith("+00:00")


def test_the_sequence_goes_on_and_a_torn_line_goes(tmp_path):
    path = tmp_path / "events.jsonl"
    with JsonLinesReporter(path) as reporter:
        reporter.message("one")
        reporter.message("two")
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"sequence": 3, "ti')
    with JsonLinesReporter(path) as reporter:
        reporter.message("three")
    assert [entry["sequence"] for entry in events(path)] == [1, 2, 3]
    assert path.read_bytes().startswith(whole)


def test_a_file_of_one_torn_line_starts_anew(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"sequ')
    with JsonLinesReporter(path) as reporter:
        reporter.message("one")
    assert [entry["sequence"] for entry in events(path)] == [1]


@pytest.mark.parametrize("content", ["hello\n", "[1]\n", '{"time": 3}\n', "null\n"])
def test_another_file_is_not_appended_to(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_text(content)
    with pytest.raises(ValueError, match="not a file of events"):
        JsonLinesReporter(path)
    assert path.read_text() == content


def test_progress_is_held_back_but_never_lost(tmp_path):
    clock = Clock()
    path = tmp_path / "events.jsonl"
    with JsonLinesReporter(path, interval=10, clock=clock) as reporter:
        reporter.phase("index", total=1000, unit="images")
        for _ in range(30):
            clock.now += 1
            reporter.advance()
        reporter.phase("next")
    steps = [entry["step"] for entry in events(path) if entry["event"] == "progress"]
    assert steps == [10, 20, 30]


def test_results_are_told_at_once(tmp_path):
    path = tmp_path / "events.jsonl"
    with JsonLinesReporter(path, interval=math.inf) as reporter:
        reporter.phase("fine-tune", total=10)
        reporter.advance(3, loss=1.0)
        reporter.advance(0, val_macro_f1=0.5)
        kept = events(path)[-1]
    assert kept["step"] == 3
    assert kept["metrics"] == {"loss": 1.0, "val_macro_f1": 0.5}


def test_log_lines_say_how_long_it_takes():
    clock, stream = Clock(), io.StringIO()
    with LogReporter(stream, interval=10, clock=clock) as reporter:
        reporter.phase("index", total=100, unit="images")
        # The first two reports are untypical, and the next ones too few to go by.
        for seconds, steps in ((100, 10), (200, 2), (210, 1), (220, 1), (230, 4)):
            clock.now = seconds
            reporter.advance(steps, loss=0.25)
        reporter.message("careful", level="warning")
        reporter.phase("publish")
    lines = [line.split(" ", 1)[1] for line in stream.getvalue().splitlines()]
    assert lines == [
        "index: 100 images",
        "index 10/100 images, loss 0.25",
        "index 12/100 images, loss 0.25",
        "index 13/100 images, loss 0.25",
        "index 14/100 images, loss 0.25",
        "index 18/100 images, loss 0.25, about 410 s left",
        "WARNING: careful",
        "publish",
    ]


def test_bars_survive_markup_unknown_totals_and_early_progress():
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=160, color_system=None)
    with RichReporter(console) as reporter:
        reporter.advance()
        reporter.phase("[bold]odd[/nonsense]", unit="[x]")
        reporter.advance(5, loss=0.125)
        reporter.phase("train", total=4, unit="steps")
        reporter.advance(4)
        reporter.message("path [/] with brackets", level="warning")
    shown = stream.getvalue()
    assert "path [/] with brackets" in shown
    assert "loss 0.125" in shown
    assert "4/4" in shown


def test_tee_tells_all_and_closes_what_can_be_closed(tmp_path):
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"

    plain = Recorder()
    with TeeReporter(JsonLinesReporter(first), plain, JsonLinesReporter(second)) as reporter:
        reporter.phase("p")
        reporter.advance()
        reporter.message("m")
    assert (plain.phases, plain.steps, plain.messages) == (["p"], 1, ["m"])
    strip = [[{**entry, "time": ""} for entry in events(path)] for path in (first, second)]
    assert strip[0] == strip[1]
    assert len(strip[0]) == 3


def test_people_get_lines_where_there_is_no_terminal():
    with console_reporter(io.StringIO()) as reporter:
        assert isinstance(reporter, LogReporter)


def test_a_file_name_that_is_no_text_does_not_end_the_run(tmp_path):
    path = tmp_path / "events.jsonl"
    with JsonLinesReporter(path) as reporter:
        reporter.message("b\udcfcse.jpg is damaged")
        reporter.end("failed", reason="a\ud800b")
    texts = [json.loads(line) for line in path.read_text().splitlines()]
    assert [text.get("text", text.get("reason")) for text in texts] == ["b?se.jpg is damaged", "a?b"]
