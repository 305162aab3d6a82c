"""Between the contract's messages and what callers see."""

from __future__ import annotations

from typing import TypeVar

from neurogate.v1 import classification_pb2 as pb
from neurogate.v1 import model_pb2

from ._status import from_status, seconds
from ._wire_common import named
from .errors import UnexpectedError
from .results import (
    ActivationMap,
    Classification,
    Explanation,
    HealthStatus,
    ModelRef,
    Result,
    Score,
    Timings,
    Verdict,
)

K = TypeVar("K")

_HEALTH = {
    0: HealthStatus.UNKNOWN,
    1: HealthStatus.SERVING,
    2: HealthStatus.NOT_SERVING,
    3: HealthStatus.SERVICE_UNKNOWN,
}


def selector(model: str, version: int | None, label: str | None) -> model_pb2.ModelSelector | None:
    """The selector for these options; None, which the gateway reads as "stable", when none is given.

    Raises:
        ValueError: both a version and a label.
    """
    if version is not None and label is not None:
        raise ValueError(f"give either a version ({version}) or a label ({label!r}), not both")
    if version is not None:
        return model_pb2.ModelSelector(name=model, version=version)
    if label is not None:
        return model_pb2.ModelSelector(name=model, label=label)
    return model_pb2.ModelSelector(name=model) if model else None


def overlay(color_map: str | None, alpha: float | None, max_side: int) -> pb.OverlayOptions:
    """Options of the overlay.

    Raises:
        ValueError: a colour map that the contract does not have.
    """
    if color_map is not None and color_map.lower() not in color_map_names():
        raise ValueError(f"no colour map {color_map!r}; there are {', '.join(color_map_names())}")
    return pb.OverlayOptions(
        color_map=f"COLOR_MAP_{color_map.upper()}" if color_map is not None else None,
        alpha=alpha,
        max_side=max_side,
    )


def color_map_names() -> list[str]:
    """The contract's colour maps in lower case, the default first."""
    return [name.removeprefix("COLOR_MAP_").lower() for name, value in pb.ColorMap.items() if value]


def model_ref(message: model_pb2.ModelVersionRef) -> ModelRef:
    """The version that answered."""
    return ModelRef(message.name, message.version, message.label, message.manifest_digest)


def classification(message: pb.Classification, model: ModelRef, request_id: str = "") -> Classification:
    """One answer.

    Raises:
        UnexpectedError: an answer without scores, which the contract does not allow.
    """
    if not message.scores:
        raise UnexpectedError("the gateway answered without scores")
    timings = message.timings
    return Classification(
        scores=tuple(
            Score(each.class_id, each.display_name, each.index, each.probability) for each in message.scores
        ),
        verdict=named(Verdict, message, "verdict"),
        model=model,
        prediction_id=message.prediction_id,
        ood_score=message.ood_score,
        timings=Timings(
            queue=seconds(timings.queue),
            transform=seconds(timings.transform),
            predict=seconds(timings.predict),
        ),
        request_id=request_id,
    )


def item_result(
    key: K, message: pb.BatchClassifyResult | pb.StreamClassifyResponse, model: ModelRef, request_id: str = ""
) -> Result[K]:
    """What became of one image of a batch or stream."""
    if message.WhichOneof("result") == "classification":
        return Result(
            key, classification=classification(message.classification, model, request_id), model=model
        )
    if message.WhichOneof("result") == "error":
        return Result(key, error=from_status(message.error), model=model)
    return Result(key, error=UnexpectedError("the gateway sent neither an answer nor an error"), model=model)


def explanation(message: pb.ExplainResponse) -> Explanation:
    """An explanation with its answer."""
    return Explanation(
        classification=classification(message.classification, model_ref(message.model), message.request_id),
        class_id=message.class_id,
        activation_map=ActivationMap(message.map.height, message.map.width, tuple(message.map.values)),
        overlay_png=message.overlay_png,
        map_caution=message.map_caution,
    )


def health_status(value: int) -> HealthStatus:
    """A status of `grpc.health.v1`."""
    return _HEALTH.get(value, HealthStatus.UNKNOWN)
