"""The shadow: it gets copies of callers' images, and its answers are compared with those of "stable"."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

import numpy as np
from neurogate.v1 import model_pb2

from neurogate_gateway.backends.pool import BackendPool
from neurogate_gateway.backends.tfserving import Floats
from neurogate_gateway.backends.verification import ServedVersion
from neurogate_gateway.errors import GatewayError, OverloadedError
from neurogate_gateway.inference.pipeline import InferencePipeline, PredictionEvent

from .controller import ReleaseController
from .router import SHADOW, STABLE


class Agreement:
    """Counts of stable's class against the shadow's, and how far their probabilities lie apart."""

    def __init__(self, stable: int, shadow: int, class_ids: tuple[str, ...]) -> None:
        """Begins at zero.

        Args:
            stable: Version that answers the callers.
            shadow: Version that gets the copies.
            class_ids: Of both, in class order; at least one.
        """
        self.stable = stable
        self.shadow = shadow
        self.class_ids = class_ids
        self.dropped = 0
        self.failed = 0
        self._counts = np.zeros((len(class_ids), len(class_ids)), dtype=np.int64)
        self._shift = 0.0

    @property
    def compared(self) -> int:
        """Images that both have answered."""
        return int(self._counts.sum())

    def add(self, stable: Floats, shadow: Floats) -> None:
        """Takes two answers to one image, each f32 [C]."""
        row, column = int(stable.argmax()), int(shadow.argmax())
        self._counts[row, column] += 1
        self._shift += abs(float(stable[row]) - float(shadow[row]))

    def message(self) -> model_pb2.ShadowAgreement:
        """As the contract has it."""
        compared = self.compared
        return model_pb2.ShadowAgreement(
            stable_version=self.stable,
            shadow_version=self.shadow,
            class_ids=self.class_ids,
            counts=self._counts.ravel().tolist(),
            mean_probability_shift=self._shift / compared if compared else 0.0,
            compared=compared,
            dropped=self.dropped,
            failed=self.failed,
        )


_MAX_WAITING: Final = 64
_MAX_WAITING_BYTES: Final = 32 * 2**20
_WORKERS: Final = 2

_Copy = tuple[bytes, Floats, Agreement]


class Shadow:
    """Sends copies of what "stable" has answered to the shadow, and counts how they agree."""

    def __init__(
        self,
        controller: ReleaseController,
        versions: BackendPool,
        background: InferencePipeline,
        *,
        seconds: float,
    ) -> None:
        """Copies nothing until there is a shadow.

        Args:
            controller: Which version is the shadow.
            versions: Whether it is READY.
            background: Asks it.
            seconds: Time for each copy.
        """
        self._controller = controller
        self._versions = versions
        self._background = background
        self._seconds = seconds
        self._agreement: Agreement | None = None
        self._waiting: deque[_Copy] = deque()
        self._bytes = 0
        self._arrived = asyncio.Event()

    def agreement(self) -> model_pb2.ShadowAgreement | None:
        """What was seen of the present pair of versions; None without a shadow, or before its first copy."""
        labels = self._controller.release.state.labels
        seen = self._agreement
        pair = (labels.get(STABLE), labels.get(SHADOW))
        return seen.message() if seen is not None and (seen.stable, seen.shadow) == pair else None

    def observe(self, event: PredictionEvent) -> None:
        """Takes a copy of an image that "stable" has answered."""
        labels = self._controller.release.state.labels
        shadow, stable = labels.get(SHADOW), event.resolved.version
        if shadow is None or event.answer is None or stable.number != labels.get(STABLE):
            return
        if self._versions.ready(shadow) is None:
            return
        agreement = self._of(stable, shadow)
        if len(self._waiting) >= _MAX_WAITING or self._bytes + len(event.image) > _MAX_WAITING_BYTES:
            agreement.dropped += 1
            return
        self._waiting.append((event.image, event.answer.outputs.probabilities, agreement))
        self._bytes += len(event.image)
        self._arrived.set()

    def _of(self, stable: ServedVersion, shadow: int) -> Agreement:
        class_ids = tuple(identifier for identifier, _ in stable.classes)
        seen = self._agreement
        if seen is None or (seen.stable, seen.shadow, seen.class_ids) != (stable.number, shadow, class_ids):
            seen = self._agreement = Agreement(stable.number, shadow, class_ids)
        return seen

    async def run(self) -> None:
        """Works off the copies until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(_WORKERS):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            while not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            image, probabilities, agreement = self._waiting.popleft()
            self._bytes -= len(image)
            try:
                answer = await self._background.classify_in_background(
                    agreement.shadow, image, seconds=self._seconds
                )
            except OverloadedError:
                agreement.dropped += 1
            except GatewayError:
                agreement.failed += 1
            else:
                if (
                    tuple(identifier for identifier, _ in answer.resolved.version.classes)
                    == agreement.class_ids
                ):
                    agreement.add(probabilities, answer.outputs.probabilities)
                else:
                    # Answers in other classes cannot be compared.
                    agreement.failed += 1
