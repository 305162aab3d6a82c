"""What the gateway counts of its own: calls, images, versions and model servers."""

from __future__ import annotations

import collections
from collections.abc import Callable

from neurogate_gateway.observability.metrics import Metrics, Values

from .concurrency import CallSlots
from .pool import BackendPool
from .versions import REJECTED, State, VersionView


class VersionMetrics:
    """Versions by state, rejections by kind, and whether the model servers can be reached."""

    def __init__(self, metrics: Metrics, pool: BackendPool) -> None:
        self._pool = pool
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
        pool.version_changed.add(self._count)

    def _count(self, view: VersionView) -> None:
        before = self._counted.pop(view.number, {})
        rejected = [there for there in view.backends if there.state == REJECTED]
        for there in rejected:
            if before.get(there.address) != there.since:
                self._rejections.labels(str(there.kind)).inc()
        if rejected:
            self._counted[view.number] = {there.address: there.since for there in rejected}

    def _versions(self) -> Values:
        states: dict[tuple[str, ...], float] = collections.defaultdict(float)
        for view in self._pool.versions():
            for there in view.backends:
                name = State.Name(there.state).removeprefix("MODEL_VERSION_STATE_")
                states[there.address, name] += 1
        return states

    def _up(self) -> Values:
        return {(address,): float(up) for address, up in self._pool.backends.items()}


def measure_calls(metrics: Metrics, pool: BackendPool) -> None:
    """Shows the calls to each model server, and counts those that it refuses for want of a thread."""

    def show(name: str, text: str, read: Callable[[CallSlots], int]) -> None:
        def values() -> Values:
            return {(address,): read(slots) for address, slots in pool.slots.items()}

        metrics.gauge(f"neurogate_backend_calls_{name}", text, values, "backend")

    show("limit", "Most calls to a model server at once.", lambda slots: slots.limit.value)
    show("in_flight", "Calls that a model server has not answered yet.", lambda slots: len(slots.calls))
    show("waiting", "Calls that wait for a slot at a model server.", lambda slots: slots.waiting)
    refused = metrics.counter(
        "neurogate_backend_calls_refused_total",
        "Calls that a model server had no thread for; they are sent again.",
        "backend",
    )
    pool.on_refusal.add(lambda address: refused.labels(address).inc())
