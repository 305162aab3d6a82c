"""The gateway's part in retrainings: takes them from the queue, and sees each from its state to its end.

Every step begins from the state, does what may be repeated, and moves on; so a gateway that takes over does
what one that goes on would do.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

from google.rpc import code_pb2
from neurogate.v1 import error_pb2, model_pb2

from neurogate_gateway.errors import EtagMismatchError, GateRefusedError, GatewayError
from neurogate_gateway.observability.logging import log
from neurogate_gateway.release.promotion import ChangeRequest, VersionPromoter
from neurogate_gateway.store.run import LeaseLostError, Run, RunState, StateConflictError
from neurogate_gateway.store.store import Store

from .launcher import EVENTS_FILE, JobState, JobStatus, Launcher, LaunchError, TrainerJobs, log_tail
from .trainer_events import TrainerEventReader

_LEASE_SECONDS: Final = 15.0
_QUEUE_SECONDS: Final = 1.0
_PAUSE_SECONDS: Final = 0.2
"""Least time between two looks at the queue, however often something changes."""
_TRAINER_SECONDS: Final = 0.5
_RETRY_SECONDS: Final = 2.0
_READY_SECONDS: Final = 600.0
"""For a published version to become READY, and for the model servers to answer the gate."""
_MAX_PROMOTIONS: Final = 5
"""How often a promotion is tried that meets another change of the release each time."""

_T = TypeVar("_T")


def _new_owner() -> str:
    return f"{os.uname().nodename}/{os.getpid()}/{os.urandom(4).hex()}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What all retrainings of one gateway run on.

    Attributes:
        store: Where they are recorded.
        owner: This gateway, as their leases have it; no other process has the same name.
        jobs: Makes their jobs.
        promoter: The release; None where this gateway has none, and versions are then taken as they come.
        hang_seconds: A trainer without an event for so long is ended.
    """

    store: Store
    jobs: TrainerJobs
    promoter: VersionPromoter | None
    hang_seconds: float
    owner: str = dataclasses.field(default_factory=_new_owner)


class RetrainingRunner:
    """Runs a worker for every retraining that this gateway has leased."""

    def __init__(self, setup: Setup, launchers: Sequence[Launcher]) -> None:
        self._setup = setup
        self._launchers = {launcher.name: launcher for launcher in launchers}
        self._workers: dict[str, tuple[RetrainingWorker, asyncio.Task[None]]] = {}

    async def run(self) -> None:
        """Works until it is cancelled; trainers then go on, for another gateway to look after."""
        try:
            with self._setup.store.notifier.waiter() as wait:
                while True:
                    try:
                        await self._take()
                    except Exception as error:  # noqa: BLE001 - the next look may find the database well again
                        log(logging.ERROR, "retrainings_not_taken", error=error)
                    await asyncio.sleep(_PAUSE_SECONDS)
                    await wait(_QUEUE_SECONDS)
        finally:
            await self._release()

    async def _take(self) -> None:
        """Renews the leases, takes over what was left behind, and begins what may begin."""
        store, owner = self._setup.store, self._setup.owner
        names = sorted(self._launchers)
        for run in await store.run(store.leases.take_expired, owner, _LEASE_SECONDS, launchers=names):
            self._look_after(run)
        for name, launcher in self._launchers.items():
            while (
                sum(worker.launcher is launcher for worker, _ in self._workers.values()) < launcher.max_jobs
            ):
                taken = await store.run(store.leases.take_next, owner, _LEASE_SECONDS, launchers=[name])
                if taken is None:
                    break
                self._look_after(taken)

    def _look_after(self, run: Run) -> None:
        if run.run_id in self._workers:
            self._workers[run.run_id][0].note(run)
            return
        worker = RetrainingWorker(run, self._launchers[run.launcher], self._setup)
        task = asyncio.create_task(worker.run())
        self._workers[run.run_id] = (worker, task)
        task.add_done_callback(lambda done: self._ended(run.run_id, done))

    def _ended(self, run_id: str, task: asyncio.Task[None]) -> None:
        del self._workers[run_id]
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, LeaseLostError):
            log(logging.WARNING, "retraining_taken_over", retraining=run_id, message=str(error))
        elif error is not None:
            # The lease is still held, so the next look takes it up where it stands.
            log(logging.ERROR, "retraining_interrupted", retraining=run_id, error=error)

    async def _release(self) -> None:
        workers = dict(self._workers)
        for _, task in workers.values():
            task.cancel()
        if workers:
            await asyncio.wait([task for _, task in workers.values()])
        store = self._setup.store
        for run_id in workers:
            with contextlib.suppress(Exception):
                await store.run(store.leases.release, run_id, self._setup.owner)


class RetrainingWorker:
    """Looks after one retraining that this gateway has leased."""

    def __init__(self, run: Run, launcher: Launcher, setup: Setup) -> None:
        self.launcher = launcher
        self._run = run
        self._setup = setup
        self._store = setup.store
        self._cancelled = asyncio.Event()
        self.note(run)

    def note(self, run: Run) -> None:
        """Takes note of a cancellation that a caller has asked for."""
        if run.cancel_requested:
            self._cancelled.set()

    async def run(self) -> None:
        """Does all that is left to do.

        Raises:
            LeaseLostError: Another gateway looks after it now.
            GatewayError: The records cannot be written now; to be tried again.
        """
        steps = {
            RunState.QUEUED: self._begin,
            RunState.RUNNING: self._train,
            RunState.EVALUATING: self._evaluate,
            RunState.PUBLISHING: self._publish,
        }
        try:
            while not self._run.state.ended:
                await steps[self._run.state]()
        except StateConflictError as conflict:
            # A caller cancelled it before it began.
            if not conflict.run.state.ended:
                raise
            self._run = conflict.run
        state, version = self._run.state.value, self._run.version
        log(logging.INFO, "retraining_ended", retraining=self._run.run_id, state=state, version=version)

    async def _begin(self) -> None:
        # RUNNING before there is a trainer: from now on its owner carries out a cancellation.
        await self._move(RunState.CANCELLED if self._cancelled.is_set() else RunState.RUNNING)

    async def _train(self) -> None:
        try:
            handle = self._run.handle or await self._launch()
        except LaunchError as error:
            if await self._is_cancelled():
                await self._move(RunState.CANCELLED)
            else:
                await self._move(RunState.FAILED, error=f"the trainer could not be started: {error}")
            return
        folder = self._setup.jobs.folder(self._run.run_id)
        reader = TrainerEventReader(folder / EVENTS_FILE)
        status, verdict = await self._follow(handle, reader)
        version = reader.end.version if reader.end is not None else 0
        # A trainer that was killed right after its publication could not say so any more.
        version = version or await asyncio.to_thread(self._setup.jobs.published_by, self._run.run_id)
        if self._cancelled.is_set():
            await self._move(RunState.CANCELLED, version=version or None)
        elif version:
            await self._move(RunState.EVALUATING, version=version)
        else:
            said = reader.end.reason if reader.end is not None and reader.end.outcome == "failed" else ""
            why = "; ".join(part for part in (verdict, said, status.reason) if part)
            tail = await asyncio.to_thread(log_tail, folder)
            await self._move(RunState.FAILED, error=f"{why}\n{tail}".strip())

    async def _launch(self) -> str:
        give_up = time.monotonic() + self._setup.hang_seconds
        examples = await self._store.run(self._store.runs.examples, self._run.run_id)
        job = await asyncio.to_thread(self._setup.jobs.make, self._run, examples)
        while True:
            try:
                handle = await self.launcher.start(job)
                break
            except LaunchError as error:
                # A cancellation does not stop this: the trainer may run, since only the answer may have been
                # lost, and it cannot be ended without its handle.
                if not error.transient or time.monotonic() > give_up:
                    raise
                await asyncio.sleep(_RETRY_SECONDS)
        set_handle = self._store.leases.set_handle
        self._run = await self._store.run(set_handle, self._run.run_id, self._setup.owner, handle)
        log(logging.INFO, "trainer_started", retraining=self._run.run_id, launcher=self.launcher.name)
        return handle

    async def _follow(self, handle: str, reader: TrainerEventReader) -> tuple[JobStatus, str]:
        """Records events until the trainer has ended; returns how, and what this gateway has to add."""
        hang_seconds = self._setup.hang_seconds
        last_event = last_status = time.monotonic()
        verdict = ""
        while True:
            status: JobStatus | None = None
            try:
                status = await self.launcher.status(handle)
                last_status = time.monotonic()
                if (self._cancelled.is_set() or verdict) and not status.over:
                    await self.launcher.cancel(handle)
            except LaunchError as error:
                if time.monotonic() - last_status > hang_seconds:
                    return JobStatus(JobState.LOST, str(error)), "nothing is known of the trainer any longer"
            # After the status, so that what an ended trainer has written is complete.
            while events := await asyncio.to_thread(reader.read):
                last_event = time.monotonic()
                append = self._store.runs.append_trainer_events
                await self._store.run(append, self._run.run_id, events, owner=self._setup.owner)
            if status is not None and status.over:
                return status, verdict
            if status is not None and status.state is JobState.WAITING:
                last_event = time.monotonic()
            elif not verdict and time.monotonic() - last_event > hang_seconds:
                verdict = f"the trainer hung: no event for {hang_seconds / 60:.3g} minutes"
                log(logging.WARNING, "trainer_hangs", retraining=self._run.run_id)
            await asyncio.sleep(_TRAINER_SECONDS)

    async def _evaluate(self) -> None:
        if self._setup.promoter is None:
            await self._move(RunState.PUBLISHING)
            return
        judging = asyncio.ensure_future(self._judge(self._setup.promoter))
        cancelling = asyncio.ensure_future(self._cancelled.wait())
        try:
            await asyncio.wait([judging, cancelling], return_when=asyncio.FIRST_COMPLETED)
        finally:
            cancelling.cancel()
            judging.cancel()
            await asyncio.wait([judging, cancelling])
        if await self._is_cancelled() or judging.cancelled():
            await self._move(RunState.CANCELLED)
            return
        try:
            report = judging.result()
        except GatewayError as error:
            why = f"version {self._run.version} is published, but cannot be judged: {error.message}"
            await self._move(RunState.FAILED, error=why)
        else:
            await self._move(RunState.PUBLISHING if report.accepted else RunState.REFUSED, gate=report)

    async def _judge(self, promoter: VersionPromoter) -> model_pb2.GateReport:
        version, policy = self._run.version, self._run.spec.gate_policy
        await promoter.until_ready(version, seconds=_READY_SECONDS)
        return await _until_available(lambda: promoter.evaluate(version, policy))

    async def _is_cancelled(self) -> bool:
        """Whether a caller has asked for that, noted or not yet."""
        self.note(await self._store.run(self._store.runs.get, self._run.run_id))
        return self._cancelled.is_set()

    async def _publish(self) -> None:
        try:
            if self._run.spec.promote:
                await self._promote()
        except GateRefusedError:
            await self._move(RunState.REFUSED)
        except GatewayError as error:
            why = f"version {self._run.version} passed the gate, but cannot be promoted: {error.message}"
            await self._move(RunState.FAILED, error=why)
        else:
            await self._move(RunState.SUCCEEDED)

    async def _promote(self) -> None:
        run, promoter = self._run, self._setup.promoter
        if promoter is None:
            raise GatewayError(error_pb2.ERROR_REASON_RELEASE_NOT_MANAGED, "this gateway has no release")
        name = f"retraining-{run.run_id}"
        request = ChangeRequest(actor=run.actor, request_id=name, reason=f"retraining {run.run_id}")
        policy = run.spec.gate_policy
        for left in reversed(range(_MAX_PROMOTIONS)):
            try:
                await _until_available(lambda: promoter.promote(run.version, request, extra_policy=policy))
                return
            except EtagMismatchError:
                # The next try has it judged against what is "stable" by now.
                if not left:
                    raise
                # This gateway sees another one's change a moment later.
                await asyncio.sleep(_RETRY_SECONDS)

    async def _move(self, after: RunState, **values: Any) -> None:  # noqa: ANN401 - `transition` names them
        move = self._store.runs.transition
        before, owner = self._run.state, self._setup.owner
        self._run = await self._store.run(move, self._run.run_id, before, after, owner=owner, **values)


async def _until_available(call: Callable[[], Awaitable[_T]]) -> _T:
    """The answer to a call that is tried again while it is UNAVAILABLE, for some minutes."""
    give_up = time.monotonic() + _READY_SECONDS
    while True:
        try:
            return await call()
        except GatewayError as error:
            if error.code != code_pb2.UNAVAILABLE or time.monotonic() > give_up:
                raise
            await asyncio.sleep(_RETRY_SECONDS)
