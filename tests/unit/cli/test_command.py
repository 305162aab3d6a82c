"""Output that cannot be written, closed pipes and ASCII terminals, for every command."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from neurogate_core.command import write_output
from neurogate_testing.fake_gateway import FakeGateway

COMMANDS = {
    "neurogate": "neurogate_cli.main",
    "neurogate-trainer": "neurogate_trainer.entry",
    "neurogate-gateway": "neurogate_gateway.main",
    "neurogate-model-server": "neurogate_model_server.main",
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


NO_ROOM = pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full device")


@contextlib.contextmanager
def closed_pipe() -> Iterator[int]:
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def lost(command: str, why: str) -> tuple[int, str]:
    return 1, f"{command}: the output cannot be written: {why}\n"


@NO_ROOM
def test_a_full_device_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        result = run("neurogate", ["--help"], stdout=full)
    assert (result.returncode, result.stderr) == lost("neurogate", "No space left on device")


@pytest.mark.parametrize(("command", "words"), HELP)
def test_a_closed_pipe_is_one_line(command: str, words: list[str]) -> None:
    with closed_pipe() as writer:
        result = run(command, words, stdout=writer)
    assert (result.returncode, result.stderr) == lost(command, "Broken pipe")


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-"])
def test_closed_descriptors_are_no_failure(closed: str) -> None:
    code = "from neurogate_cli.main import main; main()"
    result = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "{code}" --help {closed}', sys.executable],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(("command", "words"), HELP)
def test_help_can_be_read_on_an_ascii_terminal(command: str, words: list[str]) -> None:
    result = run(command, words, stdout=subprocess.PIPE, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    # TensorFlow Serving's own help ends with 255, and so the embedded server's does.
    assert (result.returncode, result.stderr) == (255 if command == "neurogate-model-server" else 0, "")
    assert result.stdout.isascii()
    assert "\\u" not in result.stdout
    if words == ["classify", "--help"]:
        assert "PATH..." in result.stdout


@NO_ROOM
def test_notes_that_nobody_can_read_end_nothing() -> None:
    code = (
        "import sys; from neurogate_core.command import guarded_output\n"
        "with guarded_output('x'):\n    sys.stderr.write('lost'); sys.stderr.flush(); print('kept')"
    )
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=full, text=True, check=False
        )
    assert (result.returncode, result.stdout) == (0, "kept\n")


def test_output_that_is_lost_is_no_failure_of_the_work() -> None:
    code = (
        "import sys; from neurogate_core.command import guarded_output\n"
        "with guarded_output('x'):\n"
        "    try:\n        print('a' * 100_000)\n    except Exception:\n        sys.exit(5)"
    )
    with closed_pipe() as writer:
        result = subprocess.run(
            [sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (result.returncode, result.stderr) == lost("x", "Broken pipe")


def test_a_file_is_replaced_and_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_output(path, b"1")
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask
    path.chmod(0o640)
    other = tmp_path / "hard link"
    other.hardlink_to(path)
    write_output(path, b"2")
    assert (path.read_bytes(), other.read_bytes()) == (b"2", b"1")
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_link_still_leads_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for target in ("there/a.png", "there/new.png"):
        link = tmp_path / f"link to {Path(target).name}"
        link.symlink_to(target)
        write_output(link, b"x")
        assert link.is_symlink()
        assert (tmp_path / target).read_bytes() == b"x"
    assert len(list(tmp_path.rglob("*"))) == 5


def test_pipes_and_devices_are_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_output(pipe, b"picture")
    assert os.read(reader, 100) == b"picture"
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    write_output(Path(os.devnull), b"x")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)
    link = tmp_path / "null"
    link.symlink_to(os.devnull)
    write_output(link, b"x")
    assert link.is_symlink()


def test_what_cannot_be_written_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    code = (
        "import pathlib, resource, sys; from neurogate_core.command import write_output\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "try:\n    write_output(pathlib.Path(sys.argv[1]), b'x' * 200)\n"
        "except OSError as error:\n    print(error.strerror)"
    )
    told = subprocess.check_output([sys.executable, "-c", code, str(path)], text=True)
    assert told == "File too large\n"
    assert [each.name for each in tmp_path.iterdir()] == ["a.png"]
    assert path.read_bytes() == b"old"
    with pytest.raises(IsADirectoryError):
        write_output(tmp_path, b"x")


@pytest.mark.parametrize("form", [[], ["--csv"], ["--json"]])
def test_results_whose_reader_has_gone_end_in_one_line(
    gateway: FakeGateway, tmp_path: Path, form: list[str]
) -> None:
    for number in range(200):
        (tmp_path / f"{number}.jpg").write_bytes(b"glioma %d" % number)
    words = ["classify", str(tmp_path), *form, "-t", gateway.address]
    with closed_pipe() as writer:
        result = run("neurogate", words, stdout=writer, timeout=120)
    assert (result.returncode, result.stderr) == lost("neurogate", "Broken pipe")


@NO_ROOM
def test_results_and_pictures_on_a_full_device_end_in_one_line(gateway: FakeGateway, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"glioma")
    image = str(tmp_path / "x.jpg")
    for words in (
        ["classify", image],
        ["versions", "--json"],
        ["explain", image, "-o", "-"],
        ["upload", str(tmp_path.parent / tmp_path.name), "--json"],
    ):
        with Path("/dev/full").open("w") as full:
            result = run("neurogate", [*words, "-t", gateway.address], stdout=full, timeout=120)
        assert result.returncode != 0
        assert "Traceback" not in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_tables_can_be_read_on_an_ascii_terminal(gateway: FakeGateway, tmp_path: Path) -> None:
    (tmp_path / "é…→.jpg").write_bytes(b"glioma")
    words = ["classify", str(tmp_path), "-t", gateway.address]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = run("neurogate", words, stdout=subprocess.PIPE, env=environment, timeout=120)
    assert (result.returncode, result.stderr) == (0, "")
    assert r"\xe9...->.jpg" in result.stdout
