"""What a Ray cluster that does not answer does to a gateway; jobs on a real one are a system test."""

import asyncio
import json
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import ray
from neurogate_gateway.retraining.launcher import Job, JobState, LaunchError
from neurogate_gateway.retraining.launcher_ray import RayLauncher
from neurogate_testing.processes import free_port


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
    monkeypatch.setattr("neurogate_gateway.retraining.launcher_ray._client", lambda address: client)
    yield client
    client.answers.set()


async def test_a_dashboard_that_hangs_or_is_not_there_may_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr("neurogate_gateway.retraining.launcher_ray._ANSWER_SECONDS", 0.2)
    # The kernel takes connections, and no process answers.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        launcher = RayLauncher(f"http://127.0.0.1:{silent.getsockname()[1]}", cpus=1, gpus=0)
        with pytest.raises(LaunchError, match="the Ray cluster at") as hung:
            await launcher.start(Job("a", (sys.executable,), tmp_path))
        launcher.close()
    assert hung.value.transient
    launcher = RayLauncher(f"http://127.0.0.1:{free_port()}", cpus=1, gpus=0)
    with pytest.raises(LaunchError, match="the Ray cluster at") as refused:
        await launcher.start(Job("a", (sys.executable,), tmp_path))
    assert refused.value.transient
    launcher.close()


class Dashboard(BaseHTTPRequestHandler):
    """The paths of Ray's dashboard that its client asks, over the jobs of a test."""

    broken = False

    def do_GET(self):
        self.asked.append(("GET", self.path))
        job = self.path.removeprefix("/api/jobs/")
        if self.path == "/api/version":
            self._answer(200, json.dumps({"version": "4", "ray_version": ray.__version__, "ray_commit": ""}))
        elif self.broken:
            self._answer(500, "port 40404 is taken")
        elif job in self.jobs:
            self._answer(
                200,
                json.dumps(
                    {"type": "SUBMISSION", "submission_id": job, "status": "RUNNING"} | self.jobs[job]
                ),
            )
        else:
            self._answer(404, f"Job {job} does not exist")

    def do_POST(self):
        self.asked.append(("POST", self.path))
        submitted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.jobs[submitted["submission_id"]] = {"entrypoint": submitted["entrypoint"]}
        self._answer(
            200,
            json.dumps({"job_id": submitted["submission_id"], "submission_id": submitted["submission_id"]}),
        )

    def log_message(self, *_):
        pass

    def _answer(self, status, text):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


@pytest.fixture
def dashboard():
    handler = type("Handler", (Dashboard,), {"jobs": {}, "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        handler.address = f"http://127.0.0.1:{server.server_port}"
        yield handler
        server.shutdown()
        thread.join()


async def test_a_job_is_looked_up_by_its_name_and_submitted_once(dashboard, tmp_path):
    launcher = RayLauncher(dashboard.address, cpus=0, gpus=0)
    job = Job("a" * 32, (sys.executable, "-V"), tmp_path)
    assert await launcher.start(job) == job.run_id
    assert await launcher.start(job) == job.run_id
    assert (await launcher.status(job.run_id)).state is JobState.RUNNING
    assert [path for method, path in dashboard.asked if method == "POST"] == ["/api/jobs/"]
    # Never the list of all jobs that the cluster has seen.
    assert ("GET", "/api/jobs/") not in dashboard.asked
    launcher.close()


async def test_a_job_is_gone_only_where_the_dashboard_answers_404(dashboard):
    launcher = RayLauncher(dashboard.address, cpus=0, gpus=0)
    assert (await launcher.status("a" * 32)).state is JobState.LOST
    dashboard.broken = True
    with pytest.raises(LaunchError, match="40404"):
        await launcher.status("a" * 32)
    launcher.close()


async def test_a_dashboard_that_hangs_takes_no_threads_from_others(client):
    launcher = RayLauncher("http://ray.invalid", cpus=1, gpus=0)
    asyncio.get_running_loop().set_default_executor(NoThreads())
    looks = [asyncio.create_task(launcher.status(str(n))) for n in range(launcher.max_jobs)]
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
