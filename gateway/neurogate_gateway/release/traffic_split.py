"""Which version a label means now, and how its callers are split.

Whoever manages the release hands a `Routing` to the router; the router only reads it. Without one, every
label means the highest READY version.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Final

STABLE: Final = "stable"
PREVIOUS: Final = "previous"
CANARY: Final = "canary"
CANDIDATE: Final = "candidate"
SHADOW: Final = "shadow"
LATEST: Final = "latest"
"""Never stored: always the highest READY version."""


@dataclasses.dataclass(frozen=True, slots=True)
class Routing:
    """The labels as they are now.

    Attributes:
        labels: Version by label, without "latest".
        canary_percent: Share of the callers of "stable" that get "canary" instead, 0 to 100.
    """

    labels: Mapping[str, int]
    canary_percent: float = 0.0

    def chosen_label(self, key: str) -> str:
        """The label that a caller of "stable" gets: "canary" for the split's share of keys.

        The same key gets the same side for as long as the share stays, and a growing share only ever moves
        keys towards the canary.
        """
        if CANARY not in self.labels or self.canary_percent <= 0:
            return STABLE
        place = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()) / 2**64
        return CANARY if place * 100 < self.canary_percent else STABLE
