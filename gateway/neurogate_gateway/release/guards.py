"""Live guards: what callers' own images show of a version that has just begun to answer.

Images are counted into windows. A window above a limit is a breach; several in a row fire. A window counts
as good only when it is clearly below the limit, so a version that hovers at it does not escape by one good
window.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from typing import Final

import numpy as np
import numpy.typing as npt
from neurogate.v1 import classification_pb2
from neurogate.v1.model_pb2 import GuardState
from neurogate_core.release_store import GUARD, Draft, Release, State

from neurogate_gateway.backends.status import StatusSnapshot
from neurogate_gateway.errors import (
    BackendUnavailableError,
    DeadlineTooShortError,
    GatewayError,
    OverloadedError,
)
from neurogate_gateway.inference.pipeline import PredictionEvent
from neurogate_gateway.observability.logging import log
from neurogate_gateway.observability.signal import Signal

from . import transitions
from .controller import NothingDueError, ReleaseController
from .policy import GuardPolicy
from .router import CANARY, PREVIOUS, STABLE
from .transitions import GATEWAY

ERROR_RATE: Final = "error_rate"
LATENCY: Final = "latency"
ABSTENTION_RATE: Final = "abstention_rate"
PROBABILITY_SHIFT: Final = "probability_shift"
_REMEMBERED: Final = 8
"""Versions whose mean answers are kept."""

Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """One image that a version was asked about.

    Attributes:
        milliseconds: From admission to answer.
        probabilities: f32 [C]; None when the version failed on the image.
        abstained: Whether the verdict was another one than CONFIDENT.
    """

    milliseconds: float
    probabilities: npt.NDArray[np.float32] | None
    abstained: bool = False


class Window:
    """Sums over the images of one window."""

    def __init__(self) -> None:
        self.images = 0
        self._errors = 0
        self._abstained = 0
        self._milliseconds: list[float] = []
        self._sum: Floats | None = None

    def add(self, sample: Sample) -> None:
        """Takes one image."""
        self.images += 1
        self._milliseconds.append(sample.milliseconds)
        if sample.probabilities is None:
            self._errors += 1
            return
        self._abstained += sample.abstained
        values = sample.probabilities.astype(np.float64)
        self._sum = values if self._sum is None or self._sum.shape != values.shape else self._sum + values

    @property
    def mean(self) -> Floats | None:
        """Mean probabilities, f64 [C]; None without an answer."""
        return None if self._sum is None else self._sum / (self.images - self._errors)

    def measure(self, reference: Floats | None) -> dict[str, float]:
        """What each guard looks at, of a window with at least one image.

        Args:
            reference: Mean probabilities of the version that it is compared with, f64 [C]; None for none.
        """
        answered = self.images - self._errors
        values = {
            ERROR_RATE: self._errors / self.images,
            LATENCY: float(np.quantile(self._milliseconds, 0.95)),
            ABSTENTION_RATE: self._abstained / answered if answered else 0.0,
        }
        mean = self.mean
        if mean is not None and reference is not None and mean.shape == reference.shape:
            values[PROBABILITY_SHIFT] = float(np.abs(mean - reference).sum() / 2)
        return values


class Guards:
    """Watches one version, against the images that another one answers."""

    def __init__(self, version: int, policy: GuardPolicy) -> None:
        self.reference: Floats | None = None
        """Mean probabilities of the version that it is compared with, f64 [C]; None while unknown."""
        self.version = version
        limits = {
            ERROR_RATE: policy.max_error_rate,
            LATENCY: policy.max_latency_ms,
            ABSTENTION_RATE: policy.max_abstention_rate,
            PROBABILITY_SHIFT: policy.max_probability_shift,
        }
        self._policy = policy
        self._states = {
            name: GuardState(
                name=name, version=version, limit=limit, breaches_to_fire=policy.breaches_to_fire
            )
            for name, limit in limits.items()
        }
        self._window = Window()

    @property
    def breaches(self) -> tuple[int, ...]:
        """Breaches in a row of each guard."""
        return tuple(state.breaches for state in self._states.values())

    def add(self, sample: Sample) -> GuardState | None:
        """Takes one image; the first guard that fires, when this image ends a window and one does."""
        self._window.add(sample)
        if self._window.images < self._policy.window:
            return None
        window, self._window = self._window, Window()
        fired = None
        for name, value in window.measure(self.reference).items():
            state = self._states[name]
            state.value = value
            if value > state.limit:
                state.breaches += 1
            elif value <= state.limit * self._policy.release_below:
                state.breaches = 0
            if fired is None and state.breaches >= state.breaches_to_fire:
                fired = state
        return fired

    def states(self) -> list[GuardState]:
        """What every guard saw in its last whole window, and how full the present one is."""
        for state in self._states.values():
            state.images = self._window.images
        return list(self._states.values())


class GuardWatch:
    """Counts the images of the version that is watched; ends the canary or rolls back when a guard fires."""

    def __init__(self, controller: ReleaseController, policy: GuardPolicy) -> None:
        self._controller = controller
        self._policy = policy
        self._guards: Guards | None = None
        self._role: tuple[int | None, bool, float | None] = (None, False, None)
        self._compared_with: int | None = None
        self._windows: dict[int, Window] = {}
        self._means: dict[int, Floats] = {}
        self._acting: set[asyncio.Task[None]] = set()
        self.noticed: Signal[[]] = Signal()
        """Emitted when a guard counts a breach, or resets its count."""
        # Counts of one role do not hold for the next.
        controller.changed.add(lambda _: self._renew())

    def states(self) -> list[GuardState]:
        """What the guards see; empty while nothing is watched."""
        guards = self._guards
        if guards is None or _watched(self._controller.release.state, self._policy.watch_seconds) is None:
            return []
        return guards.states()

    def observe(self, event: PredictionEvent) -> None:
        """Counts an image for the version that was asked."""
        sample = self._sample(event)
        if sample is None:
            return
        guards = self._guards
        if (
            guards is not None
            and _watched(self._controller.release.state, self._policy.watch_seconds) is None
        ):
            guards = self._guards = None
        number = event.resolved.version.number
        if guards is not None and number == guards.version:
            guards.reference = self._means.get(self._compared_with or 0, guards.reference)
            before = guards.breaches
            fired = guards.add(sample)
            if guards.breaches != before:
                self.noticed.emit()
            if fired is not None:
                # As it is now: the next images are counted while the release is changed.
                snapshot = GuardState()
                snapshot.CopyFrom(fired)
                task = asyncio.create_task(self._act(snapshot))
                self._acting.add(task)
                task.add_done_callback(self._acting.discard)
        elif number in self._controller.release.state.labels.values():
            self._remember(number, sample)

    async def close(self) -> None:
        """Waits for changes that have begun."""
        if self._acting:
            await asyncio.wait(self._acting)

    def _renew(self) -> None:
        """Begins anew where another version is watched, or the same in another role."""
        state = self._controller.release.state
        watched = _watched(state, self._policy.watch_seconds)
        self._compared_with = state.labels.get(STABLE if CANARY in state.labels else PREVIOUS)
        role = (watched, CANARY in state.labels, state.promoted_at)
        if role != self._role:
            self._role = role
            self._guards = None if watched is None else Guards(watched, self._policy)

    def _remember(self, number: int, sample: Sample) -> None:
        """Keeps the mean answer of a version; the version that follows it is compared with that."""
        window = self._windows.setdefault(number, Window())
        window.add(sample)
        if window.images >= self._policy.window:
            del self._windows[number]
            mean = window.mean
            if mean is not None:
                self._means[number] = mean
        for kept in (self._windows, self._means):
            while len(kept) > _REMEMBERED:
                del kept[min(kept)]

    def _sample(self, event: PredictionEvent) -> Sample | None:
        """The image as the guards count it; None when it says nothing about the version."""
        milliseconds = event.seconds * 1000
        if event.answer is not None:
            verdict = event.answer.classification.verdict
            abstained = verdict != classification_pb2.VERDICT_CONFIDENT
            return Sample(milliseconds, event.answer.outputs.probabilities, abstained)
        if isinstance(event.error, BackendUnavailableError | OverloadedError):
            return None
        if isinstance(event.error, DeadlineTooShortError) and milliseconds <= self._policy.max_latency_ms:
            # The caller's deadline was too short, which says nothing about the version.
            return None
        return Sample(milliseconds, None)

    async def _act(self, fired: GuardState) -> None:
        log(
            logging.WARNING,
            "guard_fired",
            guard=fired.name,
            version=fired.version,
            value=fired.value,
            limit=fired.limit,
            windows=fired.breaches,
        )
        unit = " ms" if fired.name == LATENCY else ""
        reason = (
            f"guard {fired.name}: version {fired.version} had {fired.value:.4g}{unit} over the last "
            f"{self._policy.window} images, above {fired.limit:.4g}{unit} for {fired.breaches} windows in a "
            "row"
        )

        def decide(release: Release, seen: StatusSnapshot) -> Draft:
            now, state = time.time(), release.state
            if state.labels.get(CANARY) == fired.version:
                after = transitions.end_canary(state, now=now)
            elif _watched(state, self._policy.watch_seconds) == fired.version and _can_go_back(state, seen):
                after = transitions.rollback(state, now=now)
            else:
                raise NothingDueError
            return Draft(action=GUARD, state=after, actor=GATEWAY, reason=reason)

        try:
            await self._controller.change(decide)
        except NothingDueError:
            log(logging.WARNING, "guard_without_effect", guard=fired.name, version=fired.version)
        except GatewayError as error:
            # The next window above the limit fires again.
            log(logging.ERROR, "guard_failed", guard=fired.name, version=fired.version, message=error.message)


def _can_go_back(state: State, seen: StatusSnapshot) -> bool:
    return PREVIOUS in state.labels and seen.ready(state.labels[PREVIOUS]) is not None


def _watched(state: State, watch_seconds: float) -> int | None:
    """The version that guards watch: the canary, else "stable" after a promotion."""
    if CANARY in state.labels:
        return state.labels[CANARY]
    if state.promoted_at is not None and time.time() - state.promoted_at < watch_seconds:
        return state.labels.get(STABLE)
    return None
