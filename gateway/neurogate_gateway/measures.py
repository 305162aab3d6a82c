"""What the gateway counts of its own: calls, images, versions and model servers."""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable
from typing import Final

import grpc
from neurogate.v1 import classification_pb2

from .admission import Admission
from .entries import REJECTED, State
from .errors import GatewayError
from .fleet import Fleet
from .metrics import Metrics, Values
from .outcomes import Outcome
from .places import Places
from .views import VersionView

_PACKAGE: Final = "/neurogate.v1."
_CODES: Final = {code.value[0]: code.name for code in grpc.StatusCode}


class CallMeasures:
    """Told by the interceptor of every call that has ended."""

    def __init__(self, metrics: Metrics) -> None:
        self._calls = metrics.counter(
            "neurogate_requests_total", "Calls that have ended, by method and status.", "method", "code"
        )
        self._seconds = metrics.histogram(
            "neurogate_request_seconds", "Time from a call's message to its end, streams whole.", "method"
        )
        self._refusals = metrics.counter(
            "neurogate_refusals_total", "Calls that ended with an error, by its reason.", "reason"
        )

    def ended(self, method: str, error: GatewayError | None, seconds: float) -> None:
        """One call has ended; `method` is a path that the gateway serves."""
        name = method.removeprefix(_PACKAGE)
        self._calls.labels(name, "OK" if error is None else _CODES[error.code]).inc()
        if error is not None:
            self._refusals.labels(error.reason_name()).inc()
        self._seconds.labels(name).observe(seconds)


class ImageMeasures:
    """Observes what becomes of every image."""

    def __init__(self, metrics: Metrics) -> None:
        self._images = metrics.counter(
            "neurogate_images_total",
            "Images that were answered, by version, label and verdict.",
            *("version", "label", "verdict"),
        )
        self._failures = metrics.counter(
            "neurogate_image_failures_total",
            "Images that the version or the model server failed on, by reason.",
            *("version", "label", "reason"),
        )
        self._seconds = metrics.histogram(
            "neurogate_image_seconds", "Time from an image's admission to its answer.", "version"
        )

    def observe(self, outcome: Outcome) -> None:
        """Counts one."""
        version, label = str(outcome.choice.version.number), outcome.choice.label
        if outcome.error is not None:
            self._failures.labels(version, label, outcome.error.reason_name()).inc()
        if outcome.answer is not None:
            verdict = classification_pb2.Verdict.Name(outcome.answer.classification.verdict)
            self._images.labels(version, label, verdict.removeprefix("VERDICT_")).inc()
            self._seconds.labels(version).observe(outcome.seconds)


class FleetMeasures:
    """Versions by state, rejections by kind, and whether the model servers can be reached."""

    def __init__(self, metrics: Metrics, fleet: Fleet) -> None:
        self._fleet = fleet
        self._rejections = metrics.counter(
            "neurogate_versions_rejected_total", "Rejections of versions by model servers, by kind.", "kind"
        )
        self._counted: dict[int, dict[str, float]] = {}
        """By version and model server: since when those that are REJECTED now are."""
        metrics.gauge(
            "neurogate_versions", "Versions by model server and state.", self._versions, "backend", "state"
        )
        metrics.gauge(
            "neurogate_backend_up", "1 for a model server that can be reached.", self._up, "backend"
        )
        fleet.subscribe(self._changed)

    def _changed(self, view: VersionView) -> None:
        before = self._counted.pop(view.number, {})
        rejected = [there for there in view.backends if there.state == REJECTED]
        for there in rejected:
            if before.get(there.address) != there.since:
                self._rejections.labels(str(there.kind)).inc()
        if rejected:
            self._counted[view.number] = {there.address: there.since for there in rejected}

    def _versions(self) -> Values:
        states: dict[tuple[str, ...], float] = collections.defaultdict(float)
        for view in self._fleet.versions():
            for there in view.backends:
                name = State.Name(there.state).removeprefix("MODEL_VERSION_STATE_")
                states[there.address, name] += 1
        return states

    def _up(self) -> Values:
        return {(address,): float(up) for address, up in self._fleet.backends.items()}


class PlaceMeasures:
    """The calls to each model server, and those that it refuses for want of a thread."""

    def __init__(self, metrics: Metrics, fleet: Fleet) -> None:
        for name, text, read in (
            ("limit", "Most calls to a model server at once.", lambda places: places.limit.value),
            ("in_flight", "Calls that a model server has not answered yet.", lambda places: places.in_flight),
            ("waiting", "Calls that wait for a place at a model server.", lambda places: places.waiting),
        ):
            values = functools.partial(_by_backend, fleet, read)
            metrics.gauge(f"neurogate_backend_calls_{name}", text, values, "backend")
        refused = metrics.counter(
            "neurogate_backend_calls_refused_total",
            "Calls that a model server had no thread for; they are sent again.",
            "backend",
        )
        fleet.on_refusal.add(lambda address: refused.labels(address).inc())


def _by_backend(fleet: Fleet, read: Callable[[Places], int]) -> Values:
    return {(address,): read(places) for address, places in fleet.places.items()}


def measure_admission(metrics: Metrics, admission: Admission) -> None:
    """Shows how full the gateway is."""
    metrics.gauge("neurogate_images_in_flight", "Images that hold a slot.", lambda: {(): admission.in_flight})
    metrics.gauge(
        "neurogate_bulk_calls_open", "Batches and streams that are open.", lambda: {(): admission.bulk_calls}
    )
