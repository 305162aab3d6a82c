"""Between TrainingService's messages and what callers see."""

from __future__ import annotations

import datetime as dt
from typing import Any

from neurogate.v1 import training_pb2 as pb

from ._status import from_status, seconds
from ._wire_common import named, time_of
from ._wire_models import gate_report
from .errors import UnexpectedError
from .results_training import (
    Example,
    ExampleFilter,
    ExamplePage,
    ExampleSource,
    Feedback,
    Logged,
    PhaseBegan,
    Progressed,
    Retraining,
    RetrainingEvent,
    RetrainingState,
    StateChanged,
    UploadResult,
)


def upload_result(
    key: object, class_id: str, resent: bool, message: pb.UploadExamplesResponse
) -> UploadResult:
    """What became of one image."""
    if message.WhichOneof("result") == "example":
        kept = message.example
        return UploadResult(key, class_id, kept.example_id, kept.duplicate, resent)
    error = (
        from_status(message.error)
        if message.WhichOneof("result") == "error"
        else UnexpectedError("the gateway sent neither an example nor an error")
    )
    return UploadResult(key, class_id, resent=resent, error=error)


def feedback(message: pb.SubmitFeedbackResponse) -> Feedback:
    """What feedback turned into."""
    return Feedback(message.feedback_id, message.example_id, message.confirmed)


def example_filter(wanted: ExampleFilter | None) -> pb.ExampleFilter | None:
    """The filter on the wire.

    Raises:
        ValueError: a time without a zone.
    """
    if wanted is None:
        return None
    source = f"EXAMPLE_SOURCE_{wanted.source.value}" if wanted.source is not None else None
    message = pb.ExampleFilter(class_ids=wanted.class_ids, source=source)
    for name, moment in (("from_time", wanted.from_time), ("to_time", wanted.to_time)):
        if moment is not None:
            if moment.tzinfo is None:
                raise ValueError(f"{name} is {moment}, which has no time zone")
            getattr(message, name).FromDatetime(moment.astimezone(dt.UTC))
    return message


def example_page(message: pb.ListExamplesResponse) -> ExamplePage:
    """Some examples."""
    return ExamplePage(
        tuple(map(example, message.examples)), message.next_page_token, dict(message.total_by_class)
    )


def example(message: pb.Example) -> Example:
    """One labelled image."""
    return Example(
        example_id=message.example_id,
        class_id=message.class_id,
        source=named(ExampleSource, message, "source"),
        create_time=time_of(message, "create_time"),
        width=message.width,
        height=message.height,
        size_bytes=message.size_bytes,
        thumbnail=message.thumbnail,
        prediction_id=message.prediction_id,
        group=message.group,
        sent_sha256=message.sent_sha256,
        attributes=dict(message.attributes),
    )


def retraining(message: pb.Retraining) -> Retraining:
    """One retraining."""
    spec = message.spec
    return Retraining(
        retraining_id=message.retraining_id,
        state=named(RetrainingState, message, "state"),
        warm_start_version=spec.warm_start_version
        if spec.WhichOneof("base") == "warm_start_version"
        else None,
        hyperparameters=dict(spec.hyperparameters),
        launcher=spec.launcher,
        promote=spec.promote,
        gate_policy=spec.gate_policy,
        create_time=time_of(message, "create_time"),
        start_time=time_of(message, "start_time"),
        end_time=time_of(message, "end_time"),
        last_sequence=message.last_sequence,
        version=message.version,
        gate=gate_report(message.gate) if message.HasField("gate") else None,
        error=message.error,
        actor=message.actor,
        examples_by_class=dict(message.examples_by_class),
        examples_digest=message.examples_digest,
    )


def retraining_event(message: pb.RetrainingEvent) -> RetrainingEvent | None:
    """One event; None for a kind that this client is too old to know."""
    when: dict[str, Any] = {"sequence": message.sequence, "time": time_of(message, "time")}
    match message.WhichOneof("event"):
        case "state_change":
            change = message.state_change
            return StateChanged(
                **when,
                state=named(RetrainingState, change, "state"),
                retraining=retraining(change.retraining),
            )
        case "phase":
            return PhaseBegan(
                **when, name=message.phase.name, total=message.phase.total, unit=message.phase.unit
            )
        case "progress":
            done = message.progress
            return Progressed(
                **when,
                phase=done.phase,
                step=done.step,
                total=done.total,
                epoch=done.epoch,
                metrics=dict(done.metrics),
                remaining=seconds(done.remaining) if done.HasField("remaining") else None,
            )
        case "log":
            return Logged(**when, level=message.log.level, text=message.log.text)
        case _:
            return None
