"""What the release, the shadow, the guards and the gate come to, as metrics."""

from __future__ import annotations

from neurogate.v1 import model_pb2
from neurogate_core.release_store import Release

from neurogate_gateway.observability.metrics import Metrics, Values

from .controller import ReleaseController
from .gate import Evaluator
from .guards import GuardWatch
from .shadow import Shadow


class ReleaseMetrics:
    """Labels, changes, guards, verdicts, and how shadow and "stable" agree."""

    def __init__(
        self,
        metrics: Metrics,
        controller: ReleaseController,
        shadow: Shadow,
        guard_watch: GuardWatch,
        evaluator: Evaluator | None,
    ) -> None:
        self._controller = controller
        self._shadow = shadow
        self._evaluator = evaluator
        self._changes = metrics.counter(
            "neurogate_release_changes_total", "Changes of the release that this gateway has seen.", "action"
        )
        self._verdicts = metrics.counter(
            "neurogate_gate_verdicts_total", "Verdicts of the gate on this gateway.", "accepted"
        )
        gauge = metrics.gauge
        gauge(
            "neurogate_release_version",
            "Version that a label means.",
            lambda: {(label,): version for label, version in controller.release.state.labels.items()},
            "label",
        )
        gauge(
            "neurogate_canary_percent",
            "Share of the canary.",
            lambda: {(): controller.release.state.canary_percent},
        )
        gauge(
            "neurogate_shadow_images",
            "Images of the present shadow, by the class of stable and of the shadow.",
            self._matrix,
            "stable_class",
            "shadow_class",
        )
        gauge("neurogate_shadow_copies", "Copies of the present shadow.", self._copies, "outcome")
        gauge(
            "neurogate_shadow_probability_shift",
            "Mean distance between the two probabilities of stable's class.",
            lambda: {(): seen.mean_probability_shift} if (seen := shadow.agreement()) else {},
        )
        gauge(
            "neurogate_guard_value",
            "What a guard saw in its last window.",
            lambda: {(state.name, str(state.version)): state.value for state in guard_watch.states()},
            "guard",
            "version",
        )
        gauge(
            "neurogate_guard_breaches",
            "Breaches in a row.",
            lambda: {(state.name, str(state.version)): state.breaches for state in guard_watch.states()},
            "guard",
            "version",
        )
        controller.changed.add(self._changed)
        if evaluator is not None:
            evaluator.reported.add(self._judged)

    def _changed(self, before: Release) -> None:
        change = self._controller.release.last_change
        # What was there when the gateway started is no change.
        if change is not None and before.last_change is not None:
            self._changes.labels(change.action).inc()

    def _judged(self, version: int) -> None:
        report = self._evaluator.last_report(version) if self._evaluator is not None else None
        if report is not None:
            self._verdicts.labels("true" if report.accepted else "false").inc()

    def _matrix(self) -> Values:
        seen = self._shadow.agreement() or model_pb2.ShadowAgreement()
        pairs = [(row, column) for row in seen.class_ids for column in seen.class_ids]
        return dict(zip(pairs, seen.counts, strict=True))

    def _copies(self) -> Values:
        seen = self._shadow.agreement()
        if seen is None:
            return {}
        return {("compared",): seen.compared, ("dropped",): seen.dropped, ("failed",): seen.failed}
