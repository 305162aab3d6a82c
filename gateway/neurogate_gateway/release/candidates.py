"""Asks the gate about every candidate that is READY, and in mode "gated" promotes what it accepts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Final

from neurogate.v1 import model_pb2
from neurogate_core.release_store import PROMOTE, Draft, Release

from neurogate_gateway.backends.pool import BackendPool
from neurogate_gateway.backends.status import StatusSnapshot
from neurogate_gateway.backends.verification import ServedVersion
from neurogate_gateway.errors import EvaluationImpossibleError, GatewayError, InternalError
from neurogate_gateway.observability.logging import log

from . import transitions
from .controller import NothingDueError, ReleaseManager
from .gate import broken_rules
from .messages import gate_json
from .policy import PolicyError
from .reconcile import GATEWAY
from .service import ReleaseService
from .traffic_split import CANDIDATE, STABLE

_AGAIN_SECONDS: Final = 5.0
_REPAIRED_SECONDS: Final = 60.0
"""Images that could not be used may have been repaired by then, and a model server that broke as well."""


class Candidates:
    """Judges candidates one after another; `run` does it until cancelled."""

    def __init__(
        self, manager: ReleaseManager, pool: BackendPool, desk: ReleaseService, *, promote: bool
    ) -> None:
        self._manager = manager
        self._pool = pool
        self._desk = desk
        self._promote = promote
        self._judged: tuple[str, int | None] | None = None
        self._due = asyncio.Event()

    async def run(self) -> None:
        """Looks whenever a version or the release has changed."""
        forget = [
            self._pool.subscribe(lambda _: self._due.set()),
            self._manager.changed.add(lambda _: self._due.set()),
        ]
        try:
            while True:
                self._due.clear()
                pause = await self._judge()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._due.wait()
        finally:
            for stop in forget:
                stop()

    async def _judge(self) -> float | None:
        """Judges the candidate, if it is due; seconds until another try, None for none."""
        labels = self._manager.release.state.labels
        candidate, stable = labels.get(CANDIDATE), labels.get(STABLE)
        version = self._pool.ready(candidate) if candidate is not None else None
        if candidate is None or version is None or self._judged == (version.digest, stable):
            return None
        if stable is not None and self._pool.ready(stable) is None:
            # Nobody is promoted by default for want of something to compare with.
            return _AGAIN_SECONDS
        try:
            # From the manifest, so that a gateway that knows nothing of the retraining keeps to it as well.
            report = await self._desk.evaluate(candidate, version.manifest.lineage.gate_policy)
            if self._promote and report.accepted:
                await self._promote_it(version, stable, report)
            elif not report.accepted:
                log(logging.INFO, "candidate_refused", version=candidate, rules=broken_rules(report))
        except NothingDueError:
            return _AGAIN_SECONDS
        except EvaluationImpossibleError as error:
            log(logging.ERROR, "evaluation_impossible", version=candidate, message=error.message)
            # Nobody repairs the version's own gate policy: it is part of its manifest.
            if not isinstance(error.__cause__, PolicyError):
                return _REPAIRED_SECONDS
        except GatewayError as error:
            log(logging.WARNING, "evaluation_interrupted", version=candidate, message=error.message)
            # What breaks on one of the images will do so again, and each attempt asks about all of them.
            return _REPAIRED_SECONDS if isinstance(error, InternalError) else _AGAIN_SECONDS
        self._judged = (version.digest, stable)
        return None

    async def _promote_it(
        self, version: ServedVersion, stable: int | None, report: model_pb2.GateReport
    ) -> None:
        number = version.number

        def decide(release: Release, seen: StatusSnapshot) -> Draft:
            labels = release.state.labels
            if (labels.get(CANDIDATE), labels.get(STABLE)) != (number, stable):
                raise NothingDueError
            # Measuring and judging have taken their time.
            served = seen.ready(number)
            if served is None or served.digest != version.digest:
                raise NothingDueError
            state = transitions.promote(release.state, number, now=time.time())
            reason = "the gate accepts it"
            return Draft(action=PROMOTE, state=state, actor=GATEWAY, reason=reason, gate=gate_json(report))

        await self._manager.change(decide)
