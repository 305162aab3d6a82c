"""The trainer's lines as events: all of them, once each, whatever moment they are read at."""

import json
import random
from datetime import UTC, datetime, timedelta

from google.protobuf import json_format
from neurogate_gateway.retraining.trainer_events import TrainerEventReader
from neurogate_trainer.progress import JsonLinesReporter


def written(path):
    """A file of events by the trainer's own reporter."""
    with JsonLinesReporter(path, interval=0) as reporter:
        reporter.phase("fine-tune", total=4, unit="steps")
        reporter.advance(1, epoch=2, loss=0.5, broken=float("nan"))
        reporter.message("look here", level="warning")
        reporter.phase("export")
        reporter.end("published", version=3)
    return path


def test_every_kind_of_line_becomes_its_event(tmp_path):
    reader = TrainerEventReader(written(tmp_path / "events.jsonl"))
    numbered = reader.read()
    assert [number for number, _ in numbered] == [1, 2, 3, 4, 5]
    phase, progress, message, export, end = (event for _, event in numbered)
    assert json_format.MessageToDict(phase)["phase"] == {"name": "fine-tune", "total": "4", "unit": "steps"}
    assert (progress.progress.step, progress.progress.total, progress.progress.epoch) == (1, 4, 2)
    assert dict(progress.progress.metrics) == {"loss": 0.5}
    assert not progress.progress.HasField("remaining")
    assert (message.log.level, message.log.text) == ("warning", "look here")
    assert (export.phase.name, export.phase.total) == ("export", 0)
    assert (end.log.level, end.log.text) == ("info", "published: published version 3")
    assert all(event.HasField("time") for _, event in numbered)
    assert (reader.end.outcome, reader.end.version) == ("published", 3)
    assert reader.read() == []


def test_what_is_left_of_a_phase_follows_from_its_pace(tmp_path):
    path = tmp_path / "events.jsonl"
    began = datetime(2026, 1, 1, tzinfo=UTC)

    def step_line(seconds: int, step: int) -> dict:
        return {"event": "progress", "step": step, "total": 20, "epoch": None, "metrics": {}, "time": seconds}

    phase = {"event": "phase", "total": 20, "unit": "steps", "time": 0}
    # What comes first pays for what is compiled; in the second start it stands for the steps of the first.
    lines = [phase, step_line(60, 1), step_line(62, 2), step_line(66, 4), step_line(98, 20)]
    lines += [phase, step_line(5, 8), step_line(9, 12)]
    with path.open("w") as file:
        for number, line in enumerate(lines, 1):
            time = (began + timedelta(seconds=line["time"])).isoformat()
            file.write(json.dumps({**line, "sequence": number, "phase": "fine-tune", "time": time}) + "\n")
    progress = [event.progress for _, event in TrainerEventReader(path).read() if event.HasField("progress")]
    left = [each.remaining.ToSeconds() if each.HasField("remaining") else None for each in progress]
    assert left == [None, None, 32, 0, None, 8]


def test_reading_while_it_is_written_gives_every_line_once(tmp_path):
    whole = written(tmp_path / "whole.jsonl").read_bytes()
    for seed in range(5):
        path = tmp_path / f"{seed}.jsonl"
        reader = TrainerEventReader(path)
        assert reader.read() == []
        chance = random.Random(seed)
        found, size = [], 0
        while size < len(whole):
            size += chance.randint(1, 90)
            path.write_bytes(whole[:size])
            found += [number for number, _ in reader.read()]
        assert found == [1, 2, 3, 4, 5]


def test_a_torn_last_line_is_left_until_the_trainer_has_mended_it(tmp_path):
    path = written(tmp_path / "events.jsonl")
    reader = TrainerEventReader(path)
    with path.open("ab") as file:
        file.write(b'{"sequence": 6, "ev')
    assert len(reader.read()) == 5
    # The trainer's reporter cuts it off when it goes on.
    with JsonLinesReporter(path) as reporter:
        reporter.message("again")
    assert [(number, event.log.text) for number, event in reader.read()] == [(6, "again")]


def test_what_is_no_event_is_counted_and_passed_over(tmp_path):
    path = tmp_path / "events.jsonl"
    lines = ["nonsense", "[]", '{"sequence": 1, "event": "dance", "time": "2026-01-01T00:00:00+00:00"}']
    path.write_text("\n".join(lines) + "\n")
    with path.open("ab") as file:
        file.write(b"x" * 600_000 + b"\n")
        file.write(
            b'{"sequence": 7, "event": "message", "level": "info", "text": "here", '
            b'"time": "2026-01-01T00:00:00+00:00"}\n'
        )
    reader = TrainerEventReader(path)
    assert [number for number, _ in reader.read()] == [7]
    assert reader.unreadable == 4


def test_a_line_that_does_not_follow_is_passed_over(tmp_path):
    path = tmp_path / "events.jsonl"
    line = (
        '{"sequence": %s, "event": "message", "level": "info", "text": "", "time": "2026-01-01T00:00:00Z"}\n'
    )
    wrong = ("1", "2", "1e400", "-3", "9223372036854775808", '"x"')
    path.write_text("".join(line % each for each in ("1", "2", *wrong, "3")))
    reader = TrainerEventReader(path)
    assert [found for found, _ in reader.read()] == [1, 2, 3]
    assert reader.unreadable == len(wrong)


def test_the_reason_of_the_end_is_short_text_that_every_database_holds(tmp_path):
    path = tmp_path / "events.jsonl"
    with JsonLinesReporter(path) as reporter:
        reporter.end("failed", reason="a\0b" + "x" * 1_000_000)
    with path.open("a") as file:
        file.write(
            '{"sequence": 2, "event": "end", "outcome": "failed", "version": null, "reason": "\\ud800", '
        )
        file.write('"time": "2026-01-01T00:00:00Z"}\n')
    reader = TrainerEventReader(path)
    assert len(reader.read()) == 1
    assert reader.end.reason == "a\ufffdb" + "x" * 8189
