"""Takes retrainings from the queue and sees each to its end, those of gateways that have gone included."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Final

from neurogate_gateway.observability.logging import log
from neurogate_gateway.release.promotion import VersionPromoter
from neurogate_gateway.store.run import LeaseLostError, Run
from neurogate_gateway.store.store import Store

from .jobs import JobMaker
from .launcher import Launcher
from .worker import Limits, RetrainingWorker

_LEASE_SECONDS: Final = 15.0
_LOOK_SECONDS: Final = 1.0
_PAUSE_SECONDS: Final = 0.2
"""Least time between two looks, however often something changes."""


class RetrainingRunner:
    """The gateway's part in retrainings.

    Args:
        records: Where they are kept.
        owner: A name of this gateway, unlike every other one.
        launchers: Those that are configured.
        jobs: Makes their jobs.
        promoter: The release; None for none.
        limits: How long things may take.
    """

    def __init__(
        self,
        records: Store,
        *,
        owner: str,
        launchers: Sequence[Launcher],
        jobs: JobMaker,
        promoter: VersionPromoter | None,
        limits: Limits,
    ) -> None:
        self._records = records
        self._owner = owner
        self._launchers = {launcher.name: launcher for launcher in launchers}
        self._jobs = jobs
        self._promoter = promoter
        self._limits = limits
        self._tended: dict[str, tuple[Run, RetrainingWorker, asyncio.Task[None]]] = {}

    async def run(self) -> None:
        """Works until it is cancelled; trainers then go on, for another gateway to look after."""
        try:
            with self._records.changes.waiter() as waiter:
                while True:
                    try:
                        await self._look()
                    except Exception as error:  # noqa: BLE001 - the next look may find the records well again
                        log(logging.ERROR, "retrainings_unattended", error=error)
                    await asyncio.sleep(_PAUSE_SECONDS)
                    await waiter.wait(_LOOK_SECONDS)
        finally:
            await self._let_go()

    async def _look(self) -> None:
        """Renews the claims, takes over what was left behind, and begins what may begin."""
        claims = self._records.claims
        names = sorted(self._launchers)
        for run in await self._records.run(claims.adopt, self._owner, _LEASE_SECONDS, launchers=names):
            self._tend(run)
        for name, launcher in self._launchers.items():
            while sum(run.launcher == name for run, _, _ in self._tended.values()) < launcher.at_once:
                claimed = await self._records.run(
                    claims.claim_next, self._owner, _LEASE_SECONDS, launchers=[name]
                )
                if claimed is None:
                    break
                self._tend(claimed)

    def _tend(self, run: Run) -> None:
        if run.run_id in self._tended:
            self._tended[run.run_id][1].note(run)
            return
        tending = RetrainingWorker(
            run,
            records=self._records,
            owner=self._owner,
            launcher=self._launchers[run.launcher],
            jobs=self._jobs,
            promoter=self._promoter,
            limits=self._limits,
        )
        task = asyncio.create_task(tending.to_the_end())
        self._tended[run.run_id] = (run, tending, task)
        task.add_done_callback(lambda done: self._ended(run.run_id, done))

    def _ended(self, run_id: str, task: asyncio.Task[None]) -> None:
        del self._tended[run_id]
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, LeaseLostError):
            log(logging.WARNING, "retraining_taken_over", retraining=run_id, message=str(error))
        elif error is not None:
            # It is still claimed, so the next look takes it up where it stands.
            log(logging.ERROR, "retraining_interrupted", retraining=run_id, error=error)

    async def _let_go(self) -> None:
        tended = list(self._tended.values())
        for _, _, task in tended:
            task.cancel()
        if tended:
            await asyncio.wait([task for _, _, task in tended])
        for run, _, _ in tended:
            with contextlib.suppress(Exception):
                await self._records.run(self._records.claims.release, run.run_id, self._owner)
