"""What became of one image, for those who count, compare or record it off the callers' path."""

from __future__ import annotations

import dataclasses
from typing import Protocol

from .answers import Answer, Choice
from .errors import GatewayError


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """One image that a version was asked about for a caller.

    Attributes:
        choice: The version, and the label by which it was chosen.
        image: Encoded, as the caller sent it.
        answer: What it said; None when it failed.
        error: Why it failed; None when it answered.
        seconds: From admission to answer or failure.
        caller: The peer's identity; empty where it is not known.
    """

    choice: Choice
    image: bytes
    answer: Answer | None
    error: GatewayError | None
    seconds: float
    caller: str = ""


class OutcomeObserver(Protocol):
    """Is told of every outcome, on the event loop, before the caller is."""

    def observe(self, outcome: Outcome) -> None:
        """Takes note; returns at once and never raises."""
