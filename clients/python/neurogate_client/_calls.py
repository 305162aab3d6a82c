"""Requests from arguments and results from responses; nothing in here calls, waits or reads a file."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping
from typing import TypeAlias, TypeVar

from google.protobuf import duration_pb2, wrappers_pb2
from neurogate.v1 import classification_pb2, model_pb2, training_pb2

from . import _channel
from .errors import (
    BatchSizeError,
    DeadlineExceededError,
    ModelNotReadyError,
    NeurogateError,
    UnavailableError,
    UnexpectedError,
    from_status,
)
from .types import (
    COLOR_MAPS,
    ActivationMap,
    Classification,
    Explanation,
    Health,
    HealthStatus,
    ModelRef,
    Result,
    Score,
    Timings,
    Verdict,
    enum_name,
)

K = TypeVar("K")

# The client is to need no grpcio-health-checking. HealthCheckRequest is one string in field 1 and its
# response one enum in field 1, which is what protobuf's StringValue and Int32Value look like on the wire.
HEALTH_METHOD = "/grpc.health.v1.Health/Check"
HealthRequest: TypeAlias = wrappers_pb2.StringValue
HealthResponse: TypeAlias = wrappers_pb2.Int32Value

_POLL_SECONDS = 0.1
_LOOK_SECONDS = 5.0
"""For one health check of several."""

_LARGEST_PAGE = 100

# Tag and length before each item's bytes, with room for the other fields of the request.
_ITEM_OVERHEAD = 16
_REQUEST_OVERHEAD = 4096

_HEALTH = (
    HealthStatus.UNKNOWN, HealthStatus.SERVING, HealthStatus.NOT_SERVING, HealthStatus.SERVICE_UNKNOWN,
)  # fmt: skip


def new_request_id() -> str:
    return uuid.uuid4().hex


def page_size(limit: int) -> int:
    """Items to ask for in each page of a list of at most `limit`."""
    return max(0, min(limit, _LARGEST_PAGE))


def build_selector(model: str, version: int | None, label: str | None) -> model_pb2.ModelSelector | None:
    """The selector for these options; None, which the gateway reads as "stable", when none is given.

    Raises:
        ValueError: both a version and a label.
    """
    if version is not None and label is not None:
        raise ValueError(f"give either a version ({version}) or a label ({label!r}), not both")
    if version is None and label is None and not model:
        return None
    return model_pb2.ModelSelector(name=model, version=version, label=label)


def build_overlay(
    color_map: str | None, alpha: float | None, max_side: int
) -> classification_pb2.OverlayOptions:
    """Options of the overlay.

    Raises:
        ValueError: a colour map that the contract does not have.
    """
    if color_map is not None and color_map.lower() not in COLOR_MAPS:
        raise ValueError(f"no colour map {color_map!r}; there are {', '.join(COLOR_MAPS)}")
    return classification_pb2.OverlayOptions(
        color_map=f"COLOR_MAP_{color_map.upper()}" if color_map is not None else None,
        alpha=alpha,
        max_side=max_side,
    )


def build_batch(
    images: Iterable[tuple[bytes, int]],
    count: int,
    max_image_bytes: int,
    *,
    model: model_pb2.ModelSelector | None,
    top_k: int,
    request_id: str,
    routing_key: str,
) -> classification_pb2.BatchClassifyRequest:
    """A batch of `count` encoded images with their frames; none is asked for beyond the limit.

    Raises:
        BatchSizeError: no images, or more bytes than one message may have.
    """
    if not count:
        raise BatchSizeError("a batch needs at least one image", reason="BATCH_EMPTY")
    message_limit = _channel.max_message_bytes(max_image_bytes)
    request = classification_pb2.BatchClassifyRequest(
        model=model, top_k=top_k, request_id=request_id, routing_key=routing_key
    )
    total = _REQUEST_OVERHEAD
    for position, (data, frame) in enumerate(images):
        total += len(data) + _ITEM_OVERHEAD
        if total > message_limit:
            raise BatchSizeError(
                f"the first {position + 1} of {count} images pass the limit of {message_limit:,} bytes "
                "for one message; use stream_classify, or smaller batches",
                reason="BATCH_TOO_LARGE",
                metadata={"max_message_bytes": str(message_limit)},
            )
        request.items.add(image=data, frame=frame)
    return request


def build_feedback(
    prediction_id: str, class_id: str, not_mri: bool, comment: str, request_id: str
) -> training_pb2.SubmitFeedbackRequest:
    """What an answer should have been.

    Raises:
        ValueError: neither a class nor `not_mri`, or both.
    """
    if bool(class_id) == not_mri:
        raise ValueError("give either the right class_id, or not_mri=True")
    request = training_pb2.SubmitFeedbackRequest(
        prediction_id=prediction_id, comment=comment, request_id=request_id or new_request_id()
    )
    if not_mri:
        request.not_mri = True
    else:
        request.class_id = class_id
    return request


def build_retraining(
    *,
    warm_start_version: int | None,
    from_scratch: bool,
    examples: training_pb2.ExampleFilter | None,
    hyperparameters: Mapping[str, object] | None,
    launcher: str,
    promote: bool,
    gate_policy: str,
    request_id: str,
) -> training_pb2.StartRetrainingRequest:
    """The start of a retraining.

    Raises:
        ValueError: both `warm_start_version` and `from_scratch`.
    """
    if warm_start_version is not None and from_scratch:
        raise ValueError("give either warm_start_version or from_scratch=True, not both")
    spec = training_pb2.RetrainingSpec(
        warm_start_version=warm_start_version,
        examples=examples,
        hyperparameters={name: str(value) for name, value in (hyperparameters or {}).items()},
        launcher=launcher,
        promote=promote,
        gate_policy=gate_policy,
    )
    if from_scratch:
        spec.from_scratch = True
    return training_pb2.StartRetrainingRequest(spec=spec, request_id=request_id or new_request_id())


def parse_model_ref(message: model_pb2.ModelVersionRef) -> ModelRef:
    return ModelRef(message.name, message.version, message.label, message.manifest_digest)


def parse_classification(
    message: classification_pb2.Classification, model: ModelRef, request_id: str = ""
) -> Classification:
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
        verdict=_verdict(message),
        model=model,
        prediction_id=message.prediction_id,
        ood_score=message.ood_score,
        timings=Timings(_seconds(timings.queue), _seconds(timings.transform), _seconds(timings.predict)),
        request_id=request_id,
    )


def _verdict(message: classification_pb2.Classification) -> Verdict:
    name = enum_name(message, "verdict")
    return Verdict(name) if name in Verdict.__members__ else Verdict.UNKNOWN


def _seconds(duration: duration_pb2.Duration) -> float:
    # Not by a timedelta, which cannot hold every duration.
    return duration.seconds + duration.nanos / 1e9


def parse_classify(response: classification_pb2.ClassifyResponse) -> Classification:
    return parse_classification(response.classification, parse_model_ref(response.model), response.request_id)


def parse_result(
    key: K,
    message: classification_pb2.BatchClassifyResult | classification_pb2.StreamClassifyResponse,
    model: ModelRef,
    request_id: str = "",
) -> Result[K]:
    if message.WhichOneof("result") == "classification":
        answer = parse_classification(message.classification, model, request_id)
        return Result(key, classification=answer, model=model)
    if message.WhichOneof("result") == "error":
        return Result(key, error=from_status(message.error), model=model)
    return Result(key, error=UnexpectedError("the gateway sent neither an answer nor an error"), model=model)


def parse_batch(sent: int, response: classification_pb2.BatchClassifyResponse) -> list[Result[int]]:
    """The results of a batch of `sent` images.

    Raises:
        UnexpectedError: another number of results.
    """
    if len(response.results) != sent:
        raise UnexpectedError(f"{sent} images were sent and {len(response.results)} results came")
    model = parse_model_ref(response.model)
    return [parse_result(at, each, model, response.request_id) for at, each in enumerate(response.results)]


def parse_explanation(response: classification_pb2.ExplainResponse) -> Explanation:
    model = parse_model_ref(response.model)
    return Explanation(
        classification=parse_classification(response.classification, model, response.request_id),
        class_id=response.class_id,
        activation_map=ActivationMap(response.map.height, response.map.width, tuple(response.map.values)),
        overlay_png=response.overlay_png,
        map_caution=response.map_caution,
    )


def parse_health(service: str, response: HealthResponse) -> Health:
    known = 0 <= response.value < len(_HEALTH)
    return Health(service, _HEALTH[response.value] if known else HealthStatus.UNKNOWN)


class Readiness:
    """A wait for a gateway that takes work: how long each step is, and what was answered last.

    Args:
        target: the gateway, for messages.
        timeout: seconds for all of it.
    """

    def __init__(self, target: str, timeout: float) -> None:
        _channel.check_timeout("timeout", timeout)
        self._target = target
        self._timeout = timeout
        self._end = time.monotonic() + timeout
        self.last: NeurogateError | None = None

    def look_seconds(self) -> float:
        """Timeout of the next health check; not above 0 when the wait is over."""
        return min(self._end - time.monotonic(), _LOOK_SECONDS)

    def pause_seconds(self) -> float:
        return min(_POLL_SECONDS, max(0.0, self._end - time.monotonic()))

    def failed(self, error: NeurogateError, seconds: float) -> None:
        # That the time left for the last look was short says nothing of the gateway.
        if self.last is None or seconds >= _LOOK_SECONDS or not isinstance(error, DeadlineExceededError):
            self.last = error

    def refused(self, health: Health) -> None:
        self.last = ModelNotReadyError(f"the gateway at {self._target} answers {health.status}")

    def failure(self) -> UnavailableError:
        said = self.last.message if self.last else "no answer"
        return UnavailableError(f"not ready after {self._timeout:g} s: {said}")
