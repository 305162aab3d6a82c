"""The use case: admission -> version -> transform -> predict -> verdict.

It knows messages of the contract but nothing of gRPC: servicers call it, and so could anything else.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np
from neurogate.v1 import error_pb2, model_pb2
from neurogate_core.preprocessing.dicom import is_dicom

from neurogate_gateway.backends.call_slots import CallKind
from neurogate_gateway.backends.pool import DEADLINE_MARGIN_SECONDS, BackendPool
from neurogate_gateway.backends.tfserving import VersionUnloadedError
from neurogate_gateway.backends.verification import ServedVersion
from neurogate_gateway.deadline import Deadline
from neurogate_gateway.errors import (
    BackendAnswerInvalidError,
    DeadlineTooShortError,
    GatewayError,
    VersionLostError,
)
from neurogate_gateway.observability.logging import call_record, internal_error, log

from .admission import Admission
from .events import PredictionEvent, PredictionObserver
from .explain import Overlay
from .predictions import (
    Explanation,
    Prediction,
    ResolvedVersion,
    StageTimings,
    check_top_k,
    classification,
    gone,
)
from .preprocessing import Submitted, Transformed, TransformPool

_T = TypeVar("_T")


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
            VersionLostError: It cannot be reached, or is proven again, and nobody knows for how long.
        """


class InferencePipeline:
    """Answers for single images, for batches, and for the images of a stream."""

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
        """Who is told of every image's outcome."""
        self._admission = admission
        self._router = router
        self._transforms = transforms
        self._pool = backends
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
    ) -> Prediction:
        """One image by itself.

        Args:
            image: What the caller sent.
            selector: Which version.
            top_k: Number of scores; 0 means all.
            deadline: By when.
            key: The caller's side of the traffic split, as in `Catalog.resolve`.

        Raises:
            GatewayError: Why there is no answer.
        """
        asked = time.perf_counter()

        async def attempt(choice: ResolvedVersion) -> Prediction:
            return (await self._run(image, choice, asked, CallKind.SINGLE, deadline=deadline))[0]

        return await self._single(image, selector, attempt, top_k=top_k, deadline=deadline, key=key)

    async def explain(
        self,
        image: Submitted,
        selector: model_pb2.ModelSelector,
        *,
        class_id: str,
        overlay: Overlay,
        deadline: Deadline,
        key: str = "",
    ) -> Explanation:
        """One image by itself, with the evidence for one class.

        Args:
            image: What the caller sent.
            selector: Which version.
            class_id: Which class; empty means the most probable one.
            overlay: How the picture is drawn.
            deadline: By when.
            key: The caller's side of the traffic split, as in `Catalog.resolve`.

        Raises:
            GatewayError: Why there is no answer.
        """
        asked = time.perf_counter()

        async def attempt(choice: ResolvedVersion) -> Explanation:
            version = choice.version
            known = [identifier for identifier, _ in version.classes]
            if class_id and class_id not in known:
                raise GatewayError(
                    error_pb2.ERROR_REASON_CLASS_NOT_FOUND,
                    f"version {version.number} has no class {class_id!r}, only {', '.join(known)}",
                    field="class_id",
                )
            answer, shown = await self._run(
                image, choice, asked, CallKind.SINGLE, gradcam=True, deadline=deadline
            )
            maps = answer.outputs.gradcam
            if maps is None:
                raise BackendAnswerInvalidError('the answer has no output "gradcam"')
            explained = class_id or answer.classification.scores[0].class_id
            values = np.ascontiguousarray(maps[:, :, known.index(explained)])
            picture = await self._transforms.draw(shown, version.manifest.transform, values, overlay)
            return Explanation(answer, explained, values, picture)

        return await self._single(image, selector, attempt, top_k=0, deadline=deadline, key=key)

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
        slots = asyncio.Semaphore(self._window)

        async def attempt(choice: ResolvedVersion) -> tuple[ResolvedVersion, list[Prediction | GatewayError]]:
            async def one(image: Submitted) -> Prediction | GatewayError:
                async with slots:
                    return await self.classify_for(choice, image, deadline)

            # Unlike gather, the group stops the other images when one of them finds the version unloaded.
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(one(image)) for image in images]
            except ExceptionGroup as failures:
                for kind in (VersionUnloadedError, VersionLostError):
                    if failures.subgroup(kind) is not None:
                        raise kind("the version went away during a batch") from failures
                raise
            return choice, [task.result() for task in tasks]

        return await self._with_version(selector, attempt, top_k=top_k, deadline=deadline, key=key)

    async def choose(
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

    async def classify_for(
        self, choice: ResolvedVersion, image: Submitted, deadline: Deadline
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
                await self._router.confirm(choice.version, deadline)
                async with self._admission.bulk_image():
                    return (await self._run(image, choice, asked, CallKind.BULK, deadline=deadline))[0]
        except (VersionUnloadedError, VersionLostError):
            raise
        except GatewayError as error:
            return error
        except Exception as defect:  # noqa: BLE001 - a defect that one image meets must not end the others
            return internal_error(defect)

    async def _single(
        self,
        image: Submitted,
        selector: model_pb2.ModelSelector,
        attempt: Callable[[ResolvedVersion], Awaitable[_T]],
        *,
        top_k: int,
        deadline: Deadline,
        key: str,
    ) -> _T:
        self._admission.check_image(image.data)
        self._admission.check_deadline(deadline)
        with self._admission.single(dicom=is_dicom(image.data)):
            async with deadline.enforced():
                return await self._with_version(selector, attempt, top_k=top_k, deadline=deadline, key=key)

    async def _with_version(
        self,
        selector: model_pb2.ModelSelector,
        attempt: Callable[[ResolvedVersion], Awaitable[_T]],
        *,
        top_k: int,
        deadline: Deadline,
        key: str,
    ) -> _T:
        """Runs `attempt` with the version that is meant; once more if the model server has just unloaded it.

        Only for a choice by label: who names a number gets that version or an error.
        """
        choice = await self.choose(selector, top_k, deadline, key)
        try:
            return await attempt(choice)
        except VersionUnloadedError:
            if not choice.label:
                raise gone(choice.version) from None
        choice = await self.choose(selector, top_k, deadline, key)
        try:
            return await attempt(choice)
        except VersionUnloadedError:
            raise GatewayError(
                error_pb2.ERROR_REASON_MODEL_NOT_READY,
                f"the versions of model {choice.version.model} change too fast for this call",
            ) from None

    async def _run(
        self,
        image: Submitted,
        choice: ResolvedVersion,
        asked: float,
        kind: CallKind,
        *,
        gradcam: bool = False,
        deadline: Deadline,
    ) -> tuple[Prediction, bytes]:
        """The answer, and what stands for the image from now on."""
        version = choice.version
        admitted = time.perf_counter()
        transformed = await self._transforms.run(image.data, version.manifest.transform, image.frame)
        try:
            while True:
                await self._router.confirm(version, deadline)
                prediction = await self._pool.predict(
                    version, transformed.pixels, kind, gradcam=gradcam, deadline=deadline
                )
                # What was proven when the image was sent may not be what answered it.
                if prediction is not None:
                    break
        except GatewayError as error:
            self._tell(choice, transformed, None, error, admitted)
            raise
        except asyncio.CancelledError:
            # By the caller, who may have any reason, or by the deadline that the version let pass.
            if deadline.remaining() <= DEADLINE_MARGIN_SECONDS:
                self._tell(choice, transformed, None, DeadlineTooShortError("the deadline passed"), admitted)
            raise
        worked = transformed.transform_seconds + prediction.seconds
        self._admission.observe_latency(worked)
        seconds = StageTimings(
            queue=max(time.perf_counter() - asked - worked, 0.0),
            transform=transformed.transform_seconds,
            predict=prediction.seconds,
        )
        call_record().images += 1
        outputs = prediction.outputs
        answer = Prediction(choice, outputs, classification(choice, outputs, seconds))
        self._tell(choice, transformed, answer, None, admitted)
        return answer, transformed.image

    def _tell(
        self,
        choice: ResolvedVersion,
        transformed: Transformed,
        answer: Prediction | None,
        error: GatewayError | None,
        since: float,
    ) -> None:
        if not self.observers:
            return
        outcome = PredictionEvent(
            choice,
            transformed.image,
            answer,
            error,
            time.perf_counter() - since,
            call_record().caller(),
            transformed.attributes,
        )
        for observer in self.observers:
            try:
                observer.observe(outcome)
            except Exception as defect:  # noqa: BLE001 - who only looks on must not fail the call
                log(logging.ERROR, "observer_failed", observer=type(observer).__name__, error=defect)
