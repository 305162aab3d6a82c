"""What became of one image, for those who count, compare or record it off the callers' path.

Every image that a version was asked about has one outcome, whether it came alone, in a batch, in a stream or
for an explanation. A failure is one when it is the version's or the model server's: it cannot be reached, is
full, answers nonsense, breaks, or does not answer by the deadline that was passed on to it. What is refused
before the version is asked is none: an image that cannot be decoded, a deadline that is over already, too
much in flight. Nor is what another attempt or another choice of version makes good unseen by the caller.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol

from neurogate_gateway.errors import GatewayError

from .predictions import Prediction, ResolvedVersion


@dataclasses.dataclass(frozen=True, slots=True)
class PredictionEvent:
    """One image that a version was asked about for a caller.

    Attributes:
        choice: The version, and the label by which it was chosen.
        image: Encoded, as the caller sent it; of a DICOM file the frame's picture, never the file.
        answer: What it said; None when it failed.
        error: Why it failed; None when it answered.
        seconds: From admission to answer or failure.
        caller: The peer's identity; empty where it is not known.
        attributes: Of a DICOM file, what may be kept of its header; of others nothing.
    """

    choice: ResolvedVersion
    image: bytes
    answer: Prediction | None
    error: GatewayError | None
    seconds: float
    caller: str = ""
    attributes: Mapping[str, str] = dataclasses.field(default_factory=dict)


class PredictionObserver(Protocol):
    """Is told of every outcome, on the event loop, before the caller is."""

    def observe(self, outcome: PredictionEvent) -> None:
        """Takes note; returns at once and never raises."""
