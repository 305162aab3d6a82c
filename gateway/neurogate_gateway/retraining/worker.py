"""One retraining, from whatever state it is in to its end.

Every step begins from the state, does what may be repeated, and moves on; so a gateway that takes over does
what one that goes on would do.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from typing import Final

from google.rpc import code_pb2
from neurogate.v1 import error_pb2, model_pb2

from neurogate_gateway.errors import EtagMismatchError, GateRefusedError, GatewayError
from neurogate_gateway.observability.logging import log
from neurogate_gateway.release.promotion import ChangeRequest, VersionPromoter
from neurogate_gateway.store.run import Run, StateConflictError
from neurogate_gateway.store.run_states import RunState
from neurogate_gateway.store.store import Store

from .jobs import JobMaker
from .launcher import EVENTS_FILE, JobState, JobStatus, Launcher, LaunchError, log_tail
from .trainer_events import TrainerEventReader

_LOOK_SECONDS: Final = 0.5
_RETRY_SECONDS: Final = 2.0
_MOST_PROMOTIONS: Final = 5
"""How often a promotion is tried that meets another change of the release each time."""


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """How long things may take.

    Attributes:
        hang_seconds: A trainer without an event for so long is ended.
        ready_seconds: For a published version to become READY, and for the gate.
    """

    hang_seconds: float
    ready_seconds: float


class RetrainingWorker:
    """Looks after one retraining that this gateway has claimed.

    Args:
        run: As it was claimed.
        records: Where it is kept.
        owner: This gateway, as the claim has it.
        launcher: Who runs its trainer.
        jobs: Makes its job.
        promoter: The release; None where this gateway has none, and versions are then taken as they come.
        limits: How long things may take.
    """

    def __init__(
        self,
        run: Run,
        *,
        records: Store,
        owner: str,
        launcher: Launcher,
        jobs: JobMaker,
        promoter: VersionPromoter | None,
        limits: Limits,
    ) -> None:
        self._run = run
        self._records = records
        self._owner = owner
        self._launcher = launcher
        self._jobs = jobs
        self._promoter = promoter
        self._limits = limits
        self._cancelled = asyncio.Event()
        self.note(run)

    def note(self, run: Run) -> None:
        """Takes note of what others have changed."""
        if run.cancel_requested:
            self._cancelled.set()

    async def to_the_end(self) -> None:
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
            # Somebody ended it who may: a caller who cancelled it before it began.
            if not conflict.run.state.ended:
                raise
            self._run = conflict.run
        log(
            logging.INFO,
            "retraining_ended",
            retraining=self._run.run_id,
            state=self._run.state.value,
            version=self._run.version,
        )

    async def _begin(self) -> None:
        # RUNNING before there is a trainer: from now on, whoever cancels it has it ended by its owner.
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
        relay = TrainerEventReader(self._jobs.folder(self._run.run_id) / EVENTS_FILE)
        status, verdict = await self._follow(handle, relay)
        version = relay.end.version if relay.end is not None else 0
        # A trainer that was killed right after its publication could not say so any more.
        version = version or await asyncio.to_thread(self._jobs.checkpoints.published_by, self._run.run_id)
        if version and not self._cancelled.is_set():
            await self._move(RunState.EVALUATING, version=version)
        elif self._cancelled.is_set():
            await self._move(RunState.CANCELLED, version=version or None)
        else:
            said = relay.end.reason if relay.end is not None and relay.end.outcome == "failed" else ""
            why = "; ".join(part for part in (verdict, said, status.reason) if part)
            tail = await asyncio.to_thread(log_tail, self._jobs.folder(self._run.run_id))
            await self._move(RunState.FAILED, error=f"{why}\n{tail}".strip())

    async def _launch(self) -> str:
        give_up = time.monotonic() + self._limits.hang_seconds
        examples = await self._records.run(self._records.runs.examples, self._run.run_id)
        job = await asyncio.to_thread(self._jobs.make, self._run, examples)
        while True:
            try:
                handle = await self._launcher.start(job)
                break
            except LaunchError as error:
                # Not given up when it is cancelled: its trainer may run, since only the answer may have been
                # lost, and nobody can end it without the handle.
                if not error.passing or time.monotonic() > give_up:
                    raise
                await asyncio.sleep(_RETRY_SECONDS)
        claims = self._records.claims
        self._run = await self._records.run(claims.set_handle, self._run.run_id, self._owner, handle)
        log(logging.INFO, "trainer_started", retraining=self._run.run_id, launcher=self._launcher.name)
        return handle

    async def _follow(self, handle: str, relay: TrainerEventReader) -> tuple[JobStatus, str]:
        """Relays events until the trainer has ended; returns how, and what this gateway has to add."""
        heard = told = time.monotonic()
        verdict = ""
        while True:
            status: JobStatus | None = None
            try:
                status = await self._launcher.status(handle)
                told = time.monotonic()
                if (self._cancelled.is_set() or verdict) and not status.over:
                    await self._launcher.cancel(handle)
            except LaunchError as error:
                if time.monotonic() - told > self._limits.hang_seconds:
                    return JobStatus(JobState.LOST, str(error)), "nothing is known of the trainer any longer"
            # After the status, so that what an ended trainer has written is complete.
            if await self._relay(relay) or (status is not None and status.state is JobState.WAITING):
                heard = time.monotonic()
            if status is not None and status.over:
                return status, verdict
            if not verdict and time.monotonic() - heard > self._limits.hang_seconds:
                verdict = f"the trainer hung: no event for {self._limits.hang_seconds / 60:.3g} minutes"
                log(logging.WARNING, "trainer_hangs", retraining=self._run.run_id)
            await asyncio.sleep(_LOOK_SECONDS)

    async def _relay(self, relay: TrainerEventReader) -> bool:
        """Records all that the trainer has written; returns whether there was anything."""
        heard = False
        while events := await asyncio.to_thread(relay.read):
            heard = True
            runs = self._records.runs
            await self._records.run(runs.append_trainer_events, self._run.run_id, events, owner=self._owner)
        return heard

    async def _evaluate(self) -> None:
        if self._promoter is None:
            await self._move(RunState.PUBLISHING)
            return
        judging = asyncio.ensure_future(self._judge(self._promoter))
        cancelling = asyncio.ensure_future(self._cancelled.wait())
        try:
            await asyncio.wait([judging, cancelling], return_when=asyncio.FIRST_COMPLETED)
        finally:
            cancelling.cancel()
            judging.cancel()
            await asyncio.wait([judging, cancelling])
        if await self._is_cancelled() or judging.cancelled():
            await self._move(RunState.CANCELLED)
        elif (error := judging.exception()) is None:
            report = judging.result()
            await self._move(RunState.PUBLISHING if report.accepted else RunState.REFUSED, gate=report)
        elif isinstance(error, GatewayError):
            await self._move(
                RunState.FAILED,
                error=f"version {self._run.version} is published, but cannot be judged: {error.message}",
            )
        else:
            raise error

    async def _is_cancelled(self) -> bool:
        """Whether somebody has asked for that, noted or not yet."""
        self.note(await self._records.run(self._records.runs.get, self._run.run_id))
        return self._cancelled.is_set()

    async def _judge(self, promoter: VersionPromoter) -> model_pb2.GateReport:
        give_up = time.monotonic() + self._limits.ready_seconds
        await promoter.until_ready(self._run.version, seconds=self._limits.ready_seconds)
        while True:
            try:
                return await promoter.evaluate(self._run.version, self._run.spec.gate_policy)
            except GatewayError as error:
                if error.code != code_pb2.UNAVAILABLE or time.monotonic() > give_up:
                    raise
                await asyncio.sleep(_RETRY_SECONDS)

    async def _publish(self) -> None:
        try:
            if self._run.spec.promote:
                await self._promote()
        except GateRefusedError:
            await self._move(RunState.REFUSED)
        except GatewayError as error:
            await self._move(
                RunState.FAILED,
                error=f"version {self._run.version} passed the gate, but cannot be promoted: {error.message}",
            )
        else:
            await self._move(RunState.SUCCEEDED)

    async def _promote(self) -> None:
        if self._promoter is None:
            raise GatewayError(error_pb2.ERROR_REASON_RELEASE_NOT_MANAGED, "this gateway has no release")
        give_up = time.monotonic() + self._limits.ready_seconds
        left = _MOST_PROMOTIONS
        while True:
            try:
                request = ChangeRequest(
                    actor=self._run.actor,
                    request_id=f"retraining-{self._run.run_id}",
                    reason=f"retraining {self._run.run_id}",
                )
                await self._promoter.promote(
                    self._run.version, request, extra_policy=self._run.spec.gate_policy
                )
                return
            except EtagMismatchError:
                # The next try has it judged against what is "stable" by now.
                left -= 1
                if not left:
                    raise
                # Another gateway's change is seen here a moment later.
                await asyncio.sleep(_RETRY_SECONDS)
            except GatewayError as error:
                if error.code != code_pb2.UNAVAILABLE or time.monotonic() > give_up:
                    raise
                await asyncio.sleep(_RETRY_SECONDS)

    async def _move(
        self,
        after: RunState,
        *,
        version: int | None = None,
        gate: model_pb2.GateReport | None = None,
        error: str | None = None,
    ) -> None:
        self._run = await self._records.run(
            self._records.runs.transition,
            self._run.run_id,
            {self._run.state},
            after,
            owner=self._owner,
            version=version,
            gate=gate,
            error=error,
        )
