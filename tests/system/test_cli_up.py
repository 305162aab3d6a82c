"""`neurogate up`: two real servers that start together and end together."""

from __future__ import annotations

import queue
import shutil
import signal
from pathlib import Path

import psutil
import pytest
from neurogate_cli.local_stack.servers import MODEL_SERVER_FLAGS
from neurogate_client import Client, enum_name
from neurogate_core.manifest import read_manifest, write_manifest
from neurogate_testing import images
from neurogate_testing.processes import (
    RunningProcess,
    free_port,
    model_server_binary,
    running,
    script,
    up_model_server_options,
)
from neurogate_testing.stack import publish_copy


def command(repository: Path) -> tuple[list[str], int]:
    port = free_port()
    return [
        script("neurogate"),
        "up",
        f"--repository={repository}",
        f"--port={port}",
        f"--model-server-port={free_port()}",
        *up_model_server_options(),
    ], port


def children(process: RunningProcess) -> dict[str, psutil.Process]:
    """The two servers, by name."""
    found = {}
    for child in psutil.Process(process.popen.pid).children():
        line = " ".join(child.cmdline())
        found["gateway" if "neurogate-gateway" in line else "model-server"] = child
    return found


def all_gone(servers: dict[str, psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(list(servers.values()), timeout=20)
    return not alive


def test_both_serve_and_one_interrupt_ends_both_in_order(toy_repository: Path) -> None:
    line, port = command(toy_repository)
    with running(line) as up:
        up.wait_for(rf"Ready: brain_tumor version 1 at 127\.0\.0\.1:{port}", seconds=120)
        servers = children(up)
        assert sorted(servers) == ["gateway", "model-server"]
        assert servers["model-server"].environ()["MALLOC_ARENA_MAX"] == "2"
        assert set(MODEL_SERVER_FLAGS) <= set(servers["model-server"].cmdline())
        with Client(f"127.0.0.1:{port}") as client:
            assert client.classify(images.brain_slice()).model.version == 1
        assert up.stop(signal.SIGINT) == 0
        assert all_gone(servers)
    assert '"in_order": true' in up.output
    # Settings that are the defaults are left out.
    assert "max_in_flight" not in up.output
    if model_server_binary() is None:
        assert up.output.index('"event": "stopped"') < up.output.index("stopping on SIGTERM")
        # So are TensorFlow's own notes.
        assert "absl::" not in up.output
        assert "cuda" not in up.output.lower()


def test_a_second_interrupt_kills_what_has_not_stopped(toy_repository: Path) -> None:
    line, port = command(toy_repository)
    more: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    with running(line) as up, Client(f"127.0.0.1:{port}") as client:
        up.wait_for("Ready: ", seconds=120)
        servers = children(up)
        answers = client.stream_classify(enumerate(iter(more.get, None)))
        more.put(images.brain_slice())
        assert next(answers).unwrap().model.version == 1
        # An open stream holds up the first one.
        up.popen.send_signal(signal.SIGINT)
        up.wait_for('"event": "draining"')
        assert up.stop(signal.SIGINT) == 130
        assert all_gone(servers)
        more.put(None)
    assert "error: what had not stopped yet was killed by another signal" in up.output


@pytest.mark.parametrize("victim", ["gateway", "model-server"])
def test_when_one_dies_the_other_is_stopped_and_the_status_says_so(toy_repository: Path, victim: str) -> None:
    line, _ = command(toy_repository)
    with running(line) as up:
        up.wait_for("Ready: ", seconds=120)
        servers = children(up)
        servers[victim].kill()
        up.wait_for(rf"error: {victim} was killed by SIGKILL; everything was stopped")
        assert up.popen.wait(30) == 1
        assert all_gone(servers)


def test_a_publication_ends_no_stream_and_moves_nobody_until_it_is_promoted(
    toy_repository: Path, tmp_path: Path
) -> None:
    root = tmp_path / "models"
    shutil.copytree(toy_repository, root)
    line, port = command(root)
    more: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    with running(line) as up, Client(f"127.0.0.1:{port}") as client:
        up.wait_for("Ready: brain_tumor version 1", seconds=120)
        answers = client.stream_classify(enumerate(iter(more.get, None)))
        more.put(images.brain_slice(0))
        assert next(answers).unwrap().model.version == 1
        assert publish_copy(root, of=1) == 2
        events = client.watch_model_versions(timeout=60)
        assert (2, "READY") in ((each.version.version, enum_name(each.version, "state")) for each in events)
        assert client.get_release().labels == {"stable": 1, "candidate": 2}
        assert client.classify(images.brain_slice(1)).model.version == 1
        assert client.promote(2, reason="a test").release.labels["stable"] == 2
        assert client.classify(images.brain_slice(2)).model.version == 2
        more.put(images.brain_slice(3))
        assert next(answers).unwrap().model.version == 1
        assert client.rollback().release.labels["stable"] == 1
        assert client.classify(images.brain_slice(4)).model.version == 1
        more.put(None)
        assert list(answers) == []
        up.stop(signal.SIGTERM)
    # A second start goes on with what is released, from the file that the gateway has kept.
    assert (root / "models.config").exists()
    with running(line) as up, Client(f"127.0.0.1:{port}") as client:
        up.wait_for("Ready: brain_tumor version 1", seconds=120)
        assert client.get_release().labels == {"stable": 1, "previous": 2}
        up.stop(signal.SIGTERM)


def stray_and_linked(root: Path) -> None:
    """Beside version 1: version 5 behind links as Kubernetes mounts them, and much that is no version."""
    model = root / "brain_tumor"
    half = Path(shutil.copytree(model / "1", model / "2"))
    (half / "saved_model.pb").unlink()
    shutil.copytree(model / "1", model / "0003")
    shutil.copytree(model / "1", model / "4")
    mounted = root / "volume" / "..2024_06_01_12_00_00.1"
    shutil.copytree(model / "1", mounted)
    manifest = read_manifest(mounted)
    manifest.version = 5
    write_manifest(mounted, manifest)
    (root / "volume" / "..data").symlink_to(mounted.name)
    for path in mounted.iterdir():
        (root / "volume" / path.name).symlink_to(Path("..data") / path.name)
    (model / "5").symlink_to(root / "volume")
    (model / "6").symlink_to("nowhere")
    (model / "7").touch()
    (model / "20240101120000").mkdir()


@pytest.mark.parametrize(
    ("mode", "refused"),
    # In mode latest the model server looks at the two newest only.
    [("manual", {2, 3, 4, 6, 7, 20240101120000}), ("latest", {7, 20240101120000})],
)
def test_what_is_no_version_is_refused_by_name_and_keeps_the_sound_one_from_nothing(
    toy_repository: Path, mode: str, refused: set[int]
) -> None:
    stray_and_linked(toy_repository)
    line, port = command(toy_repository)
    with running([*line, f"--release-mode={mode}"]) as up, Client(f"127.0.0.1:{port}") as client:
        up.wait_for("Ready: brain_tumor version 5", seconds=120)
        assert client.classify(images.brain_slice()).model.version == 5
        reasons: dict[int, str] = {}
        for event in client.watch_model_versions(timeout=60):
            if enum_name(event.version, "state") == "REJECTED":
                reasons[event.version.version] = event.version.state_reason
            if reasons.keys() >= refused:
                break
        assert reasons.keys() == refused
        assert all(reasons.values())
        assert client.classify(images.brain_slice()).model.version == 5
        # A version that is published goes on as ever, its number above the stray's.
        number = publish_copy(toy_repository, of=1)
        assert number == 20240101120001
        events = client.watch_model_versions(timeout=60)
        states = ((each.version.version, enum_name(each.version, "state")) for each in events)
        assert (number, "READY") in states
        assert client.classify(images.brain_slice(), version=number).model.version == number
        assert up.stop(signal.SIGTERM) == 0
    # What the gateway has kept is enough for another start.
    with running([*line, f"--release-mode={mode}"]) as up:
        up.wait_for(f"Ready: brain_tumor version {5 if mode == 'manual' else number}", seconds=120)
        assert up.stop(signal.SIGTERM) == 0
