"""How often two versions agree on the same images."""

from __future__ import annotations

import numpy as np
from neurogate.v1 import model_pb2

from neurogate_gateway.wire import Floats


class Agreement:
    """Counts of stable's class against the shadow's, and how far their probabilities lie apart."""

    def __init__(self, stable: int, shadow: int, class_ids: tuple[str, ...]) -> None:
        """Begins at zero.

        Args:
            stable: Version that answers the callers.
            shadow: Version that gets the copies.
            class_ids: Of both, in class order; at least one.
        """
        self.stable = stable
        self.shadow = shadow
        self.class_ids = class_ids
        self.dropped = 0
        self.failed = 0
        self._counts = np.zeros((len(class_ids), len(class_ids)), dtype=np.int64)
        self._shift = 0.0

    @property
    def compared(self) -> int:
        """Images that both have answered."""
        return int(self._counts.sum())

    @property
    def agreed(self) -> int:
        """Images on which both name the same class."""
        return int(np.trace(self._counts))

    def add(self, stable: Floats, shadow: Floats) -> None:
        """Takes two answers to one image, each f32 [C]."""
        row, column = int(stable.argmax()), int(shadow.argmax())
        self._counts[row, column] += 1
        self._shift += abs(float(stable[row]) - float(shadow[row]))

    def message(self) -> model_pb2.ShadowAgreement:
        """As the contract has it."""
        compared = self.compared
        return model_pb2.ShadowAgreement(
            stable_version=self.stable,
            shadow_version=self.shadow,
            class_ids=self.class_ids,
            counts=self._counts.ravel().tolist(),
            mean_probability_shift=self._shift / compared if compared else 0.0,
            compared=compared,
            dropped=self.dropped,
            failed=self.failed,
        )
