"""The command `neurogate` in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
from neurogate_cli import main as cli

Run = Callable[..., tuple[int, str, str]]
"""Runs the command line: exit status, stdout, stderr."""


def command_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """The command line without this machine's settings, 200 columns wide."""
    monkeypatch.delenv("NEUROGATE_TARGET", raising=False)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["neurogate", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capfd.readouterr()
        return int(stop.value.code or 0), out, err

    return run
