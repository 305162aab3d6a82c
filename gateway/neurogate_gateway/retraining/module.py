"""The part of a gateway that remembers and retrains: put together, started, and ended in order."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final

from neurogate_gateway.errors import GatewayError
from neurogate_gateway.inference.admission import Admission
from neurogate_gateway.inference.events import PredictionObserver
from neurogate_gateway.inference.journal import Journal
from neurogate_gateway.inference.preprocessing import TransformPool
from neurogate_gateway.observability.logging import log
from neurogate_gateway.observability.metrics import Metrics
from neurogate_gateway.release.promotion import StableResolver, VersionPromoter
from neurogate_gateway.settings import Settings
from neurogate_gateway.store.store import Store

from .feedback import FeedbackService
from .launchers import build_launchers, build_runner, checkpoints_of
from .service import RetrainingService
from .uploads import Uploads
from .watch import RetrainingWatch

_SWEEP_SECONDS: Final = 3600.0


class RetrainingModule:
    """Records, their journal, and the use cases of TrainingService.

    Raises:
        RecordsSetupError: The records cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        router: StableResolver,
        admission: Admission,
        transforms: TransformPool,
        *,
        metrics: Metrics,
        promoter: VersionPromoter | None,
    ) -> None:
        self._settings = settings
        self._launchers = launchers = build_launchers(settings)
        checkpoints = checkpoints_of(settings)
        self.records = Store(
            Path(settings.data_dir), settings.records_url, max_store_bytes=settings.max_store_bytes
        )
        self._runner = (
            build_runner(settings, self.records, launchers, checkpoints, promoter) if launchers else None
        )
        self.journal = (
            Journal(self.records.predictions, metrics, keep_images=settings.prediction_image_days > 0)
            if settings.journal_days
            else None
        )
        self.uploads = Uploads(self.records, admission, transforms)
        self.corrections = FeedbackService(self.records, router, self.journal)
        self.retrainings = RetrainingService(
            self.records,
            router,
            base_versions=checkpoints.versions if settings.repository else None,
            launchers=[launcher.name for launcher in launchers],
            min_examples_per_class=settings.min_examples_per_class,
            most_queued=settings.max_queued_retrainings,
            promoter=promoter,
        )
        self.watching = RetrainingWatch(self.records)
        self._sweeping: asyncio.Task[None] | None = None
        self._running: asyncio.Task[None] | None = None

    @property
    def observers(self) -> tuple[PredictionObserver, ...]:
        """Those that are to be told of every answer."""
        return () if self.journal is None else (self.journal,)

    async def start(self) -> None:
        """Begins what goes on beside the calls."""
        if self.journal is not None:
            self.journal.start()
        self._sweeping = asyncio.create_task(self._sweep())
        if self._runner is not None:
            self._running = asyncio.create_task(self._runner.run())

    def drain(self) -> None:
        """Ends watches at once, and leaves retrainings to others."""
        self.watching.close()
        if self._running is not None:
            self._running.cancel()

    async def close(self) -> None:
        """Writes what is not written yet and closes the records; no call may be running."""
        tasks = [task for task in (self._sweeping, self._running) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for launcher in self._launchers:
            launcher.close()
        if self.journal is not None:
            await asyncio.to_thread(self.journal.close)
        await asyncio.to_thread(self.records.close)

    async def _sweep(self) -> None:
        """Removes what is past its time, now and every hour."""
        settings = self._settings
        while True:
            try:
                removed = await self.records.run(
                    self.records.sweep,
                    journal_days=settings.journal_days,
                    journal_most=settings.journal_max_predictions,
                    image_days=settings.prediction_image_days,
                )
                log(logging.DEBUG, "records_swept", images_removed=removed)
            except GatewayError as error:
                log(logging.WARNING, "records_not_swept", reason=error.reason_name())
            except Exception as error:  # noqa: BLE001 - the next sweep may find what this one did not
                log(logging.ERROR, "records_not_swept", error=error)
            await asyncio.sleep(_SWEEP_SECONDS)
