"""What is counted of images, and how full the gateway is."""

from __future__ import annotations

from neurogate.v1 import classification_pb2

from neurogate_gateway.observability.metrics import Metrics

from .admission import Admission
from .pipeline import PredictionEvent


class ImageMetrics:
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

    def observe(self, event: PredictionEvent) -> None:
        """Counts one."""
        version, label = str(event.resolved.version.number), event.resolved.label
        if event.error is not None:
            self._failures.labels(version, label, event.error.reason_name()).inc()
        if event.answer is not None:
            verdict = classification_pb2.Verdict.Name(event.answer.classification.verdict)
            self._images.labels(version, label, verdict.removeprefix("VERDICT_")).inc()
            self._seconds.labels(version).observe(event.seconds)


def measure_admission(metrics: Metrics, admission: Admission) -> None:
    """Shows how full the gateway is."""
    metrics.gauge("neurogate_images_in_flight", "Images that hold a slot.", lambda: {(): admission.in_flight})
    metrics.gauge(
        "neurogate_bulk_calls_open",
        "Batches and streams that are open.",
        lambda: {(): admission.bulk_calls.count},
    )
