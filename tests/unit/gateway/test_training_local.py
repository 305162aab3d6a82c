"""Trainers as processes of this machine: started once, bounded, found again, and ended without a rest."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from neurogate_gateway.retraining import trainer_supervisor as _keeper
from neurogate_gateway.retraining.launcher import Job, JobState, LaunchError, log_tail
from neurogate_gateway.retraining.launcher_local import LocalLauncher
from neurogate_testing.launching import alive


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


FOREVER = python("import time\nwhile True: time.sleep(0.05)")
STUBBORN = python(
    "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf', flush=True)\n"
    "while True: time.sleep(0.05)"
)


async def poll(look, accept):
    """The first answer that will do."""
    async with asyncio.timeout(60):
        while True:
            answer = await look()
            if accept(answer):
                return answer
            await asyncio.sleep(0.02)


class Bench:
    """A launcher and its jobs, all ended afterwards."""

    def __init__(self, path, **options):
        self.path = path
        self.launcher = LocalLauncher(**({"cores": 0, "memory_bytes": 0} | options))
        self.handles: list[str] = []

    async def start(self, name: str, command: tuple[str, ...]) -> str:
        folder = self.path / name
        folder.mkdir(exist_ok=True)
        handle = await self.launcher.start(Job(name, command, folder))
        self.handles.append(handle)
        return handle

    async def until(self, handle: str, *states: JobState):
        return await poll(lambda: self.launcher.status(handle), lambda status: status.state in states)

    def keeper(self, handle: str) -> int:
        return json.loads(handle)["keeper"]["pid"]

    def trainer(self, handle: str) -> int:
        pid = self.keeper(handle)
        (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(child)

    async def bounded(self, handle: str) -> int:
        """The trainer's process id, once all its bounds are set."""

        def look() -> str:
            try:
                return Path(f"/proc/{self.trainer(handle)}/oom_score_adj").read_text()
            except (ValueError, OSError):
                return ""

        await poll(lambda: asyncio.to_thread(look), lambda adjustment: adjustment == "800\n")
        return self.trainer(handle)

    async def close(self) -> None:
        for handle in self.handles:
            with contextlib.suppress(ProcessLookupError):
                if not (await self.launcher.status(handle)).over:
                    os.kill(self.keeper(handle), signal.SIGKILL)
            await self.until(handle, JobState.ENDED, JobState.LOST)


@pytest.fixture
async def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    await bench.close()


async def test_the_end_is_told_with_what_was_written(bench):
    handle = await bench.start("a", python("print('working'); raise SystemExit(3)"))
    status = await bench.until(handle, JobState.ENDED)
    assert status.reason == "the trainer ended with status 3"
    assert log_tail(bench.path / "a") == "working"


async def test_a_job_is_started_once_and_found_by_another_gateway(bench):
    handle = await bench.start("a", FOREVER)
    await bench.until(handle, JobState.RUNNING)
    assert await bench.start("a", FOREVER) == handle
    other = LocalLauncher(cores=0, memory_bytes=0)
    assert await other.start(Job("a", FOREVER, bench.path / "a")) == handle
    assert (await other.status(handle)).state is JobState.RUNNING
    await other.cancel(handle)
    status = await bench.until(handle, JobState.ENDED)
    assert status.reason == "the trainer was ended by SIGTERM"
    # What has ended is not started again.
    assert await bench.start("a", FOREVER) == handle
    assert (await bench.launcher.status(handle)).state is JobState.ENDED


async def test_many_who_start_one_job_at_once_start_one(bench):
    launchers = [LocalLauncher(cores=0, memory_bytes=0) for _ in range(8)]
    (bench.path / "a").mkdir()
    job = Job("a", FOREVER, bench.path / "a")
    handles = await asyncio.gather(*(launcher.start(job) for launcher in launchers))
    bench.handles.append(handles[0])
    assert len(set(handles)) == 1


async def test_a_trainer_comes_last_on_the_machine(tmp_path):
    bench = Bench(tmp_path, cores=1)
    handle = await bench.start("a", FOREVER)
    await bench.until(handle, JobState.RUNNING)
    pid = await bench.bounded(handle)
    assert os.sched_getscheduler(pid) == os.SCHED_BATCH
    assert os.getpriority(os.PRIO_PROCESS, pid) == 19
    assert len(os.sched_getaffinity(pid)) == 1
    assert os.getsid(pid) == bench.keeper(handle) != os.getsid(0)
    await bench.close()


async def test_one_trainer_at_a_time_and_the_next_when_it_has_ended(bench):
    first = await bench.start("a", FOREVER)
    await bench.until(first, JobState.RUNNING)
    second = await bench.start("b", FOREVER)
    third = await bench.start("c", FOREVER)
    assert (await bench.launcher.status(second)).state is JobState.WAITING
    await bench.launcher.cancel(third)
    assert (await bench.until(third, JobState.ENDED)).reason == "the trainer was ended by SIGTERM"
    assert not (bench.path / "c" / "started").exists()
    await bench.launcher.cancel(first)
    await bench.until(second, JobState.RUNNING)


async def test_too_much_memory_is_the_end(tmp_path):
    bench = Bench(tmp_path, memory_bytes=200 * 2**20)
    handle = await bench.start(
        "a", python("held = b'x' * (300 << 20)\nimport time\nwhile True: time.sleep(1)")
    )
    status = await bench.until(handle, JobState.ENDED)
    assert "MiB of memory, the limit is 200 MiB, so it was killed" in status.reason


async def test_a_trainer_that_does_not_end_is_killed(bench, monkeypatch):
    monkeypatch.setattr("neurogate_gateway.retraining.launcher_local._GRACE_SECONDS", 0.2)
    handle = await bench.start("a", STUBBORN)
    await poll(lambda: asyncio.to_thread(log_tail, bench.path / "a"), "deaf".__eq__)
    await bench.launcher.cancel(handle)
    status = await bench.until(handle, JobState.ENDED)
    assert status.reason == "it did not end when it was asked to, so it was killed"


async def test_a_killed_keeper_takes_its_trainer_along(bench):
    handle = await bench.start("a", FOREVER)
    await bench.until(handle, JobState.RUNNING)
    pid = await bench.bounded(handle)
    os.kill(bench.keeper(handle), signal.SIGKILL)
    status = await bench.until(handle, JobState.LOST)
    assert "keeper was killed" in status.reason
    await poll(lambda: asyncio.to_thread(alive, pid), lambda lives: not lives)
    await bench.launcher.cancel(handle)


async def test_a_number_that_belongs_to_another_process_now_is_not_taken_for_the_job(bench):
    (bench.path / "a").mkdir()
    ours = _keeper.identity(os.getpid())
    handle = json.dumps({"folder": str(bench.path / "a"), "keeper": {**ours, "start": ours["start"] - 1}})
    assert (await bench.launcher.status(handle)).state is JobState.LOST
    # Would end this test run.
    await bench.launcher.cancel(handle)


async def test_a_command_that_is_not_there_is_told(bench):
    handle = await bench.start("a", ("/nowhere/trainer",))
    status = await bench.until(handle, JobState.ENDED)
    assert "the trainer cannot be started: " in status.reason


async def test_a_folder_that_is_not_there_is_told(bench):
    with pytest.raises(LaunchError, match="cannot be started"):
        await bench.launcher.start(Job("a", FOREVER, bench.path / "nowhere"))


async def test_whatever_the_trainer_has_started_ends_with_it(bench):
    script = bench.path / "trainer"
    script.write_text(f"#!/bin/sh\n{sys.executable} -c 'import time; time.sleep(3600)' &\necho $!\nwait\n")
    script.chmod(0o755)
    handle = await bench.start("a", (str(script),))
    number = await poll(lambda: asyncio.to_thread(log_tail, bench.path / "a"), str.isdigit)
    assert alive(int(number))
    await bench.launcher.cancel(handle)
    await bench.until(handle, JobState.ENDED)
    await poll(lambda: asyncio.to_thread(alive, int(number)), lambda lives: not lives)


async def test_a_keeper_that_is_late_may_be_found_the_next_time(bench, monkeypatch):
    monkeypatch.setattr("neurogate_gateway.retraining.launcher_local._START_SECONDS", 0.0001)
    with pytest.raises(LaunchError, match="did not start within") as late:
        await bench.start("a", FOREVER)
    assert late.value.passing
    monkeypatch.undo()
    await bench.until(await bench.start("a", FOREVER), JobState.RUNNING)


def test_a_log_is_text_that_every_database_holds(tmp_path):
    (tmp_path / "trainer.log").write_bytes(b"a\0b\xff\n")
    assert log_tail(tmp_path) == "a\ufffdb\ufffd"
