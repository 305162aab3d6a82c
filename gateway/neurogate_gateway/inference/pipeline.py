"""The way of an image: admission -> version -> transform -> model server -> prediction.

Single images, explanations, the images of batches and streams, and those that no caller waits for take it
alike. It knows messages of the contract but nothing of gRPC: servicers call it, and so could anything else.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from google.protobuf import duration_pb2
from neurogate.v1 import classification_pb2, error_pb2, model_pb2

from neurogate_gateway.backends.concurrency import CallKind
from neurogate_gateway.backends.pool import DEADLINE_MARGIN_SECONDS, BackendPool
from neurogate_gateway.backends.tfserving import Floats, Outputs, VersionUnloadedError
from neurogate_gateway.backends.verification import ServedVersion
from neurogate_gateway.deadline import Deadline
from neurogate_gateway.errors import (
    DeadlineTooShortError,
    GatewayError,
    VersionLostError,
)
from neurogate_gateway.observability.logging import call_record, internal_error, log

from .admission import Admission, Slot
from .explain import Overlay
from .preprocessing import Submitted, Transformed, TransformPool


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

    resolved: ResolvedVersion
    outputs: Outputs
    classification: classification_pb2.Classification
    explanation: Explanation | None = None
    """Where it was asked for."""


@dataclasses.dataclass(frozen=True, slots=True)
class ExplanationRequest:
    """The evidence for which class is wanted (empty: for the most probable one), and how it is drawn."""

    class_id: str
    overlay: Overlay


@dataclasses.dataclass(frozen=True, slots=True)
class Explanation:
    """The evidence for one class: its map, f32 [h, w], 0 or more, and the map over the image as PNG."""

    class_id: str
    values: Floats
    picture: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class PredictionEvent:
    """What became of one image that a version was asked about for a caller.

    Every such image has one event, whether it came alone, in a batch, in a stream or for an explanation. It
    tells of a failure when the version or the model server failed: it cannot be reached, is full, answers
    nonsense, breaks, or does not answer by the deadline that was passed on to it. There is no event for what
    is refused before the version is asked (an image that cannot be decoded, a deadline that is over, too much
    in flight), and none for a version that was unloaded when the image is sent to another one instead.

    Attributes:
        resolved: The version, and the label by which it was chosen.
        image: Encoded, as the caller sent it; of a DICOM file the frame's picture, never the file.
        answer: What the version said; None when it failed.
        error: Why it failed; None when it answered.
        seconds: From admission to answer or failure.
        caller: The peer's identity; empty where it is not known.
        attributes: Of a DICOM file, what may be kept of its header; of others nothing.
    """

    resolved: ResolvedVersion
    image: bytes
    answer: Prediction | None
    error: GatewayError | None
    seconds: float
    caller: str = ""
    attributes: Mapping[str, str] = dataclasses.field(default_factory=dict)


class PredictionObserver(Protocol):
    """Gets every event, on the event loop, before the caller has the answer."""

    def observe(self, event: PredictionEvent) -> None:
        """Takes note; returns at once and never raises."""


class Router(Protocol):
    """Knows which version a selector means, and whether one that was chosen may still answer."""

    async def resolve(
        self, selector: model_pb2.ModelSelector, deadline: Deadline, key: str = ""
    ) -> tuple[ServedVersion, str]:
        """The version that is meant, and the label by which it was found ("" for a number).

        Raises:
            GatewayError: None may answer.
        """

    async def confirm(self, version: ServedVersion, deadline: Deadline) -> None:
        """Waits until a version that was chosen earlier may answer, which it nearly always may at once.

        Raises:
            VersionUnloadedError: It is no longer the one that was chosen.
            VersionLostError: It cannot be reached, or is verified again, and nobody knows for how long.
        """


class InferencePipeline:
    """Answers for single images, batches, the images of streams, and images that no caller waits for."""

    def __init__(
        self,
        *,
        admission: Admission,
        router: Router,
        backends: BackendPool,
        transforms: TransformPool,
        image_timeout: float,
        window: int,
    ) -> None:
        self.observers: tuple[PredictionObserver, ...] = ()
        """Who gets an event for every image of a caller."""
        self._admission = admission
        self._router = router
        self._transforms = transforms
        self._backends = backends
        self._image_timeout = image_timeout
        self._window = window

    async def classify(
        self,
        image: Submitted,
        selector: model_pb2.ModelSelector,
        *,
        top_k: int,
        deadline: Deadline,
        key: str = "",
        explain: ExplanationRequest | None = None,
    ) -> Prediction:
        """One image by itself.

        Args:
            image: What the caller sent.
            selector: Which version.
            top_k: Number of scores; 0 means all.
            deadline: By when.
            key: The caller's side of the traffic split, as in `VersionRouter.resolve`.
            explain: The evidence that is wanted; None for none.

        Raises:
            GatewayError: Why there is no answer.
        """
        asked = time.perf_counter()
        with self._admission.single(image.data, deadline) as slot:
            async with deadline.enforced():
                for last_try in (False, True):
                    resolved = await self.resolve(selector, top_k, deadline, key)
                    try:
                        return await self._predict(
                            image,
                            resolved,
                            slot,
                            deadline,
                            kind=CallKind.SINGLE,
                            asked=asked,
                            explain=explain,
                        )
                    except VersionUnloadedError:
                        _check_retry(resolved, last_try=last_try)
        raise AssertionError

    async def classify_batch(
        self,
        images: Sequence[Submitted],
        selector: model_pb2.ModelSelector,
        *,
        top_k: int,
        deadline: Deadline,
        key: str = "",
    ) -> tuple[ResolvedVersion, list[Prediction | GatewayError]]:
        """Several images by one version; what fails by itself has its error in the place of the answer.

        Raises:
            GatewayError: Why there is no answer at all.
        """
        self._admission.check_deadline(deadline)
        window = asyncio.Semaphore(self._window)

        async def one(image: Submitted) -> Prediction | GatewayError:
            async with window:
                return await self.classify_with(resolved, image, deadline)

        for last_try in (False, True):
            resolved = await self.resolve(selector, top_k, deadline, key)
            try:
                # Unlike gather, the group stops the other images when one of them finds the version unloaded.
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(one(image)) for image in images]
                return resolved, [task.result() for task in tasks]
            except ExceptionGroup as failures:
                if failures.subgroup(VersionUnloadedError) is not None:
                    _check_retry(resolved, last_try=last_try)
                elif failures.subgroup(VersionLostError) is not None:
                    raise VersionLostError("the version went away during a batch") from failures
                else:
                    raise
        raise AssertionError

    async def classify_with(
        self, resolved: ResolvedVersion, image: Submitted, deadline: Deadline
    ) -> Prediction | GatewayError:
        """One image of a batch or stream, by the version chosen for all of it, when its turn comes.

        Returns:
            The answer, or why this image has none; that is no reason for the others to have none.

        Raises:
            VersionUnloadedError: The version is gone, so that the batch or stream cannot go on with it.
            VersionLostError: Neither can it now, and nobody knows when.
        """
        asked = time.perf_counter()
        try:
            self._admission.check_image(image.data)
            deadline = deadline.capped(self._image_timeout)
            async with deadline.enforced():
                # Before a slot is taken, so that a pause of one stream holds up nobody else.
                await self._router.confirm(resolved.version, deadline)
                async with self._admission.bulk_image() as slot:
                    return await self._predict(
                        image, resolved, slot, deadline, kind=CallKind.BULK, asked=asked
                    )
        except (VersionUnloadedError, VersionLostError):
            raise
        except GatewayError as error:
            return error
        except Exception as defect:  # noqa: BLE001 - a defect that one image meets must not end the others
            return internal_error(defect)

    async def classify_in_background(
        self, number: int, image: bytes, *, seconds: float, pressing: bool = False
    ) -> Prediction:
        """One image that no caller waits for: a shadow's copy, or one by which the gate judges a version.

        Callers come first: while there is more than a little to do it is refused. It causes no event.

        Args:
            number: A version that is READY.
            image: Encoded.
            seconds: Time for it.
            pressing: It has waited long enough, as `Admission.low_priority` has it.

        Raises:
            OverloadedError: Callers come first now.
            GatewayError (MODEL_NOT_READY): The version is not READY (any more).
            GatewayError: Why there is no answer.
        """
        asked, deadline = time.perf_counter(), Deadline.after(seconds)
        with self._admission.low_priority(image, pressing=pressing) as slot:
            async with deadline.enforced():
                version = self._backends.ready(number)
                if version is None:
                    raise GatewayError(
                        error_pb2.ERROR_REASON_MODEL_NOT_READY, f"version {number} is not READY"
                    )
                resolved = ResolvedVersion(version, "", 0)
                try:
                    return await self._predict(
                        Submitted(image), resolved, slot, deadline, kind=CallKind.OWN, asked=asked
                    )
                except VersionUnloadedError:
                    raise GatewayError(
                        error_pb2.ERROR_REASON_MODEL_NOT_READY, f"version {number} went away meanwhile"
                    ) from None

    async def resolve(
        self, selector: model_pb2.ModelSelector, top_k: int, deadline: Deadline, key: str = ""
    ) -> ResolvedVersion:
        """The version that a selector means now.

        Raises:
            GatewayError: There is none, or it cannot give so many scores.
        """
        version, label = await self._router.resolve(selector, deadline, key)
        call_record().version = version.number
        check_top_k(top_k, version)
        return ResolvedVersion(version, label, top_k)

    async def _predict(
        self,
        image: Submitted,
        resolved: ResolvedVersion,
        slot: Slot,
        deadline: Deadline,
        *,
        kind: CallKind,
        asked: float,
        explain: ExplanationRequest | None = None,
    ) -> Prediction:
        version = resolved.version
        if explain is not None:
            _check_class(explain.class_id, version)
        admitted = time.perf_counter()
        transformed = await self._transforms.run(image.data, version.manifest.transform, image.frame)
        answer: Prediction | None = None
        error: GatewayError | None = None
        try:
            while (
                predicted := await self._backends.predict(
                    version, transformed.pixels, kind, gradcam=explain is not None, deadline=deadline
                )
            ) is None:
                # The version changed meanwhile. In the background nobody waits for it to come back.
                if kind is CallKind.OWN:
                    raise VersionUnloadedError
                await self._router.confirm(version, deadline)
            slot.worked_seconds = transformed.transform_seconds + predicted.seconds
            message = classification(
                resolved,
                predicted.outputs,
                queue=time.perf_counter() - asked - slot.worked_seconds,
                transform=transformed.transform_seconds,
                predict=predicted.seconds,
            )
            answer = Prediction(resolved, predicted.outputs, message)
            if kind is not CallKind.OWN:
                call_record().images += 1
        except GatewayError as failure:
            error = failure
            raise
        except asyncio.CancelledError:
            # By the caller, who may have any reason, or by the deadline that the version let pass.
            if deadline.remaining() <= DEADLINE_MARGIN_SECONDS:
                error = DeadlineTooShortError("the deadline passed")
            raise
        finally:
            if kind is not CallKind.OWN and (answer is not None or error is not None):
                self._emit(resolved, transformed, answer, error, time.perf_counter() - admitted)
        return answer if explain is None else await self._explained(answer, transformed, explain)

    async def _explained(
        self, answer: Prediction, transformed: Transformed, explain: ExplanationRequest
    ) -> Prediction:
        version, maps = answer.resolved.version, answer.outputs.gradcam
        assert maps is not None  # noqa: S101 - the client of the model server has checked it
        class_id = explain.class_id or answer.classification.scores[0].class_id
        index = version.class_ids.index(class_id)
        values = np.ascontiguousarray(maps[:, :, index])
        spec = version.manifest.transform
        picture = await self._transforms.draw(transformed.image, spec, values, explain.overlay)
        return dataclasses.replace(answer, explanation=Explanation(class_id, values, picture))

    def _emit(
        self,
        resolved: ResolvedVersion,
        transformed: Transformed,
        answer: Prediction | None,
        error: GatewayError | None,
        seconds: float,
    ) -> None:
        if not self.observers:
            return
        caller = call_record().caller()
        event = PredictionEvent(
            resolved, transformed.image, answer, error, seconds, caller, transformed.attributes
        )
        for observer in self.observers:
            try:
                observer.observe(event)
            except Exception as defect:  # noqa: BLE001 - who only looks on must not fail the call
                log(logging.ERROR, "observer_failed", observer=type(observer).__name__, error=defect)


def classification(
    resolved: ResolvedVersion, outputs: Outputs, *, queue: float, transform: float, predict: float
) -> classification_pb2.Classification:
    """The outputs as the contract's message: scores in order, a verdict, and the seconds of each stage."""
    return classification_pb2.Classification(
        scores=_scores(resolved.version, outputs.probabilities, resolved.top_k),
        verdict=_verdict(resolved.version, outputs),
        prediction_id=_new_id(),
        ood_score=outputs.ood_score,
        timings=classification_pb2.Timings(
            queue=_duration(queue), transform=_duration(transform), predict=_duration(predict)
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
    limit = len(version.classes) if version is not None else None
    if top_k < 0 or (limit is not None and top_k > limit):
        wanted = "0 (all classes) or more" if limit is None else f"0 (all classes) to {limit}"
        raise GatewayError(
            error_pb2.ERROR_REASON_TOP_K_OUT_OF_RANGE, f"top_k is {top_k}, expected {wanted}", field="top_k"
        )


def _check_retry(resolved: ResolvedVersion, *, last_try: bool) -> None:
    """Refuses another try with the version that a selector means now.

    Raises:
        GatewayError (MODEL_VERSION_NOT_FOUND): The caller named a number, so gets that version or an error.
        GatewayError (MODEL_NOT_READY): It was the second one that the model server has unloaded.
    """
    if not resolved.label:
        raise gone(resolved.version) from None
    if last_try:
        raise GatewayError(
            error_pb2.ERROR_REASON_MODEL_NOT_READY,
            f"the versions of model {resolved.version.model} change too fast for this call",
        ) from None


def _check_class(class_id: str, version: ServedVersion) -> None:
    known = version.class_ids
    if class_id and class_id not in known:
        raise GatewayError(
            error_pb2.ERROR_REASON_CLASS_NOT_FOUND,
            f"version {version.number} has no class {class_id!r}, only {', '.join(known)}",
            field="class_id",
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
