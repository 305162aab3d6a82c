"""The command `neurogate-gateway`: puts the parts together, runs them, and ends them in order."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import sys
from typing import Final

from .admission import Admission
from .backend import TensorFlowServing
from .catalog import Catalog
from .classifier import Classifier
from .config import ConfigError, Settings, parse_settings, split_address
from .health import HealthServicer
from .interceptors import CallInterceptor
from .server import PortUnavailableError, build_server
from .services.classification import ClassificationServicer
from .services.model import ModelServicer
from .services.streaming import StreamServer
from .telemetry import configure_logging, log
from .transforms import TransformPool

_LAST_SECONDS: Final = 5.0
"""For streams to answer what they have read, after the drain time is over."""


class Gateway:
    """One gateway, from an open port to the last answer."""

    def __init__(self, settings: Settings) -> None:
        """Puts the parts together and takes the port.

        Raises:
            PortUnavailableError: The address cannot be listened on.
        """
        self._settings = settings
        self._health = HealthServicer()
        self._admission = Admission(
            max_image_bytes=settings.max_image_bytes,
            max_in_flight=settings.max_in_flight,
            max_bulk_calls=settings.max_bulk_calls,
            min_deadline=settings.min_deadline_seconds,
        )
        self._backend = TensorFlowServing(settings.backend_address)
        self._transforms = TransformPool(settings.transform_workers)
        self.catalog = Catalog(
            self._backend,
            self._transforms,
            model=settings.model_name,
            poll_interval=settings.poll_interval_seconds,
            proof_timeout=settings.default_timeout_seconds,
            swap_wait=settings.swap_wait_seconds,
            on_change=lambda: self._health.set_serving(self.catalog.serving),
        )
        classifier = Classifier(
            admission=self._admission,
            catalog=self.catalog,
            transforms=self._transforms,
            backend=self._backend,
            image_timeout=settings.default_timeout_seconds,
            window=settings.stream_window,
        )
        self._streams = StreamServer(
            classifier,
            self._admission,
            window=settings.stream_window,
            window_bytes=settings.max_message_bytes,
        )
        self._interceptor = CallInterceptor(self._admission)
        self._server, self.port = build_server(
            settings,
            self._interceptor,
            ClassificationServicer(
                classifier,
                self._admission,
                self._streams,
                max_batch_items=settings.max_batch_items,
                default_timeout=settings.default_timeout_seconds,
            ),
            ModelServicer(self.catalog),
            self._health,
        )
        self._polling: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """HOST:PORT with the real port."""
        host, _ = split_address("listen", self._settings.listen, lowest_port=0)
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    async def start(self) -> None:
        """Takes calls and begins to look for versions."""
        self._polling = asyncio.create_task(self.catalog.run())
        await self._server.start()
        log(logging.INFO, "listening", address=self.address, pid=os.getpid())

    async def stop(self) -> None:
        """Ends in order: no new calls, time for the accepted ones, then everything else."""
        log(logging.INFO, "draining", seconds=self._settings.drain_seconds)
        self._interceptor.drain()
        self._health.close()
        # It ends when every call has ended, health watches and the sending of last answers included.
        stopping = asyncio.create_task(self._server.stop(math.inf))
        in_order = await self._calls_end(self._settings.drain_seconds)
        if not in_order:
            self._streams.stop_reading()
            in_order = await self._calls_end(_LAST_SECONDS)
        await asyncio.wait([stopping], timeout=1 if in_order else 0)
        await self._server.stop(None)
        await stopping
        log(logging.INFO, "stopped", in_order=in_order)
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.wait([self._polling])
        await self._backend.close()
        self._transforms.close()

    async def _calls_end(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._interceptor.idle()
        except TimeoutError:
            return False
        return True


async def _serve(settings: Settings) -> None:
    loop = asyncio.get_running_loop()
    asked_to_stop = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if asked_to_stop.is_set():
            log(logging.WARNING, "killed", signal=number.name)
            # At once means at once: threads in the middle of an image would hold up an ordinary exit.
            os._exit(128 + number)
        log(logging.INFO, "signal", signal=number.name)
        asked_to_stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    gateway = Gateway(settings)
    log(logging.INFO, "starting", settings=settings.public())
    await gateway.start()
    await asked_to_stop.wait()
    await gateway.stop()


def main() -> None:
    """Runs the gateway until SIGTERM or SIGINT.

    Exit status: 0 after an orderly end, 1 when the port is not to be had, 2 for a wrong setting.
    """
    try:
        settings = parse_settings(sys.argv[1:], os.environ)
    except ConfigError as error:
        print(f"neurogate-gateway: {error}", file=sys.stderr)  # noqa: T201 - there is no log yet
        sys.exit(2)
    configure_logging(settings.log_level)
    try:
        asyncio.run(_serve(settings))
    except PortUnavailableError as error:
        log(logging.ERROR, "port_unavailable", message=str(error))
        sys.exit(1)
