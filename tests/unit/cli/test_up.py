"""`neurogate up` where something cannot be read: a sentence, and no traceback."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from neurogate_cli.commands import up as cli_up
from neurogate_testing.command_line import Run
from neurogate_testing.processes import free_port
from rich.console import Console


@pytest.mark.parametrize("locked", ["run", "run/evaluation.json"])
def test_a_run_folder_that_cannot_be_read_is_told_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locked: str
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "evaluation.json").touch()
    access, hidden = os.access, tmp_path / locked
    # Permissions do not bind root, who may run the tests.
    monkeypatch.setattr(
        os, "access", lambda path, mode: not Path(path).is_relative_to(hidden) and access(path, mode)
    )
    log = Console(record=True, width=200)
    assert cli_up._run_beside(tmp_path, log) is None
    assert f"no retraining and no gate here: {tmp_path / 'run'} cannot be read" in log.export_text()


def test_without_a_run_folder_nothing_is_told(tmp_path: Path) -> None:
    log = Console(record=True, width=200)
    assert cli_up._run_beside(tmp_path, log) is None
    assert log.export_text() == ""


@pytest.mark.parametrize("option", ["--port", "--model-server-port"])
def test_a_taken_port_is_named_before_anything_starts(neurogate: Run, tmp_path: Path, option: str) -> None:
    (tmp_path / "brain_tumor" / "1").mkdir(parents=True)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ports = {"--port": free_port(), "--model-server-port": free_port(), option: port}
        words = [str(each) for pair in ports.items() for each in pair]
        code, out, err = neurogate("up", "--repository", tmp_path, *words)
    assert (code, out) == (2, "")
    assert f"port {port} is taken; choose another with {option}" in err
