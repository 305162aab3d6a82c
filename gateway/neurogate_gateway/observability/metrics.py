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
from typing import TYPE_CHECKING, Final, Protocol

from neurogate_gateway.settings import PortUnavailableError, split_address

from .logging import log

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer

    from prometheus_client.core import GaugeMetricFamily

SECONDS: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Upper ends of a histogram's buckets for anything that takes from milliseconds to half a minute."""

Values = Mapping[tuple[str, ...], float]
"""Value by the labels' values."""


class Counter(Protocol):
    """Counts up."""

    def labels(self, *values: str) -> Counter:
        """The counter for these values of its labels, in their order."""

    def inc(self, amount: float = 1) -> None:
        """Adds to it."""


class Histogram(Protocol):
    """Counts by size."""

    def labels(self, *values: str) -> Histogram:
        """The histogram for these values of its labels, in their order."""

    def observe(self, amount: float) -> None:
        """Takes one value in."""


class Metrics(Protocol):
    """Makes instruments; their names and units are as Prometheus has them (neurogate_…_seconds)."""

    enabled: bool
    """Whether anything is counted at all; those who would have to work for it may ask."""

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        """A new counter."""

    def histogram(self, name: str, text: str, *labels: str, buckets: Sequence[float] = SECONDS) -> Histogram:
        """A new histogram."""

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


class _Nothing:
    def labels(self, *values: str) -> _Nothing:  # noqa: ARG002 - as in the protocols
        return self

    def inc(self, amount: float = 1) -> None:
        pass

    def observe(self, amount: float) -> None:
        pass


_NOTHING: Final = _Nothing()


class NoMetrics:
    """For a gateway without an address for metrics."""

    enabled = False

    def counter(self, name: str, text: str, *labels: str) -> Counter:  # noqa: ARG002 - as in the protocol
        """Nothing that counts."""
        return _NOTHING

    def histogram(
        self,
        name: str,  # noqa: ARG002 - as in the protocol
        text: str,  # noqa: ARG002
        *labels: str,  # noqa: ARG002
        buckets: Sequence[float] = SECONDS,  # noqa: ARG002
    ) -> Histogram:
        """Nothing that counts."""
        return _NOTHING

    def gauge(self, name: str, text: str, read: Callable[[], Values], *labels: str) -> None:
        """Nothing that is read."""

    def close(self) -> None:
        """Nothing to end."""


def serve_metrics(address: str) -> Metrics:
    """The metrics of a gateway, served at an address; without one there are none.

    Raises:
        PortUnavailableError: The address cannot be listened on.
    """
    if not address:
        return NoMetrics()
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


class PrometheusMetrics:
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

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        """A new counter."""
        return self._client.Counter(name, text, labels, registry=self._registry)

    def histogram(self, name: str, text: str, *labels: str, buckets: Sequence[float] = SECONDS) -> Histogram:
        """A new histogram."""
        return self._client.Histogram(name, text, labels, buckets=buckets, registry=self._registry)

    def gauge(self, name: str, text: str, read: Callable[[], Values], *labels: str) -> None:
        """A new gauge, whose values are read when they are asked for."""
        family = functools.partial(self._core.GaugeMetricFamily, name, text, labels=labels)
        self._registry.register(_Reader(family, read))

    def close(self) -> None:
        """Ends the server; an answer that is being given is given."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
