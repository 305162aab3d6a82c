"""The shadow: it gets copies of callers' images, and its answers are compared with those of "stable"."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from neurogate.v1.model_pb2 import ShadowAgreement

from neurogate_gateway.backends.pool import BackendPool
from neurogate_gateway.backends.tfserving import Floats
from neurogate_gateway.backends.verification import ServedVersion
from neurogate_gateway.errors import GatewayError, OverloadedError
from neurogate_gateway.inference.pipeline import InferencePipeline, PredictionEvent

from .controller import ReleaseController
from .router import SHADOW, STABLE

_MAX_WAITING: Final = 64
_MAX_WAITING_BYTES: Final = 32 * 2**20
_WORKERS: Final = 2

_Copy = tuple[bytes, Floats, ShadowAgreement]


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
        self._agreement: ShadowAgreement | None = None
        self._waiting: deque[_Copy] = deque()
        self._bytes = 0
        self._arrived = asyncio.Event()

    def agreement(self) -> ShadowAgreement | None:
        """What was seen of the present pair of versions; None without a shadow, or before its first copy."""
        labels = self._controller.release.state.labels
        seen = self._agreement
        pair = (labels.get(STABLE), labels.get(SHADOW))
        return seen if seen is not None and (seen.stable_version, seen.shadow_version) == pair else None

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

    def _of(self, stable: ServedVersion, shadow: int) -> ShadowAgreement:
        class_ids = stable.class_ids
        seen, pair = self._agreement, (stable.number, shadow)
        if seen is None or (seen.stable_version, seen.shadow_version) != pair or seen.class_ids != class_ids:
            seen = self._agreement = ShadowAgreement(
                stable_version=stable.number,
                shadow_version=shadow,
                class_ids=class_ids,
                counts=[0] * len(class_ids) ** 2,
            )
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
                    agreement.shadow_version, image, seconds=self._seconds
                )
            except OverloadedError:
                agreement.dropped += 1
            except GatewayError:
                agreement.failed += 1
            else:
                if answer.resolved.version.class_ids == agreement.class_ids:
                    compare(agreement, probabilities, answer.outputs.probabilities)
                else:
                    # Answers in other classes cannot be compared.
                    agreement.failed += 1


def compare(agreement: ShadowAgreement, stable: Floats, shadow: Floats) -> None:
    """Counts two answers to one image, each f32 [C]."""
    row, column = int(stable.argmax()), int(shadow.argmax())
    agreement.counts[row * len(stable) + column] += 1
    agreement.compared += 1
    shift = abs(float(stable[row]) - float(shadow[row]))
    agreement.mean_probability_shift += (shift - agreement.mean_probability_shift) / agreement.compared
