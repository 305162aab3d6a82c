"""The shadow's queue: bounded in images and bytes, and never a reason to wait."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from neurogate.v1 import classification_pb2
from neurogate.v1.model_pb2 import ShadowAgreement
from neurogate_core.release_store import Release, State
from neurogate_gateway.backends.tfserving import Outputs
from neurogate_gateway.backends.verification import ServedVersion
from neurogate_gateway.errors import BackendUnavailableError, GatewayError, OverloadedError
from neurogate_gateway.inference.pipeline import Prediction, PredictionEvent, ResolvedVersion
from neurogate_gateway.release.shadow import Shadow, compare
from neurogate_testing.fake_backend import CLASSES, build_manifest

MEBIBYTE = 2**20


class Site:
    """A shadow over versions 1 ("stable") and 2, whose answers are what a test says."""

    def __init__(self, shadow_classes: tuple[tuple[str, str], ...] = CLASSES) -> None:
        self.served = {
            1: ServedVersion("m", 1, build_manifest(1), "d1"),
            2: ServedVersion("m", 2, build_manifest(2, classes=shadow_classes), "d2"),
        }
        self.release = Release(state=State(labels={"stable": 1, "shadow": 2}))
        self.failure: GatewayError | None = None
        self.left = 0
        self.none_left = asyncio.Event()
        manager: Any = SimpleNamespace(release=self.release)
        self.shadow = Shadow(manager, self, self, seconds=1)

    def ready(self, number: int) -> ServedVersion | None:
        return self.served.get(number)

    async def classify_in_background(
        self, number: int, image: bytes, *, seconds: float, pressing: bool = False
    ) -> Prediction:
        self.left -= 1
        if not self.left:
            self.none_left.set()
        if self.failure is not None:
            raise self.failure
        return self.answer(number)

    def answer(self, number: int) -> Prediction:
        probabilities = np.full(len(self.served[number].classes), 0.1, dtype=np.float32)
        probabilities[0] = 0.7
        outputs = Outputs(probabilities, 0.0, None)
        return Prediction(
            ResolvedVersion(self.served[number], "", 0), outputs, classification_pb2.Classification()
        )

    def observe(self, image: bytes = b"image", *, number: int = 1, failed: bool = False) -> None:
        answer = None if failed else self.answer(number)
        error = BackendUnavailableError("away") if failed else None
        self.shadow.observe(
            PredictionEvent(ResolvedVersion(self.served[number], "stable", 0), image, answer, error, 0.01)
        )

    def seen(self) -> tuple[int, int, int]:
        """Compared, dropped, failed."""
        message = self.shadow.agreement()
        assert message is not None
        return message.compared, message.dropped, message.failed

    async def worked_off(self) -> None:
        """Runs the shadow until every copy that waits was run and counted."""
        self.left = len(self.shadow._waiting)
        running = asyncio.create_task(self.shadow.run())
        await self.none_left.wait()
        # The worker that ran the last one counts it in its next step.
        await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait([running])


async def test_images_beyond_the_queue_are_dropped() -> None:
    site = Site()
    for _ in range(70):
        site.observe()
    assert site.seen() == (0, 6, 0)
    await site.worked_off()
    assert site.seen() == (64, 6, 0)


async def test_bytes_beyond_the_queue_are_dropped() -> None:
    site = Site()
    for _ in range(5):
        site.observe(bytes(12 * MEBIBYTE))
    assert site.seen() == (0, 3, 0)
    await site.worked_off()
    assert site.seen() == (2, 3, 0)
    # What was worked off makes room.
    site.observe(bytes(30 * MEBIBYTE))
    assert site.seen() == (2, 3, 0)


@pytest.mark.parametrize(
    ("failure", "seen"),
    [(OverloadedError("callers first"), (0, 1, 0)), (BackendUnavailableError("away"), (0, 0, 1))],
)
async def test_failed_copies_are_counted(failure: GatewayError, seen: tuple[int, int, int]) -> None:
    site = Site()
    site.failure = failure
    site.observe()
    await site.worked_off()
    assert site.seen() == seen


async def test_other_classes_cannot_be_compared() -> None:
    site = Site(shadow_classes=(("a", "A"), ("b", "B"), ("c", "C"), ("d", "D")))
    site.observe()
    await site.worked_off()
    assert site.seen() == (0, 0, 1)


async def test_only_what_stable_answered_is_copied() -> None:
    site = Site()
    site.observe(failed=True)
    site.observe(number=2)
    assert site.shadow.agreement() is None
    del site.served[2]
    site.observe()
    assert site.shadow.agreement() is None


def test_an_agreement_counts_classes_and_the_mean_shift() -> None:
    agreement = ShadowAgreement(class_ids=["a", "b"], counts=[0] * 4)
    for stable, shadow in (([0.9, 0.1], [0.7, 0.3]), ([0.8, 0.2], [0.4, 0.6])):
        compare(agreement, np.array(stable, dtype=np.float32), np.array(shadow, dtype=np.float32))
    assert (list(agreement.counts), agreement.compared) == ([1, 1, 0, 0], 2)
    assert agreement.mean_probability_shift == pytest.approx(0.3)
