"""Servers that do not become ready are not left behind."""

from __future__ import annotations

import sys

import pytest
from neurogate_bench import processes
from neurogate_bench.processes import Server, ServerError


@pytest.fixture
def sleeper(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "LOGS", tmp_path)
    with Server("sleeper", [sys.executable, "-c", "import time; time.sleep(60)"]) as server:
        yield server


def test_a_wait_that_is_interrupted_ends_the_server(sleeper):
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sleeper.wait_until(interrupt)
    assert not sleeper.alive()


def test_a_server_that_is_late_is_ended_and_named(sleeper):
    with pytest.raises(ServerError, match="sleeper was not ready after"):
        sleeper.wait_until(lambda: False, seconds=0)
    assert not sleeper.alive()


def test_cpu_time_only_grows_and_survives_the_end(sleeper):
    before = sleeper.cpu_seconds()
    sleeper.stop()
    assert sleeper.cpu_seconds() >= before >= 0
