"""Guards at work: they watch the canary, or "stable" after a promotion, and go back if need be."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from neurogate.v1 import classification_pb2, model_pb2
from neurogate_serving.release import GUARD, Draft, Release, State

from neurogate_gateway.errors import (
    BackendUnavailableError,
    DeadlineTooShortError,
    GatewayError,
    OverloadedError,
)
from neurogate_gateway.listeners import Listeners
from neurogate_gateway.outcomes import Outcome
from neurogate_gateway.routing import CANARY, PREVIOUS, STABLE
from neurogate_gateway.standing import Seen
from neurogate_gateway.telemetry import log

from . import transitions
from .guards import Firing, Floats, Guards, Sample, Window
from .manager import NothingDueError, ReleaseManager
from .policy import GuardPolicy
from .steward import GATEWAY

_REMEMBERED: Final = 8


class Watchdog:
    """Observes outcomes; what a guard that fires means is done in the background."""

    def __init__(self, manager: ReleaseManager, policy: GuardPolicy) -> None:
        self._manager = manager
        self._policy = policy
        self._guards: Guards | None = None
        self._role: tuple[int | None, bool, float | None] = (None, False, None)
        self._compared_with: int | None = None
        self._windows: dict[int, Window] = {}
        self._means: dict[int, Floats] = {}
        self._acting: set[asyncio.Task[None]] = set()
        self.noticed: Listeners[[]] = Listeners()
        """Told whenever a guard counts a breach, or forgets its breaches."""
        # What a version did in one role says nothing about it in the next.
        manager.changed.add(lambda _: self._renew())

    def states(self) -> list[model_pb2.GuardState]:
        """What the guards see; empty while nothing is watched."""
        guards = self._guards
        if guards is None or _watched(self._manager.release.state, self._policy.watch_seconds) is None:
            return []
        return guards.states()

    def observe(self, outcome: Outcome) -> None:
        """Counts an image for the version that was asked."""
        sample = self._sample(outcome)
        if sample is None:
            return
        guards = self._guards
        if guards is not None and _watched(self._manager.release.state, self._policy.watch_seconds) is None:
            guards = self._guards = None
        number = outcome.choice.version.number
        if guards is not None and number == guards.version:
            if self._compared_with in self._means:
                guards.compare(self._means[self._compared_with or 0])
            before = guards.breaches
            fired = guards.add(sample)
            if guards.breaches != before:
                self.noticed.tell()
            if fired is not None:
                task = asyncio.create_task(self._act(fired))
                self._acting.add(task)
                task.add_done_callback(self._acting.discard)
        elif number in self._manager.release.state.labels.values():
            self._remember(number, sample)

    async def close(self) -> None:
        """Lets what has begun end."""
        if self._acting:
            await asyncio.wait(self._acting)

    def _renew(self) -> None:
        """Begins anew where another version is watched, or the same in another role."""
        state = self._manager.release.state
        watched = _watched(state, self._policy.watch_seconds)
        self._compared_with = state.labels.get(STABLE if CANARY in state.labels else PREVIOUS)
        role = (watched, CANARY in state.labels, state.promoted_at)
        if role != self._role:
            self._role = role
            self._guards = None if watched is None else Guards(watched, self._policy)

    def _remember(self, number: int, sample: Sample) -> None:
        """Keeps what a version says on average: whatever follows it is compared with that."""
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

    def _sample(self, outcome: Outcome) -> Sample | None:
        """The image as the guards count it; None when it says nothing about the version."""
        milliseconds = outcome.seconds * 1000
        if outcome.answer is not None:
            verdict = outcome.answer.classification.verdict
            abstained = verdict != classification_pb2.VERDICT_CONFIDENT
            return Sample(milliseconds, outcome.answer.outputs.probabilities, abstained)
        if isinstance(outcome.error, BackendUnavailableError | OverloadedError):
            return None
        if isinstance(outcome.error, DeadlineTooShortError) and milliseconds <= self._policy.max_latency_ms:
            # The caller had no time; that the version was slow is not said.
            return None
        return Sample(milliseconds, None)

    async def _act(self, fired: Firing) -> None:
        log(
            logging.WARNING,
            "guard_fired",
            guard=fired.name,
            version=fired.version,
            value=fired.value,
            limit=fired.limit,
            windows=fired.windows,
        )

        def decide(release: Release, seen: Seen) -> Draft:
            now, state = time.time(), release.state
            if state.labels.get(CANARY) == fired.version:
                after = transitions.end_canary(state, now=now)
            elif _watched(state, self._policy.watch_seconds) == fired.version and _can_go_back(state, seen):
                after = transitions.rollback(state, now=now)
            else:
                raise NothingDueError
            return Draft(action=GUARD, state=after, actor=GATEWAY, reason=str(fired))

        try:
            await self._manager.change(decide)
        except NothingDueError:
            log(logging.WARNING, "guard_without_effect", guard=fired.name, version=fired.version)
        except GatewayError as error:
            # The next window above the limit fires again.
            log(logging.ERROR, "guard_failed", guard=fired.name, version=fired.version, message=error.message)


def _can_go_back(state: State, seen: Seen) -> bool:
    return PREVIOUS in state.labels and seen.ready(state.labels[PREVIOUS]) is not None


def _watched(state: State, watch_seconds: float) -> int | None:
    """The version that guards watch: the canary, else "stable" after a promotion."""
    if CANARY in state.labels:
        return state.labels[CANARY]
    if state.promoted_at is not None and time.time() - state.promoted_at < watch_seconds:
        return state.labels.get(STABLE)
    return None
