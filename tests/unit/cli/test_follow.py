"""A retraining on a terminal: bars that fit it."""

from __future__ import annotations

import io
import re

import pytest
from neurogate.v1 import training_pb2
from neurogate_cli.render.follow import follow, print_end
from neurogate_client import Client
from neurogate_testing.fake_gateway import FakeGateway
from neurogate_testing.fake_training import FakeTraining, success
from rich.console import Console

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def shown(gateway: FakeGateway, width: int) -> list[str]:
    """The lines of a terminal of that width, bars as they were drawn last or before."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=width, highlight=False)
    with Client(gateway.address) as client:
        run = follow(client, client.start_retraining().retraining_id, console)
        print_end(console, run)
    return [line.rstrip() for line in re.split(r"[\r\n]+", CONTROL.sub("", file.getvalue()))]


@pytest.mark.parametrize("width", [60, 80, 140])
def test_bars_fit_the_terminal(gateway: FakeGateway, width: int) -> None:
    gateway.script.training.script = success
    lines = shown(gateway, width)
    assert max(map(len, lines)) <= width
    for state in ("QUEUED", "RUNNING", "EVALUATING", "PUBLISHING", "SUCCEEDED", "best epoch 2"):
        assert state in lines
    bars = [line for line in lines if line.startswith("fine-tune")]
    assert any("20/20 batches" in line for line in bars)
    assert any("epoch 2, loss 0.25" in line for line in bars) == (width >= 100)
    assert any(line.startswith("retraining r1 SUCCEEDED") for line in lines)


def test_what_a_trainer_writes_cannot_drive_the_terminal(gateway: FakeGateway) -> None:
    def script(training: FakeTraining, run: training_pb2.Retraining) -> None:
        training.move("r1", "RUNNING")
        training.add_event("r1", phase=training_pb2.RetrainingPhase(name="\x1b[2J[red]wipe"))
        training.add_event("r1", progress=training_pb2.RetrainingProgress(phase="never told", step=3))
        training.add_event("r1", log=training_pb2.RetrainingLogLine(level="error", text="\x1b[31m[bold]x"))
        training.move("r1", "FAILED", error="\x07boom")

    gateway.script.training.script = script
    text = "\n".join(shown(gateway, 100))
    assert r"\x1b[2J[red]wipe" in text
    assert r"\x1b[31m[bold]x" in text
    assert r"\x07boom" in text
    assert "never told" in text
