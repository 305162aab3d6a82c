"""Retrainings with everything around them but trainers and a release, which do as a test says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from neurogate.v1 import model_pb2, training_pb2
from neurogate_core.repository import ModelRepository
from neurogate_gateway.retraining.launcher import EVENTS_FILE, Job, JobState, JobStatus, LaunchError
from neurogate_gateway.retraining.worker import RetrainingRunner, RetrainingWorker, Setup
from neurogate_gateway.store.run import Run, RunState
from neurogate_trainer.progress import JsonLinesReporter

from .launching import MODEL, Home
from .manifests import fill_version, sound_manifest
from .stores import queue_run


@dataclass
class FakeLauncher:
    """Trainers that are what the test says they are."""

    name: str = "local"
    max_jobs: int = 1
    jobs: dict[str, Job] = field(default_factory=dict)
    statuses: dict[str, JobStatus] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)
    refusals: list[LaunchError] = field(default_factory=list)
    looks: int = 0

    async def start(self, job: Job) -> str:
        if self.refusals:
            raise self.refusals.pop(0)
        self.jobs.setdefault(job.run_id, job)
        self.statuses.setdefault(job.run_id, JobStatus(JobState.RUNNING))
        return job.run_id

    async def status(self, handle: str) -> JobStatus:
        self.looks += 1
        return self.statuses[handle]

    async def cancel(self, handle: str) -> None:
        self.cancelled.append(handle)
        self.statuses[handle] = JobStatus(JobState.ENDED, "the trainer was ended by SIGTERM")

    def close(self) -> None:
        """Nothing is held."""


@dataclass
class FakeRelease:
    """A release whose gate says what the test says."""

    accepted: bool = True
    errors: list[Exception] = field(default_factory=list)
    blocked: asyncio.Event | None = None
    promoted: list[tuple[int, str, str, bool]] = field(default_factory=list)
    policies: list[str] = field(default_factory=list)
    promotion_errors: list[Exception] = field(default_factory=list)

    def check_policy(self, text: str, version: Any, *, field: str) -> None:
        """Every policy will do."""

    async def until_ready(self, version: int, *, seconds: float) -> None:
        if self.blocked is not None:
            await self.blocked.wait()

    async def evaluate(self, version: int, extra_policy: str = "") -> model_pb2.GateReport:
        self.policies.append(extra_policy)
        if self.errors:
            raise self.errors.pop(0)
        return model_pb2.GateReport(accepted=self.accepted)

    async def promote(
        self, version: int, request: Any, *, force: bool = False, extra_policy: str = ""
    ) -> Any:
        self.policies.append(extra_policy)
        if self.promotion_errors:
            raise self.promotion_errors.pop(0)
        self.promoted.append((version, request.actor, request.request_id, force))


class RetrainingHarness:
    """A store, a runner and its launcher."""

    def __init__(self, path: Path) -> None:
        self.home = Home(path)
        self.store = self.home.open()
        self.launcher = FakeLauncher()
        self.release: FakeRelease | None = FakeRelease()
        self.hang_seconds = 600.0
        self.tasks: list[asyncio.Task[None]] = []

    def start(self, owner: str = "first") -> asyncio.Task[None]:
        """Runs a gateway's part in retrainings."""
        runner = RetrainingRunner(self._setup(owner), [self.launcher])
        self.tasks.append(asyncio.create_task(runner.run()))
        return self.tasks[-1]

    async def run_started(self, **spec: Any) -> Run:
        """A retraining whose trainer was started."""
        run = queue_run(self.store, **spec)
        self.start()
        await self.until_started(run.run_id)
        return run

    def worker(self) -> RetrainingWorker:
        """Looks after the oldest retraining without a runner, which would note changes when it likes."""
        run = self.store.leases.take_next("first", 60, launchers=["local"])
        assert run is not None
        return RetrainingWorker(run, self.launcher, self._setup("first"))

    async def stop(self, task: asyncio.Task[None]) -> None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def close(self) -> None:
        for task in self.tasks:
            await self.stop(task)
        self.store.close()

    async def until(self, run_id: str, *states: RunState) -> Run:
        async with asyncio.timeout(60):
            with self.store.notifier.waiter() as wait:
                while (run := self.store.runs.get(run_id)).state not in states:
                    await wait(5)
        return run

    async def until_started(self, run_id: str) -> Job:
        async with asyncio.timeout(60):
            with self.store.notifier.waiter() as wait:
                while run_id not in self.launcher.jobs:
                    await wait(0.02)
        return self.launcher.jobs[run_id]

    def publish(self, run_id: str, *, reported: bool = True) -> int:
        """What a trainer does in the end; `reported` whether it lived to say so."""
        repository = ModelRepository(self.home.repository)
        manifest = sound_manifest(model=MODEL)
        manifest.lineage.run_id = run_id
        with repository.staging(MODEL, run_id) as staged:
            fill_version(staged)
            version: int = repository.publish(MODEL, staged, manifest).version
        with self.reporter(run_id) as reporter:
            reporter.phase("publish")
            if reported:
                reporter.end("published", version=version)
        self.launcher.statuses[run_id] = JobStatus(JobState.ENDED, "the trainer ended with status 0")
        return version

    def reporter(self, run_id: str) -> JsonLinesReporter:
        return JsonLinesReporter(self.launcher.jobs[run_id].folder / EVENTS_FILE, interval=0)

    def events(self, run_id: str) -> list[training_pb2.RetrainingEvent]:
        events = self.store.runs.events_after(run_id, 0)
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        return events

    def states(self, run_id: str) -> list[str]:
        return [
            training_pb2.RetrainingState.Name(event.state_change.state).removeprefix("RETRAINING_STATE_")
            for event in self.events(run_id)
            if event.WhichOneof("event") == "state_change"
        ]

    def _setup(self, owner: str) -> Setup:
        return Setup(
            store=self.store,
            owner=owner,
            jobs=self.home.jobs(),
            promoter=self.release,
            hang_seconds=self.hang_seconds,
        )


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[RetrainingHarness]:
    harness = RetrainingHarness(tmp_path)
    yield harness
    await harness.close()
