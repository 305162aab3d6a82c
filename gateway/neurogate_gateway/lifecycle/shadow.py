"""The shadow: copies of the images that "stable" answers go to another version, off the callers' path.

Copies wait in a short queue and are the first to be dropped when there is much to do. What the two versions
say is compared and counted; nobody is told what the shadow said.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from neurogate.v1 import model_pb2

from neurogate_gateway.errors import GatewayError, OverloadedError
from neurogate_gateway.outcomes import Outcome
from neurogate_gateway.proof import ServedVersion
from neurogate_gateway.routing import SHADOW, STABLE
from neurogate_gateway.wire import Floats

from .agreement import Agreement
from .evaluation import Runner, Versions
from .manager import ReleaseManager

_MOST_WAITING: Final = 64
_MOST_BYTES: Final = 32 * 2**20
_WORKERS: Final = 2

_Copy = tuple[bytes, Floats, Agreement]


class Shadow:
    """Observes outcomes and runs the copies; `run` does the work."""

    def __init__(
        self, manager: ReleaseManager, versions: Versions, runner: Runner, *, seconds: float
    ) -> None:
        """Copies nothing until there is a shadow.

        Args:
            manager: Which version is the shadow.
            versions: Whether it is READY.
            runner: Asks it.
            seconds: Time for each copy.
        """
        self._manager = manager
        self._versions = versions
        self._runner = runner
        self._seconds = seconds
        self._agreement: Agreement | None = None
        self._waiting: deque[_Copy] = deque()
        self._bytes = 0
        self._arrived = asyncio.Event()

    def agreement(self) -> model_pb2.ShadowAgreement | None:
        """What was seen of the present pair of versions; None without a shadow, or before its first copy."""
        labels = self._manager.release.state.labels
        seen = self._agreement
        pair = (labels.get(STABLE), labels.get(SHADOW))
        return seen.message() if seen is not None and (seen.stable, seen.shadow) == pair else None

    def observe(self, outcome: Outcome) -> None:
        """Takes a copy of an image that "stable" has answered."""
        labels = self._manager.release.state.labels
        shadow, stable = labels.get(SHADOW), outcome.choice.version
        if shadow is None or outcome.answer is None or stable.number != labels.get(STABLE):
            return
        if self._versions.ready(shadow) is None:
            return
        agreement = self._of(stable, shadow)
        if len(self._waiting) >= _MOST_WAITING or self._bytes + len(outcome.image) > _MOST_BYTES:
            agreement.dropped += 1
            return
        self._waiting.append((outcome.image, outcome.answer.outputs.probabilities, agreement))
        self._bytes += len(outcome.image)
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
                answer = await self._runner.run(agreement.shadow, image, seconds=self._seconds)
            except OverloadedError:
                agreement.dropped += 1
            except GatewayError:
                agreement.failed += 1
            else:
                if (
                    tuple(identifier for identifier, _ in answer.choice.version.classes)
                    == agreement.class_ids
                ):
                    agreement.add(probabilities, answer.outputs.probabilities)
                else:
                    # Of other classes nothing can be compared.
                    agreement.failed += 1
