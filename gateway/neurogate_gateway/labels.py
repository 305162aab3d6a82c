"""What each label of the model means."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

STABLE: Final = "stable"
LATEST: Final = "latest"


class LabelTable:
    """Versions by label.

    "latest" is always the highest READY version. Every other label means the version that was assigned to
    it, ready or not. "stable" exists from the beginning: until a version is assigned to it, nobody has made
    a choice, and it means the highest READY version too.
    """

    def __init__(self, assigned: Mapping[str, int] | None = None) -> None:
        self.assign(assigned or {})

    def assign(self, assigned: Mapping[str, int]) -> None:
        """Replaces all assignments at once, so that no reader sees half of a change.

        Raises:
            ValueError: "latest" is among them, or a label is empty.
        """
        if LATEST in assigned or "" in assigned:
            raise ValueError(f"a label may neither be empty nor {LATEST!r}")
        self._assigned = dict(assigned)

    def __contains__(self, label: str) -> bool:
        return label in {STABLE, LATEST} or label in self._assigned

    def version(self, label: str, ready: Collection[int]) -> int | None:
        """The version that a known label means now; None where that one is not ready."""
        if label != LATEST and label in self._assigned:
            assigned = self._assigned[label]
            return assigned if assigned in ready else None
        return max(ready, default=None)

    def of(self, version: int, ready: Collection[int]) -> list[str]:
        """The labels that point to a version now, sorted."""
        labels = {label for label, assigned in self._assigned.items() if assigned == version}
        labels |= {label for label in (STABLE, LATEST) if self.version(label, ready) == version}
        return sorted(labels)
