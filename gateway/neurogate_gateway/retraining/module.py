"""What remembers and retrains in a gateway: put together, started, and ended in order."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final

from neurogate_gateway.errors import GatewayError
from neurogate_gateway.inference.admission import Admission
from neurogate_gateway.inference.journal import Journal
from neurogate_gateway.inference.pipeline import PredictionObserver
from neurogate_gateway.inference.preprocessing import TransformPool
from neurogate_gateway.observability.logging import log
from neurogate_gateway.observability.metrics import Metrics
from neurogate_gateway.release.promotion import StableResolver, VersionPromoter
from neurogate_gateway.settings import Settings
from neurogate_gateway.store.errors import RecordsSetupError
from neurogate_gateway.store.store import Store

from .feedback import FeedbackService
from .launcher import Launcher, TrainerJobs
from .launcher_local import LocalLauncher
from .launcher_ray import RayLauncher
from .service import RetrainingService
from .uploads import Uploads
from .watch import RetrainingWatch
from .worker import RetrainingRunner, Setup

_SWEEP_SECONDS: Final = 3600.0


class RetrainingModule:
    """The store, the journal, and the use cases of TrainingService.

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
        self._launchers = launchers = _launchers(settings)
        data_dir = Path(settings.data_dir)
        self.store = Store(data_dir, settings.records_url, max_store_bytes=settings.max_store_bytes)
        jobs = TrainerJobs(
            trainer=settings.trainer_command,
            base_run=Path(settings.base_run),
            runs_dir=Path(settings.runs_dir or data_dir / "runs"),
            repository=Path(settings.repository),
            model=settings.model_name,
            image_path=self.store.images.path,
        )
        setup = Setup(
            store=self.store,
            jobs=jobs,
            promoter=promoter,
            hang_seconds=settings.trainer_hang_minutes * 60,
        )
        self._runner = RetrainingRunner(setup, launchers)
        self.journal = (
            Journal(self.store.predictions, metrics, keep_images=settings.prediction_image_days > 0)
            if settings.journal_days
            else None
        )
        self.uploads = Uploads(self.store, admission, transforms)
        self.feedback = FeedbackService(self.store, router, self.journal)
        self.retrainings = RetrainingService(
            self.store,
            router,
            base_versions=jobs.versions if settings.repository else None,
            launchers=[launcher.name for launcher in launchers],
            min_examples_per_class=settings.min_examples_per_class,
            max_queued=settings.max_queued_retrainings,
            promoter=promoter,
        )
        self.watching = RetrainingWatch(self.store)
        self._sweeping: asyncio.Task[None] | None = None
        self._running: asyncio.Task[None] | None = None

    @property
    def observers(self) -> tuple[PredictionObserver, ...]:
        """Who sees every answer."""
        return () if self.journal is None else (self.journal,)

    async def start(self) -> None:
        """Begins what goes on beside the calls."""
        if self.journal is not None:
            self.journal.start()
        self._sweeping = asyncio.create_task(self._sweep())
        if self._launchers:
            self._running = asyncio.create_task(self._runner.run())

    def drain(self) -> None:
        """Ends watches at once, and leaves retrainings to others."""
        self.watching.close()
        if self._running is not None:
            self._running.cancel()

    async def close(self) -> None:
        """Writes what is not written yet and closes the store; no call may be running."""
        tasks = [task for task in (self._sweeping, self._running) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for launcher in self._launchers:
            launcher.close()
        if self.journal is not None:
            await asyncio.to_thread(self.journal.close)
        await asyncio.to_thread(self.store.close)

    async def _sweep(self) -> None:
        """Removes what is past its time, now and every hour."""
        settings = self._settings
        while True:
            try:
                removed = await self.store.run(
                    self.store.sweep,
                    journal_days=settings.journal_days,
                    max_predictions=settings.journal_max_predictions,
                    image_days=settings.prediction_image_days,
                )
                log(logging.DEBUG, "records_swept", images_removed=removed)
            except GatewayError as error:
                log(logging.WARNING, "records_not_swept", reason=error.reason_name())
            except Exception as error:  # noqa: BLE001 - the next sweep may find what this one did not
                log(logging.ERROR, "records_not_swept", error=error)
            await asyncio.sleep(_SWEEP_SECONDS)


def _launchers(settings: Settings) -> list[Launcher]:
    """The launchers that are configured, the default first; none without a base run.

    Raises:
        RecordsSetupError: One needs a package that is not installed.
    """
    if not settings.base_run:
        return []
    memory_bytes = settings.trainer_memory_mib * 2**20
    launchers: list[Launcher] = [LocalLauncher(cores=settings.trainer_cores, memory_bytes=memory_bytes)]
    if settings.ray_address:
        try:
            ray = RayLauncher(settings.ray_address, cpus=settings.ray_cpus, gpus=settings.ray_gpus)
        except ModuleNotFoundError as error:
            raise RecordsSetupError(
                "ray_address is set, but ray is not installed: pip install 'neurogate[ray]'"
            ) from error
        launchers.append(ray)
    return sorted(launchers, key=lambda launcher: launcher.name != settings.launcher)
