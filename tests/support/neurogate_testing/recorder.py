"""A reporter of the trainer that remembers what it was called with."""

from __future__ import annotations

from neurogate_trainer.progress import Reporter


class Recorder(Reporter):
    """Names and totals of the phases, units done, figures that are results, and messages."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.totals: list[int | None] = []
        self.steps = 0
        self.results: list[dict[str, float]] = []
        self.messages: list[str] = []
        self.levels: list[str] = []

    def phase(self, name: str, *, total: int | None = None, unit: str = "") -> None:
        self.phases.append(name)
        self.totals.append(total)

    def advance(self, n: int = 1, **metrics: float) -> None:
        self.steps += n
        if n == 0:
            self.results.append(metrics)

    def message(self, text: str, *, level: str = "info") -> None:
        self.messages.append(text)
        self.levels.append(level)
