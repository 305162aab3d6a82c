"""Output that cannot be written, closed pipes and ASCII terminals, for every command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = {
    "neurogate": "neurogate_client.cli",
    "neurogate-trainer": "neurogate_trainer.entry",
    "neurogate-gateway": "neurogate_gateway.main",
    "neurogate-model-server": "neurogate_serving.embedded.main",
}
HELP = [(command, ["--help"]) for command in COMMANDS] + [
    ("neurogate", ["classify", "--help"]),
    ("neurogate-trainer", ["data", "import", "--help"]),
]


def run(command: str, words: list[str], **settings: object) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.argv[0] = {command!r}; from {COMMANDS[command]} import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *words], stderr=subprocess.PIPE, text=True, check=False, **settings
    )  # type: ignore[call-overload, no-any-return]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full device")
@pytest.mark.parametrize(("command", "words"), HELP)
def test_a_full_device_is_one_line(command: str, words: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        result = run(command, words, stdout=full)
    assert result.returncode == 1
    assert result.stderr == f"{command}: the output cannot be written: No space left on device\n"


@pytest.mark.parametrize(("command", "words"), HELP)
def test_a_closed_pipe_is_one_line(command: str, words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    result = run(command, words, stdout=writer)
    os.close(writer)
    assert (result.returncode, result.stderr) == (
        1,
        f"{command}: the output cannot be written: Broken pipe\n",
    )


@pytest.mark.parametrize(("command", "words"), HELP)
def test_help_can_be_read_on_an_ascii_terminal(command: str, words: list[str]) -> None:
    result = run(command, words, stdout=subprocess.PIPE, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.isascii()
    assert "\\u" not in result.stdout
    if words == ["classify", "--help"]:
        assert "PATH..." in result.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full device")
def test_notes_that_nobody_can_read_end_nothing() -> None:
    code = (
        "import sys; from neurogate.command import guarded_output\n"
        "with guarded_output('x'):\n    sys.stderr.write('lost'); sys.stderr.flush(); print('kept')"
    )
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=full, text=True, check=False
        )
    assert (result.returncode, result.stdout) == (0, "kept\n")


def test_output_that_is_lost_is_no_failure_of_the_work() -> None:
    code = (
        "import sys; from neurogate.command import guarded_output\n"
        "with guarded_output('x'):\n"
        "    try:\n        print('a' * 100_000)\n    except Exception:\n        sys.exit(5)"
    )
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(
        [sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert (result.returncode, result.stderr) == (1, "x: the output cannot be written: Broken pipe\n")
