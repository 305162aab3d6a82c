"""What a load brought: booked answer by answer in the generator's process, sent to the scenario as JSON,
added up there."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from neurogate_bench.stats import percentile


class Answer(NamedTuple):
    """What is compared: the winning class, its probability, and the version if the protocol tells it."""

    winner: int
    probability: float
    version: int | None


@dataclass(slots=True)
class Load:
    """Of good answers, in the same order: latencies in milliseconds since the intended send time; when
    their calls began and when they came (monotonic seconds); which version gave them, 0 where the protocol
    does not tell it."""

    seconds: float = 0.0
    images: int = 0
    latencies_ms: list[float] = field(default_factory=list)
    opened: list[float] = field(default_factory=list)
    finished: list[float] = field(default_factory=list)
    answered_by: list[int] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)
    refusal_ms: list[float] = field(default_factory=list)
    wrong: Counter[str] = field(default_factory=Counter)
    lateness_ms: list[float] = field(default_factory=list)
    generator_cpu: float = 0.0
    busiest_share: float = 0.0
    """Largest share of a burst in which the generator was busy."""

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Load:
        counts = {name: Counter(content[name]) for name in ("refusals", "wrong")}
        return cls(**{**content, **counts})

    def to_json(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @property
    def answered(self) -> int:
        """Requests that got an answer that is no error."""
        return len(self.latencies_ms)

    @property
    def requests(self) -> int:
        return self.answered + sum(self.refusals.values())

    @property
    def per_second(self) -> float:
        """Images answered per second."""
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def error_share(self) -> float:
        """Refused requests among all."""
        return sum(self.refusals.values()) / self.requests if self.requests else 1.0

    def latency(self, percent: float) -> float:
        """A percentile of the latencies in milliseconds."""
        return percentile(self.latencies_ms, percent)

    def cpu_ms(self, cpu_seconds: float) -> float:
        """CPU-milliseconds per image, of a server that used `cpu_seconds` meanwhile."""
        return 1000 * cpu_seconds / self.images if self.images else float("nan")


def merge(loads: Iterable[Load]) -> Load:
    """Several bursts of one contender as one load: their times add up, what lay between does not count."""
    whole = Load()
    for load in loads:
        busiest = max(whole.busiest_share, load.busiest_share)
        for each in fields(Load):
            setattr(whole, each.name, getattr(whole, each.name) + getattr(load, each.name))
        whole.busiest_share = busiest
    return whole


class Booking:
    """Fills a load while it runs, and holds each answer to what the job expects: `expected` class and
    probability of each picture, within `tolerance`, by one of the `versions`."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.load = Load()
        self._expected: list[list[float]] = job.get("expected", [])
        self._versions = set(job.get("versions", []))
        self._tolerance = float(job.get("tolerance", 2e-3))

    def begin(self) -> None:
        """The moment from which throughput and the generator's own CPU time count."""
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def end(self) -> None:
        """The last answer is in."""
        load = self.load
        load.seconds = time.monotonic() - self._wall
        load.generator_cpu = time.process_time() - self._cpu
        load.busiest_share = load.generator_cpu / load.seconds

    def answered(
        self, number: int, answers: Sequence[Answer], seconds: float, *, opened: float | None = None
    ) -> None:
        """Books one reply, which answers picture `number` and those after it; `opened` is when its call
        began, where that was before it was sent."""
        load, now = self.load, time.monotonic()
        load.latencies_ms.append(round(1000 * seconds, 3))
        load.finished.append(round(now, 4))
        load.opened.append(round(now - seconds if opened is None else opened, 4))
        load.answered_by.append((answers[0].version or 0) if answers else 0)
        load.images += len(answers)
        for offset, answer in enumerate(answers):
            if problem := self.problem(number + offset, answer):
                load.wrong[problem] += 1

    def refused(self, name: str, seconds: float) -> None:
        """Books an error."""
        self.load.refusals[name] += 1
        self.load.refusal_ms.append(round(1000 * seconds, 3))

    def problem(self, number: int, answer: Answer) -> str:
        """What is wrong with the answer to picture `number`, or nothing."""
        if self._versions and answer.version is not None and answer.version not in self._versions:
            return "version"
        if self._expected:
            index, probability = self._expected[number % len(self._expected)]
            if answer.winner != index:
                return "class"
            if abs(answer.probability - probability) > self._tolerance:
                return "probability"
        return ""
