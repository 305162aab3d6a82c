"""What a Ray cluster that does not answer does to a gateway; jobs on a real one are a system test."""

import socket
import sys

import pytest
from neurogate_gateway.training.launching import Job, LaunchError
from neurogate_gateway.training.ray_jobs import RayLauncher


async def test_a_dashboard_that_hangs_is_not_waited_for_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr("neurogate_gateway.training.ray_jobs._ANSWER_SECONDS", 0.2)
    # The kernel takes connections, and nobody ever answers.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        launcher = RayLauncher(f"http://127.0.0.1:{silent.getsockname()[1]}", cpus=1, gpus=0)
        with pytest.raises(LaunchError, match="the Ray cluster at") as hung:
            await launcher.start(Job("a", (sys.executable,), tmp_path))
    assert hung.value.passing
