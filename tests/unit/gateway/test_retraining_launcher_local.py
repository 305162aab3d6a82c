"""Trainers as processes of this machine: started once, bounded, found again, and ended without a rest."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from neurogate_gateway.retraining import trainer_supervisor
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


class Jobs:
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

    def supervisor(self, handle: str) -> int:
        return json.loads(handle)["supervisor"]["pid"]

    def trainer(self, handle: str) -> int:
        pid = self.supervisor(handle)
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
                    os.kill(self.supervisor(handle), signal.SIGKILL)
            await self.until(handle, JobState.ENDED, JobState.LOST)


@pytest.fixture
async def jobs(tmp_path):
    jobs = Jobs(tmp_path)
    yield jobs
    await jobs.close()


async def test_an_ended_trainer_has_a_reason_and_a_log(jobs):
    handle = await jobs.start("a", python("print('working'); raise SystemExit(3)"))
    status = await jobs.until(handle, JobState.ENDED)
    assert status.reason == "the trainer ended with status 3"
    assert log_tail(jobs.path / "a") == "working"


@pytest.mark.parametrize("handle_known", [True, False])
async def test_a_trainer_that_an_older_gateway_has_started_is_found(jobs, handle_known):
    handle = await jobs.start("a", FOREVER)
    folder = jobs.path / "a"
    # As the gateways before named it.
    (folder / "supervisor.json").rename(folder / "keeper.json")
    before = json.dumps({"folder": str(folder), "keeper": json.loads(handle)["supervisor"]})
    found = before if handle_known else await jobs.start("a", FOREVER)
    assert not (folder / "supervisor.json").exists()
    await jobs.until(found, JobState.RUNNING)
    await jobs.launcher.cancel(found)
    status = await jobs.until(found, JobState.ENDED)
    assert status.reason == "the trainer was ended by SIGTERM"


async def test_a_job_is_started_once_and_found_by_another_gateway(jobs):
    handle = await jobs.start("a", FOREVER)
    await jobs.until(handle, JobState.RUNNING)
    assert await jobs.start("a", FOREVER) == handle
    other = LocalLauncher(cores=0, memory_bytes=0)
    assert await other.start(Job("a", FOREVER, jobs.path / "a")) == handle
    assert (await other.status(handle)).state is JobState.RUNNING
    await other.cancel(handle)
    status = await jobs.until(handle, JobState.ENDED)
    assert status.reason == "the trainer was ended by SIGTERM"
    # What has ended is not started again.
    assert await jobs.start("a", FOREVER) == handle
    assert (await jobs.launcher.status(handle)).state is JobState.ENDED


async def test_many_who_start_one_job_at_once_start_one(jobs):
    launchers = [LocalLauncher(cores=0, memory_bytes=0) for _ in range(8)]
    (jobs.path / "a").mkdir()
    job = Job("a", FOREVER, jobs.path / "a")
    handles = await asyncio.gather(*(launcher.start(job) for launcher in launchers))
    jobs.handles.append(handles[0])
    assert len(set(handles)) == 1


async def test_a_trainer_comes_last_on_the_machine(tmp_path):
    jobs = Jobs(tmp_path, cores=1)
    handle = await jobs.start("a", FOREVER)
    await jobs.until(handle, JobState.RUNNING)
    pid = await jobs.bounded(handle)
    assert os.sched_getscheduler(pid) == os.SCHED_BATCH
    assert os.getpriority(os.PRIO_PROCESS, pid) == 19
    assert len(os.sched_getaffinity(pid)) == 1
    assert os.getsid(pid) == jobs.supervisor(handle) != os.getsid(0)
    await jobs.close()


async def test_one_trainer_at_a_time_and_the_next_when_it_has_ended(jobs):
    first = await jobs.start("a", FOREVER)
    await jobs.until(first, JobState.RUNNING)
    second = await jobs.start("b", FOREVER)
    third = await jobs.start("c", FOREVER)
    assert (await jobs.launcher.status(second)).state is JobState.WAITING
    await jobs.launcher.cancel(third)
    assert (await jobs.until(third, JobState.ENDED)).reason == "the trainer was ended by SIGTERM"
    assert not (jobs.path / "c" / "started").exists()
    await jobs.launcher.cancel(first)
    await jobs.until(second, JobState.RUNNING)


async def test_too_much_memory_is_the_end(tmp_path):
    jobs = Jobs(tmp_path, memory_bytes=200 * 2**20)
    handle = await jobs.start(
        "a", python("held = b'x' * (300 << 20)\nimport time\nwhile True: time.sleep(1)")
    )
    status = await jobs.until(handle, JobState.ENDED)
    assert "MiB of memory, the limit is 200 MiB, so it was killed" in status.reason


async def test_a_trainer_that_does_not_end_is_killed(jobs, monkeypatch):
    monkeypatch.setattr("neurogate_gateway.retraining.launcher_local._GRACE_SECONDS", 0.2)
    handle = await jobs.start("a", STUBBORN)
    await poll(lambda: asyncio.to_thread(log_tail, jobs.path / "a"), "deaf".__eq__)
    await jobs.launcher.cancel(handle)
    status = await jobs.until(handle, JobState.ENDED)
    assert status.reason == "it did not end when it was asked to, so it was killed"


async def test_a_killed_supervisor_takes_its_trainer_along(jobs):
    handle = await jobs.start("a", FOREVER)
    await jobs.until(handle, JobState.RUNNING)
    pid = await jobs.bounded(handle)
    os.kill(jobs.supervisor(handle), signal.SIGKILL)
    status = await jobs.until(handle, JobState.LOST)
    assert "supervisor was killed" in status.reason
    await poll(lambda: asyncio.to_thread(alive, pid), lambda lives: not lives)
    await jobs.launcher.cancel(handle)


async def test_a_process_id_that_another_process_has_now_is_not_the_job(jobs):
    (jobs.path / "a").mkdir()
    ours = trainer_supervisor.identity(os.getpid())
    handle = json.dumps({"folder": str(jobs.path / "a"), "supervisor": {**ours, "start": ours["start"] - 1}})
    assert (await jobs.launcher.status(handle)).state is JobState.LOST
    # Would end this test run.
    await jobs.launcher.cancel(handle)


async def test_a_command_or_folder_that_is_not_there_has_its_error(jobs):
    handle = await jobs.start("a", ("/nowhere/trainer",))
    status = await jobs.until(handle, JobState.ENDED)
    assert "the trainer cannot be started: " in status.reason
    with pytest.raises(LaunchError, match="cannot be started"):
        await jobs.launcher.start(Job("a", FOREVER, jobs.path / "nowhere"))


async def test_whatever_the_trainer_has_started_ends_with_it(jobs):
    script = jobs.path / "trainer"
    script.write_text(f"#!/bin/sh\n{sys.executable} -c 'import time; time.sleep(3600)' &\necho $!\nwait\n")
    script.chmod(0o755)
    handle = await jobs.start("a", (str(script),))
    number = await poll(lambda: asyncio.to_thread(log_tail, jobs.path / "a"), str.isdigit)
    assert alive(int(number))
    await jobs.launcher.cancel(handle)
    await jobs.until(handle, JobState.ENDED)
    await poll(lambda: asyncio.to_thread(alive, int(number)), lambda lives: not lives)


async def test_a_supervisor_that_is_late_may_be_found_the_next_time(jobs, monkeypatch):
    monkeypatch.setattr("neurogate_gateway.retraining.launcher_local._START_SECONDS", 0.0001)
    with pytest.raises(LaunchError, match="did not start within") as late:
        await jobs.start("a", FOREVER)
    assert late.value.transient
    monkeypatch.undo()
    await jobs.until(await jobs.start("a", FOREVER), JobState.RUNNING)
