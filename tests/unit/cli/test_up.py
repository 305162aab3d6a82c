"""`neurogate up` where something cannot be read: a sentence, and no traceback."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from neurogate_cli.commands import up as cli_up
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
