"""Puts the parts of a gateway together, runs them, and ends them in order."""

from __future__ import annotations

import asyncio
import logging
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from neurogate_gateway.backends.backend_metrics import VersionMetrics, measure_calls
from neurogate_gateway.backends.concurrency import ConcurrencyLimit
from neurogate_gateway.backends.discovery import discover
from neurogate_gateway.backends.integrity import RepositoryIntegrity
from neurogate_gateway.backends.pool import BackendPool
from neurogate_gateway.backends.tfserving import TensorFlowServing
from neurogate_gateway.backends.verification import VersionVerifier
from neurogate_gateway.inference.admission import Admission
from neurogate_gateway.inference.image_metrics import ImageMetrics, measure_admission
from neurogate_gateway.inference.pipeline import InferencePipeline
from neurogate_gateway.inference.preprocessing import TransformPool
from neurogate_gateway.observability.logging import log
from neurogate_gateway.observability.metrics import serve_metrics
from neurogate_gateway.release.module import ReleaseModule
from neurogate_gateway.release.router import VersionRouter
from neurogate_gateway.rpc.classification import ClassificationServicer
from neurogate_gateway.rpc.health import HealthServicer
from neurogate_gateway.rpc.interceptor import CallInterceptor, CallMetrics
from neurogate_gateway.rpc.model import ModelServicer
from neurogate_gateway.rpc.server import build_server
from neurogate_gateway.rpc.stream_classify import StreamServer
from neurogate_gateway.rpc.training_disabled import TrainingDisabledServicer
from neurogate_gateway.store.errors import RecordsSetupError

from .deadline import Deadline
from .settings import Settings, split_address

if TYPE_CHECKING:
    from neurogate_gateway.retraining.module import RetrainingModule
    from neurogate_gateway.rpc.training import TrainingServicer
    from neurogate_gateway.rpc.upload_examples import UploadServer

_NOTICE_SECONDS: Final = 0.1
"""Between the refusal of new calls and the closing of connections."""

_LAST_SECONDS: Final = 5.0
"""For streams to answer what they have read, after the drain time is over."""


_CUT_SECONDS: Final = 1.0
"""For calls that are cut to tell their callers why."""


class Gateway:
    """One gateway, from an open port to the last answer."""

    def __init__(self, settings: Settings) -> None:
        """Puts the parts together and takes the port.

        Raises:
            PortUnavailableError: An address cannot be listened on.
            ConfigError: A setting leads to something that cannot be used.
            RecordsSetupError: The records cannot be used.
        """
        self._settings = settings
        self.metrics = serve_metrics(settings.metrics_address)
        self._health = HealthServicer()
        self._admission = Admission(
            max_image_bytes=settings.max_image_bytes,
            max_in_flight=settings.max_in_flight,
            max_bulk_calls=settings.max_bulk_calls,
            max_watches=settings.max_watches,
            min_deadline=settings.min_deadline_seconds,
        )
        self._transforms = TransformPool(
            settings.transform_workers, allow_burned_in=settings.allow_burned_in_annotation
        )
        self._integrity = RepositoryIntegrity(Path(settings.repository)) if settings.repository else None
        self._find_backends = asyncio.Event()
        verifier = VersionVerifier(
            self._transforms.pixels,
            self._integrity.check if self._integrity is not None else None,
            model=settings.model_name,
            seconds_per_call=settings.default_timeout_seconds,
        )
        self.pool = BackendPool(
            discover(settings.backend_address, self._find_backends),
            TensorFlowServing,
            verifier,
            poll_interval=settings.poll_interval_seconds,
            # One more than images, for what the gateway asks for itself.
            limit=lambda: ConcurrencyLimit(
                max_value=settings.max_in_flight + 1, fixed=settings.backend_max_in_flight
            ),
        )
        self.router = VersionRouter(
            self.pool,
            model=settings.model_name,
            swap_wait=settings.swap_wait_seconds,
            on_change=lambda: self._health.set_serving(self.router.serving),
        )
        self.pipeline = InferencePipeline(
            admission=self._admission,
            router=self.router,
            backends=self.pool,
            transforms=self._transforms,
            image_timeout=settings.default_timeout_seconds,
            window=settings.stream_window,
        )
        if self.metrics.enabled:
            measure_admission(self.metrics, self._admission)
            VersionMetrics(self.metrics, self.pool)
            measure_calls(self.metrics, self.pool)
            self.pipeline.observers += (ImageMetrics(self.metrics),)
        self.release_module = ReleaseModule(settings, self.router, self.pipeline, self.metrics)
        self.pipeline.observers += self.release_module.observers
        self._streams = StreamServer(
            self.pipeline,
            self._admission,
            window=settings.stream_window,
            window_bytes=settings.max_message_bytes,
            idle=settings.default_timeout_seconds,
        )
        self.training: RetrainingModule | None = None
        self._uploads: UploadServer | None = None
        training = self._open_training() if settings.data_dir else TrainingDisabledServicer()
        self._interceptor = CallInterceptor(
            self._admission,
            max_batch_items=settings.max_batch_items,
            metrics=CallMetrics(self.metrics) if self.metrics.enabled else None,
        )
        self._server, self.port = build_server(
            settings,
            self._interceptor,
            ClassificationServicer(
                self.pipeline,
                self._admission,
                self._streams,
                default_timeout=settings.default_timeout_seconds,
            ),
            ModelServicer(
                self.router,
                self.release_module,
                self._admission,
                default_timeout=settings.default_timeout_seconds,
            ),
            training,
            health=self._health,
        )
        self._polling: asyncio.Task[None] | None = None

    def _open_training(self) -> TrainingServicer:
        """The part that needs a database, imported only where one is wanted.

        Raises:
            RecordsSetupError: It cannot be used.
        """
        try:
            from neurogate_gateway.retraining.module import RetrainingModule  # noqa: PLC0415 - see above
            from neurogate_gateway.rpc.training import TrainingServicer  # noqa: PLC0415 - the same
            from neurogate_gateway.rpc.upload_examples import UploadServer  # noqa: PLC0415 - the same
        except ModuleNotFoundError as error:
            raise RecordsSetupError(
                f"records need {error.name}, which is not installed: pip install 'neurogate[records]'"
            ) from error
        settings = self._settings
        self.training = training = RetrainingModule(
            settings,
            self.router,
            self._admission,
            self._transforms,
            metrics=self.metrics,
            promoter=self.release_module.service,
        )
        self.pipeline.observers += training.observers
        self._uploads = UploadServer(
            training.uploads,
            self.router,
            self._admission,
            max_image_bytes=settings.max_image_bytes,
            window_bytes=settings.max_message_bytes,
            idle=settings.default_timeout_seconds,
        )
        return TrainingServicer(
            store=training.store,
            uploads=self._uploads,
            feedback=training.feedback,
            retrainings=training.retrainings,
            watching=training.watching,
            transforms=self._transforms,
            admission=self._admission,
            default_timeout=settings.default_timeout_seconds,
        )

    @property
    def address(self) -> str:
        """HOST:PORT with the real port."""
        host, _ = split_address("listen", self._settings.listen, lowest_port=0)
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    async def start(self) -> None:
        """Takes calls and begins to look for versions."""
        await self.release_module.start()
        self._polling = asyncio.create_task(self.pool.run())
        if self.training is not None:
            await self.training.start()
        await self._server.start()
        log(logging.INFO, "listening", address=self.address, pid=os.getpid())

    def find_backends(self) -> None:
        """Looks at once where the model servers are, where that is a name or a file."""
        self._find_backends.set()

    async def stop(self) -> None:
        """Ends in order: no new calls, time for the accepted ones, then everything else."""
        log(logging.INFO, "draining", seconds=self._settings.drain_seconds)
        self._interceptor.drain()
        self.release_module.drain()
        self._health.close()
        if self.training is not None:
            self.training.drain()
        # Closing while a client sends can end that call as CANCELLED, which nobody retries. So for a moment
        # calls are refused with their reason and health watchers move on; only then connections are closed.
        await asyncio.sleep(_NOTICE_SECONDS)
        # It ends when every call has ended, health watches and the sending of last answers included.
        stopping = asyncio.create_task(self._server.stop(math.inf))
        give_up = Deadline.after(self._settings.drain_seconds)
        in_order = await self._calls_end(give_up.remaining())
        if in_order:
            # A call whose request is still on its way counts as none so far.
            self._interceptor.end_reflection()
            await asyncio.wait([stopping], timeout=max(give_up.remaining(), 0))
            in_order = await self._calls_end(0)
        if not in_order and self._stop_reading():
            in_order = await self._calls_end(_LAST_SECONDS)
        if not in_order:
            self._interceptor.cut()
            await self._calls_end(_CUT_SECONDS)
        await asyncio.wait([stopping], timeout=1)
        await self._server.stop(None)
        await stopping
        self._interceptor.flush_log()
        log(logging.INFO, "stopped", in_order=in_order)
        await self.release_module.stop()
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.wait([self._polling])
        if self.training is not None:
            await self.training.close()
        await self.pool.close()
        self._transforms.close()
        if self._integrity is not None:
            self._integrity.close()
        self.metrics.close()

    def _stop_reading(self) -> bool:
        streams = self._streams.stop_reading()
        uploads = self._uploads is not None and self._uploads.stop_reading()
        return streams or uploads

    async def _calls_end(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._interceptor.idle()
        except TimeoutError:
            return False
        return True
