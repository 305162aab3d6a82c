"""From what a version says about an image to what the caller is told."""

from __future__ import annotations

import dataclasses
import os
import time

from google.protobuf import duration_pb2
from neurogate.v1 import classification_pb2, error_pb2, model_pb2

from neurogate_gateway.backends.tfs_messages import Floats, Outputs
from neurogate_gateway.backends.verification import ServedVersion
from neurogate_gateway.errors import GatewayError


@dataclasses.dataclass(frozen=True, slots=True)
class StageTimings:
    """Where the time of one image went."""

    queue: float
    transform: float
    predict: float


@dataclasses.dataclass(frozen=True, slots=True)
class ResolvedVersion:
    """The version that is to answer, how it was chosen, and how many scores it is to give."""

    version: ServedVersion
    label: str
    """By which the version was chosen; empty for a choice by number."""
    top_k: int

    @property
    def reference(self) -> model_pb2.ModelVersionRef:
        """The version as an answer names it."""
        return model_pb2.ModelVersionRef(
            name=self.version.model,
            version=self.version.number,
            label=self.label,
            manifest_digest=self.version.digest,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Prediction:
    """What one version says about one image."""

    choice: ResolvedVersion
    outputs: Outputs
    classification: classification_pb2.Classification


@dataclasses.dataclass(frozen=True, slots=True)
class Explanation:
    """An answer with the evidence for one class.

    Attributes:
        answer: All classes.
        class_id: The class that is explained.
        values: Its evidence map, f32 [h, w], 0 or more.
        picture: The map over the image, PNG.
    """

    answer: Prediction
    class_id: str
    values: Floats
    picture: bytes


def classification(
    choice: ResolvedVersion, outputs: Outputs, seconds: StageTimings
) -> classification_pb2.Classification:
    """The outputs as the contract's message: scores in order, and a verdict."""
    return classification_pb2.Classification(
        scores=_scores(choice.version, outputs.probabilities, choice.top_k),
        verdict=_verdict(choice.version, outputs),
        prediction_id=_new_id(),
        ood_score=outputs.ood_score,
        timings=classification_pb2.Timings(
            queue=_duration(seconds.queue),
            transform=_duration(seconds.transform),
            predict=_duration(seconds.predict),
        ),
    )


def gone(version: ServedVersion) -> GatewayError:
    """The refusal of a call whose version was unloaded under it."""
    return GatewayError(
        error_pb2.ERROR_REASON_MODEL_VERSION_NOT_FOUND,
        f"version {version.number} of model {version.model} was unloaded by the model server",
        resource=("model_version", f"{version.model}/{version.number}"),
    )


def check_top_k(top_k: int, version: ServedVersion | None = None) -> None:
    """Refuses a number of scores that cannot be given.

    Args:
        top_k: The number.
        version: Whose classes count; None where it is not known yet.

    Raises:
        GatewayError (TOP_K_OUT_OF_RANGE): It is negative, or larger than the number of classes.
    """
    most = len(version.classes) if version is not None else None
    if top_k < 0 or (most is not None and top_k > most):
        wanted = "0 (all classes) or more" if most is None else f"0 (all classes) to {most}"
        raise GatewayError(
            error_pb2.ERROR_REASON_TOP_K_OUT_OF_RANGE, f"top_k is {top_k}, expected {wanted}", field="top_k"
        )


def _new_id() -> str:
    """32 hexadecimal digits: the time in milliseconds, then 80 random bits.

    In the order of time, because an index over random ones costs a page for every row.
    """
    return f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"


def _scores(version: ServedVersion, probabilities: Floats, top_k: int) -> list[classification_pb2.ClassScore]:
    values: list[float] = probabilities.tolist()
    order = sorted(range(len(values)), key=lambda index: (-values[index], index))
    return [
        classification_pb2.ClassScore(
            class_id=version.classes[index][0],
            display_name=version.classes[index][1],
            index=index,
            probability=values[index],
        )
        for index in order[: top_k or len(order)]
    ]


def _verdict(version: ServedVersion, outputs: Outputs) -> classification_pb2.Verdict:
    limit = version.out_of_distribution_above
    if limit is not None and outputs.ood_score > limit:
        return classification_pb2.VERDICT_OUT_OF_DISTRIBUTION
    if float(outputs.probabilities.max()) < version.manifest.thresholds.abstain_below:
        return classification_pb2.VERDICT_ABSTAIN
    return classification_pb2.VERDICT_CONFIDENT


def _duration(seconds: float) -> duration_pb2.Duration:
    nanos = round(max(seconds, 0.0) * 1e9)
    return duration_pb2.Duration(seconds=nanos // 10**9, nanos=nanos % 10**9)
