"""Books what came back: how long each answer took, which were refused, which were wrong."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from neurogate_bench.calls import Answer


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the pictures must be answered with; probabilities within `tolerance`, versions within
    `versions`."""

    answers: tuple[tuple[int, float], ...]
    versions: frozenset[int]
    tolerance: float

    @classmethod
    def of(cls, job: dict[str, Any]) -> Expectation:
        """Reads a job's `expected`, `versions` and `tolerance`; without them nothing is expected."""
        return cls(
            answers=tuple((int(index), float(probability)) for index, probability in job.get("expected", [])),
            versions=frozenset(job.get("versions", [])),
            tolerance=float(job.get("tolerance", 2e-3)),
        )

    def problem(self, number: int, answer: Answer) -> str | None:
        """What is wrong with the answer to picture `number`, or None."""
        if self.versions and answer.version is not None and answer.version not in self.versions:
            return "version"
        if self.answers:
            index, probability = self.answers[number % len(self.answers)]
            if answer.winner != index:
                return "class"
            if abs(answer.probability - probability) > self.tolerance:
                return "probability"
        return None


@dataclass(slots=True)
class Tally:
    """One job's outcome as it grows. Times are in seconds."""

    expectation: Expectation
    taken: list[float] = field(default_factory=list)
    finished: list[float] = field(default_factory=list)
    answered_by: list[int] = field(default_factory=list)
    opened: list[float] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)
    refusal_taken: list[float] = field(default_factory=list)
    wrong: Counter[str] = field(default_factory=Counter)
    versions: Counter[int] = field(default_factory=Counter)
    late: list[float] = field(default_factory=list)
    images: int = 0
    _wall: float = 0.0
    _cpu: float = 0.0

    def begin(self) -> None:
        """The moment from which throughput and the generator's own CPU time count."""
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def end(self) -> None:
        """The last answer is in."""
        self._wall, self._cpu = time.monotonic() - self._wall, time.process_time() - self._cpu

    def answered(
        self, number: int, answers: Sequence[Answer], seconds: float, *, opened: float | None = None
    ) -> None:
        """Books one reply, which answers picture `number` and those after it; `opened` is when its call
        began, where that was before it was sent."""
        now = time.monotonic()
        self.taken.append(seconds)
        self.finished.append(now)
        self.opened.append(now - seconds if opened is None else opened)
        # One request is answered by one version; 0 where the protocol does not tell it.
        self.answered_by.append((answers[0].version or 0) if answers else 0)
        self.images += len(answers)
        for offset, answer in enumerate(answers):
            if answer.version is not None:
                self.versions[answer.version] += 1
            if (problem := self.expectation.problem(number + offset, answer)) is not None:
                self.wrong[problem] += 1

    def refused(self, name: str, seconds: float) -> None:
        """Books an error."""
        self.refusals[name] += 1
        self.refusal_taken.append(seconds)

    def reply(self) -> dict[str, Any]:
        """All of it as JSON."""
        return {
            "taken": [round(seconds, 6) for seconds in self.taken],
            "finished": [round(moment, 4) for moment in self.finished],
            "answered_by": self.answered_by,
            "opened": [round(moment, 4) for moment in self.opened],
            "refusals": dict(self.refusals),
            "refusal_taken": [round(seconds, 6) for seconds in self.refusal_taken],
            "wrong": dict(self.wrong),
            "versions": {str(version): count for version, count in self.versions.items()},
            "late": [round(seconds, 6) for seconds in self.late],
            "images": self.images,
            "wall": self._wall,
            "cpu": self._cpu,
        }
