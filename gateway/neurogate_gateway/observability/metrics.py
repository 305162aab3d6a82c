"""Metrics for Prometheus, and a registry for every part that has something to count.

A part takes a `Metrics` and makes its instruments from it, once:

    compared = metrics.counter("neurogate_shadow_images_total", "Copies that were compared.", "version")
    ...
    compared.labels("7").inc()

Without an address nothing is counted, served or imported, and the instruments do nothing.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, cast

from neurogate_gateway.settings import PortUnavailableError, split_address

from .logging import log

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer

    from prometheus_client.core import GaugeMetricFamily

SECONDS: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Upper ends of a histogram's buckets for anything that takes from milliseconds to half a minute."""

Values = Mapping[tuple[str, ...], float]
"""Value by the labels' values."""


class Instrument:
    """Counts up (`inc`), or by size (`observe`); this one does neither."""

    def labels(self, *values: str) -> Instrument:  # noqa: ARG002 - for those that count
        """The instrument for these values of its labels, in their order."""
        return self

    def inc(self, amount: float = 1) -> None:
        """Adds to a counter."""

    def observe(self, amount: float) -> None:
        """Takes one value into a histogram."""


_NOTHING: Final = Instrument()


class Metrics:
    """Makes instruments, named and measured as Prometheus has it (neurogate_…_seconds); these do nothing."""

    enabled = False
    """Whether anything is counted at all; those who would have to work for it may ask."""

    def counter(self, name: str, text: str, *labels: str) -> Instrument:  # noqa: ARG002 - for those that count
        """A new counter."""
        return _NOTHING

    def histogram(self, name: str, text: str, *labels: str, buckets: Sequence[float] = SECONDS) -> Instrument:  # noqa: ARG002 - for those that count
        """A new histogram."""
        return _NOTHING

    def gauge(self, name: str, text: str, read: Callable[[], Values], *labels: str) -> None:
        """A new gauge, whose values are read when they are asked for.

        Args:
            name: Of the metric.
            text: What it says.
            read: Gives all values. Called from another thread than the event loop's, so it has to make do
                with what cannot change while it reads.
            labels: Names of its labels.
        """

    def close(self) -> None:
        """Ends the server."""


def serve_metrics(address: str) -> Metrics:
    """The metrics of a gateway, served at an address; without one nothing is counted.

    Raises:
        PortUnavailableError: The address cannot be listened on.
    """
    if not address:
        return Metrics()
    host, port = split_address("metrics_address", address, lowest_port=0)
    try:
        return PrometheusMetrics(host, port)
    except OSError as error:
        raise PortUnavailableError(f"cannot serve metrics on {address}: {error.strerror}") from error


class _Reader:
    """A collector as the registry wants it."""

    def __init__(self, family: Callable[[], GaugeMetricFamily], read: Callable[[], Values]) -> None:
        self._family = family
        self._read = read

    def collect(self) -> Iterable[GaugeMetricFamily]:
        metric = self._family()
        for values, value in self._read().items():
            metric.add_metric(values, value)
        yield metric


class PrometheusMetrics(Metrics):
    """Counts, and answers GET /metrics from a thread of its own."""

    enabled = True

    def __init__(self, host: str, port: int) -> None:
        """Takes the port; 0 takes a free one.

        Raises:
            OSError: The address cannot be listened on.
        """
        # Only here, since most of a gateway's start is imports.
        import prometheus_client  # noqa: PLC0415
        from prometheus_client import core  # noqa: PLC0415

        self._client = prometheus_client
        self._core = core
        self._registry = prometheus_client.CollectorRegistry()
        prometheus_client.ProcessCollector(registry=self._registry)
        self._server: WSGIServer
        self._thread: threading.Thread
        self._server, self._thread = prometheus_client.start_http_server(
            port, addr=host, registry=self._registry
        )
        self.port = int(self._server.server_port)
        """The port that it has."""
        log(logging.INFO, "serving_metrics", address=f"{host}:{self.port}")

    def counter(self, name: str, text: str, *labels: str) -> Instrument:
        """As `Metrics`."""
        return cast("Instrument", self._client.Counter(name, text, labels, registry=self._registry))

    def histogram(self, name: str, text: str, *labels: str, buckets: Sequence[float] = SECONDS) -> Instrument:
        """As `Metrics`."""
        made = self._client.Histogram(name, text, labels, buckets=buckets, registry=self._registry)
        return cast("Instrument", made)

    def gauge(self, name: str, text: str, read: Callable[[], Values], *labels: str) -> None:
        """As `Metrics`."""
        family = functools.partial(self._core.GaugeMetricFamily, name, text, labels=labels)
        self._registry.register(_Reader(family, read))

    def close(self) -> None:
        """Ends the server; an answer that is being given is given."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
