"""What a Ray cluster that does not answer does to a gateway; jobs on a real one are a system test."""

import asyncio
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from neurogate_gateway.training.launching import Job, JobState, LaunchError
from neurogate_gateway.training.ray_jobs import RayLauncher


class HangingClient:
    """Ray's client at a dashboard that answers when the test says so."""

    def __init__(self):
        self.answers = threading.Event()
        self.asked = threading.Semaphore(0)

    def get_job_info(self, handle):
        self.asked.release()
        assert self.answers.wait(60)
        return SimpleNamespace(status=SimpleNamespace(value="RUNNING"), message="")


class NoThreads(ThreadPoolExecutor):
    """The event loop's own threads, all of them busy."""

    def submit(self, *args, **kwargs):
        raise AssertionError("there is no thread")


@pytest.fixture
def client(monkeypatch):
    client = HangingClient()
    monkeypatch.setattr("neurogate_gateway.training.ray_jobs._client", lambda address: client)
    yield client
    client.answers.set()


async def test_a_dashboard_that_hangs_is_not_waited_for_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr("neurogate_gateway.training.ray_jobs._ANSWER_SECONDS", 0.2)
    # The kernel takes connections, and nobody ever answers.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        launcher = RayLauncher(f"http://127.0.0.1:{silent.getsockname()[1]}", cpus=1, gpus=0)
        with pytest.raises(LaunchError, match="the Ray cluster at") as hung:
            await launcher.start(Job("a", (sys.executable,), tmp_path))
        launcher.close()
    assert hung.value.passing


async def test_a_dashboard_that_hangs_takes_no_threads_from_others(client):
    launcher = RayLauncher("http://ray.invalid", cpus=1, gpus=0)
    asyncio.get_running_loop().set_default_executor(NoThreads())
    looks = [asyncio.create_task(launcher.status(str(n))) for n in range(launcher.at_once)]
    # Lets every one of them ask before any is answered.
    await asyncio.sleep(0)
    assert all(client.asked.acquire(timeout=60) for _ in looks)
    client.answers.set()
    assert {status.state for status in await asyncio.gather(*looks)} == {JobState.RUNNING}
    launcher.close()


async def test_a_closed_launcher_waits_for_no_answer_and_asks_no_more(client):
    launcher = RayLauncher("http://ray.invalid", cpus=1, gpus=0)
    look = asyncio.create_task(launcher.status("a"))
    await asyncio.sleep(0)
    assert client.asked.acquire(timeout=60)
    launcher.close()
    with pytest.raises(LaunchError):
        await launcher.status("b")
    client.answers.set()
    assert (await look).state is JobState.RUNNING
