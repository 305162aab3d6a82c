"""Trainers as jobs of a Ray cluster of two nodes, which the tests start on this machine and end."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from neurogate_gateway.retraining.launcher import Job, JobState, JobStatus, log_tail
from neurogate_gateway.retraining.launcher_ray import RayLauncher
from neurogate_testing.processes import RunningProcess, free_port, script

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

START_SECONDS = 240.0
MARK = "NEUROGATE_TEST_RAY_CLUSTER"
FOREVER = "import time\nwhile True: time.sleep(0.05)"


def end_all(mark: str) -> None:
    """Ends whatever was started with this mark in its environment; Ray's processes do not stay children."""

    wanted = f"{MARK}={mark}/".encode()

    def ours() -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            # Not by psutil, for which an environment ends where Ray's new names for its processes leave gaps.
            with contextlib.suppress(OSError):
                entries = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
                if any(entry.startswith(wanted) for entry in entries):
                    found.append(process)
        return found

    # Some start others until they are gone themselves.
    while left := ours():
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=5)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The dashboard of a cluster of two nodes with one core each."""
    # Sockets below it have to fit into 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="nr-"))
    environment = {
        "RAY_raylet_start_wait_time_s": "40",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    port, dashboard = free_port(), free_port()

    nodes: list[RunningProcess] = []
    give_up = time.monotonic() + START_SECONDS

    def start(*options: str) -> None:
        agents = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port")
        ports = [f"--{name}={free_port()}" for name in (*agents, "metrics-export-port")]
        command = [script("ray"), "start", "--block", "--disable-usage-stats", "--node-ip-address=127.0.0.1"]
        command += ["--num-cpus=1", "--object-store-memory=80000000", *ports, *options]
        mark = f"{folder}/{len(nodes)}"
        nodes.append(RunningProcess(command, env={**environment, MARK: f"{mark}/"}))
        try:
            nodes[-1].wait_for("Ray runtime started", seconds=max(1.0, give_up - time.monotonic()))
        except AssertionError:
            end_all(mark)
            raise

    def start_in_the_end(*options: str) -> None:
        """A node whose helpers take longer than 15 s gives up, which happens on a busy machine."""
        while True:
            try:
                return start(*options)
            except AssertionError as error:
                if time.monotonic() >= give_up:
                    pytest.skip(f"Ray starts no cluster on this machine within {START_SECONDS:g} s: {error}")

    try:
        head = ["--head", f"--port={port}", f"--dashboard-port={dashboard}", f"--temp-dir={folder}"]
        start_in_the_end(*head, "--dashboard-host=127.0.0.1")
        start_in_the_end(f"--address=127.0.0.1:{port}")
        yield f"http://127.0.0.1:{dashboard}"
    finally:
        end_all(str(folder))
        for node in nodes:
            node.stop()
        shutil.rmtree(folder, ignore_errors=True)


class Cluster:
    """A launcher and a folder that all nodes see."""

    def __init__(self, address: str, folder: Path) -> None:
        self.launcher = RayLauncher(address, cpus=1, gpus=0)
        self.folder = folder

    async def start(self, name: str, code: str) -> str:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return await self.launcher.start(Job(f"{name}-{id(self):x}", (sys.executable, "-c", code), folder))

    async def until(self, handle: str, *states: JobState) -> JobStatus:
        async with asyncio.timeout(240):
            while True:
                if (status := await self.launcher.status(handle)).state in states:
                    return status
                await asyncio.sleep(0.2)


@pytest.fixture
def cluster(address: str, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(address, tmp_path)
    yield cluster
    cluster.launcher.close()


async def test_jobs_run_on_both_nodes_wait_for_room_and_end_when_asked(cluster: Cluster) -> None:
    first, second = await cluster.start("a", FOREVER), await cluster.start("b", FOREVER)
    await cluster.until(first, JobState.RUNNING)
    await cluster.until(second, JobState.RUNNING)
    third = await cluster.start("c", "print('my turn')")
    assert (await cluster.launcher.status(third)).state is JobState.WAITING
    # A submission whose answer was lost, and a gateway that comes back.
    assert await cluster.start("a", FOREVER) == first
    await cluster.launcher.cancel(first)
    await cluster.launcher.cancel(first)
    assert "STOPPED" in (await cluster.until(first, JobState.ENDED)).reason
    await cluster.until(third, JobState.ENDED)
    assert log_tail(cluster.folder / "c") == "my turn"
    await cluster.launcher.cancel(second)
    await cluster.until(second, JobState.ENDED)


async def test_a_job_that_fails_says_so(cluster: Cluster) -> None:
    handle = await cluster.start("a", "import sys\nsys.exit('out of luck')")
    status = await cluster.until(handle, JobState.ENDED)
    assert "FAILED" in status.reason
    assert log_tail(cluster.folder / "a") == "out of luck"
