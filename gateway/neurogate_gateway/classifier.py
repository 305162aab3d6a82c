"""The use case: admission -> version -> transform -> predict -> verdict.

It knows messages of the contract but nothing of gRPC: servicers call it, and so could anything else.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import numpy as np
from google.protobuf import duration_pb2
from neurogate.v1 import classification_pb2, model_pb2

from .admission import Admission, Deadline
from .backend import Backend, Floats, Outputs, VersionUnloadedError
from .catalog import Catalog
from .errors import (
    BackendAnswerInvalidError,
    ClassNotFoundError,
    DeadlineTooShortError,
    GatewayError,
    ModelVersionNotFoundError,
    TopKOutOfRangeError,
)
from .overlay import Overlay
from .proof import ServedVersion
from .telemetry import call_record
from .transforms import TransformPool

DEADLINE_MARGIN_SECONDS: Final = 0.01
"""Kept back from the model server's deadline, so that an answer in time still reaches the caller in time."""

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
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
class Answer:
    """What one version says about one image."""

    choice: Choice
    outputs: Outputs
    classification: classification_pb2.Classification


@dataclasses.dataclass(frozen=True, slots=True)
class Explanation:
    """An answer with the evidence for one class.

    Attributes:
        answer: All classes.
        class_id: The class that is explained.
        values: Its Grad-CAM map, f32 [h, w], 0 or more.
        picture: The map over the image, PNG.
    """

    answer: Answer
    class_id: str
    values: Floats
    picture: bytes


class Classifier:
    """Answers for single images, for batches, and for the images of a stream."""

    def __init__(
        self,
        *,
        admission: Admission,
        catalog: Catalog,
        transforms: TransformPool,
        backend: Backend,
        image_timeout: float,
        window: int,
    ) -> None:
        self._admission = admission
        self._catalog = catalog
        self._transforms = transforms
        self._backend = backend
        self._image_timeout = image_timeout
        self._window = window

    async def classify(
        self, image: bytes, selector: model_pb2.ModelSelector, *, top_k: int, deadline: Deadline
    ) -> Answer:
        """One image by itself.

        Args:
            image: Encoded.
            selector: Which version.
            top_k: Number of scores; 0 means all.
            deadline: By when.

        Raises:
            GatewayError: Why there is no answer.
        """
        asked = time.perf_counter()

        async def attempt(choice: Choice) -> Answer:
            return await self._run(image, choice, asked, gradcam=False, deadline=deadline)

        return await self._single(image, selector, top_k, deadline, attempt)

    async def explain(
        self,
        image: bytes,
        selector: model_pb2.ModelSelector,
        *,
        class_id: str,
        overlay: Overlay,
        deadline: Deadline,
    ) -> Explanation:
        """One image by itself, with the evidence for one class.

        Args:
            image: Encoded.
            selector: Which version.
            class_id: Which class; empty means the most probable one.
            overlay: How the picture is drawn.
            deadline: By when.

        Raises:
            GatewayError: Why there is no answer.
        """
        asked = time.perf_counter()

        async def attempt(choice: Choice) -> Explanation:
            version = choice.version
            known = [identifier for identifier, _ in version.classes]
            if class_id and class_id not in known:
                raise ClassNotFoundError(
                    f"version {version.number} has no class {class_id!r}, only {', '.join(known)}",
                    field="class_id",
                )
            answer = await self._run(image, choice, asked, gradcam=True, deadline=deadline)
            maps = answer.outputs.gradcam
            if maps is None:
                raise BackendAnswerInvalidError('the answer has no output "gradcam"')
            explained = class_id or answer.classification.scores[0].class_id
            values = np.ascontiguousarray(maps[:, :, known.index(explained)])
            picture = await self._transforms.draw(image, version.manifest.transform, values, overlay)
            return Explanation(answer, explained, values, picture)

        return await self._single(image, selector, 0, deadline, attempt)

    async def classify_batch(
        self, images: Sequence[bytes], selector: model_pb2.ModelSelector, *, top_k: int, deadline: Deadline
    ) -> tuple[Choice, list[Answer | GatewayError]]:
        """Several images by one version; what fails by itself has its error in the place of the answer.

        Raises:
            GatewayError: Why there is no answer at all.
        """
        self._admission.check_deadline(deadline)
        slots = asyncio.Semaphore(self._window)

        async def attempt(choice: Choice) -> tuple[Choice, list[Answer | GatewayError]]:
            async def one(image: bytes) -> Answer | GatewayError:
                async with slots:
                    try:
                        return await self.classify_for(choice, image, deadline)
                    except GatewayError as error:
                        return error

            # Unlike gather, the group stops the other images when one of them finds the version unloaded.
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(one(image)) for image in images]
            except ExceptionGroup as failures:
                if failures.subgroup(VersionUnloadedError) is None:
                    raise
                raise VersionUnloadedError("the version was unloaded during a batch") from failures
            return choice, [task.result() for task in tasks]

        return await self._with_version(selector, top_k, deadline, attempt)

    async def choose(self, selector: model_pb2.ModelSelector, top_k: int, deadline: Deadline) -> Choice:
        """The version that a selector means now.

        Raises:
            GatewayError: There is none, or it cannot give so many scores.
        """
        version, label = await self._catalog.resolve(selector, deadline)
        call_record().version = version.number
        check_top_k(top_k, version)
        return Choice(version, label, top_k)

    async def classify_for(self, choice: Choice, image: bytes, deadline: Deadline) -> Answer:
        """One image of a batch or stream, by the version chosen for all of it, when its turn comes.

        Raises:
            VersionUnloadedError: The version is gone, so that the batch or stream cannot go on with it.
            GatewayError: Why this image has no answer.
        """
        asked = time.perf_counter()
        self._admission.check_image(image)
        deadline = deadline.capped(self._image_timeout)
        async with deadline.enforced(), self._admission.bulk_image():
            return await self._run(image, choice, asked, gradcam=False, deadline=deadline)

    async def _single(
        self,
        image: bytes,
        selector: model_pb2.ModelSelector,
        top_k: int,
        deadline: Deadline,
        attempt: Callable[[Choice], Awaitable[_T]],
    ) -> _T:
        self._admission.check_image(image)
        self._admission.check_deadline(deadline)
        with self._admission.single():
            async with deadline.enforced():
                return await self._with_version(selector, top_k, deadline, attempt)

    async def _with_version(
        self,
        selector: model_pb2.ModelSelector,
        top_k: int,
        deadline: Deadline,
        attempt: Callable[[Choice], Awaitable[_T]],
    ) -> _T:
        """Runs `attempt` with the version that is meant; once more if the model server has just unloaded it.

        Only for a choice by label: who names a number gets that version or an error.
        """
        choice = await self.choose(selector, top_k, deadline)
        try:
            return await attempt(choice)
        except VersionUnloadedError:
            if not choice.label:
                raise gone(choice.version) from None
        choice = await self.choose(selector, top_k, deadline)
        try:
            return await attempt(choice)
        except VersionUnloadedError:
            raise gone(choice.version) from None

    async def _run(
        self, image: bytes, choice: Choice, asked: float, gradcam: bool, deadline: Deadline
    ) -> Answer:
        version = choice.version
        admitted = time.perf_counter()
        transformed = await self._transforms.run(image, version.manifest.transform)
        left = deadline.remaining() - DEADLINE_MARGIN_SECONDS
        if left <= 0:
            raise DeadlineTooShortError("the deadline is too near for the model server")
        called = time.perf_counter()
        try:
            outputs = await self._backend.predict(
                version.model,
                version.number,
                transformed.pixels,
                classes=len(version.classes),
                gradcam=gradcam,
                seconds=left,
            )
        except VersionUnloadedError:
            self._catalog.unloaded(version)
            raise
        classification = classification_pb2.Classification(
            scores=_scores(version, outputs.probabilities, choice.top_k),
            verdict=_verdict(version, outputs),
            prediction_id=uuid.uuid4().hex,
            ood_score=outputs.ood_score,
            timings=classification_pb2.Timings(
                queue=_duration(admitted - asked + transformed.queue_seconds),
                transform=_duration(transformed.transform_seconds),
                predict=_duration(time.perf_counter() - called),
            ),
        )
        call_record().images += 1
        return Answer(choice, outputs, classification)


def gone(version: ServedVersion) -> ModelVersionNotFoundError:
    """The refusal of a call whose version was unloaded under it."""
    return ModelVersionNotFoundError(
        f"version {version.number} of model {version.model} was unloaded by the model server",
        resource=("model_version", f"{version.model}/{version.number}"),
    )


def check_top_k(top_k: int, version: ServedVersion | None = None) -> None:
    """Refuses a number of scores that cannot be given.

    Args:
        top_k: The number.
        version: Whose classes count; None where it is not known yet.

    Raises:
        TopKOutOfRangeError: It is negative, or larger than the number of classes.
    """
    most = len(version.classes) if version is not None else None
    if top_k < 0 or (most is not None and top_k > most):
        wanted = "0 (all classes) or more" if most is None else f"0 (all classes) to {most}"
        raise TopKOutOfRangeError(f"top_k is {top_k}, expected {wanted}", field="top_k")


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
