"""Hyper-parameters that a retraining may set, with their ranges: one table for gateway and trainer.

They travel as text, name by name. The names are those of the trainer's settings; the ranges are narrower
where a retraining on a shared machine has no use for the rest.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Final

Value = int | float | bool


class HyperparameterError(ValueError):
    """A hyper-parameter is unknown or out of its range; `name` says which."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


@dataclasses.dataclass(frozen=True, slots=True)
class Hyperparameter:
    """One of them.

    Attributes:
        kind: int, float or bool.
        low: Least value.
        high: Largest value.
        text: What it does, for people.
    """

    kind: type[int | float | bool]
    low: float
    high: float
    text: str

    def parse(self, name: str, text: str) -> Value:
        """The value of a text.

        Raises:
            HyperparameterError: It is none, or out of its range.
        """
        wanted = "true or false" if self.kind is bool else f"{self.low:g} to {self.high:g}"
        problem = HyperparameterError(name, f"{name} is {text[:40]!r}, expected {wanted}")
        if self.kind is bool:
            if text not in {"true", "false"}:
                raise problem
            return text == "true"
        try:
            # int() and float() take blanks and underscores, which nobody means.
            value = self.kind(text) if text.isascii() and text.strip("0123456789.eE+-") == "" else math.nan
        except ValueError:
            raise problem from None
        if not self.low <= value <= self.high:
            raise problem
        return value


HYPERPARAMETERS: Final[Mapping[str, Hyperparameter]] = {
    "epochs": Hyperparameter(int, 1, 100, "largest number of epochs of fine-tuning"),
    "learning_rate": Hyperparameter(float, 1e-6, 1e-1, "highest learning rate of fine-tuning"),
    "batch_size": Hyperparameter(int, 1, 256, "images per step"),
    "unfrozen_layers": Hyperparameter(int, 0, 154, "how many of the last layers are fine-tuned"),
    "seed": Hyperparameter(int, 0, 2**31 - 1, "of the order of images, augmentation and the bootstrap"),
    "warmup_epochs": Hyperparameter(int, 0, 20, "epochs that train the head alone before fine-tuning"),
    "warmup_learning_rate": Hyperparameter(float, 1e-6, 1e-1, "learning rate in them"),
    "ramp_epochs": Hyperparameter(float, 0, 20, "epochs of linear increase of the learning rate"),
    "final_learning_rate_share": Hyperparameter(
        float, 0, 1, "share of the learning rate that is left at the end"
    ),
    "patience": Hyperparameter(int, 1, 100, "epochs without a better validation score after which it stops"),
    "dropout_hidden": Hyperparameter(float, 0, 0.9, "dropout before the hidden layer"),
    "dropout_logits": Hyperparameter(float, 0, 0.9, "dropout before the logits"),
    "l2": Hyperparameter(float, 0, 1, "weight of the L2 penalty on the dense layers"),
    "label_smoothing": Hyperparameter(float, 0, 0.9, "share of the target that is spread over all classes"),
    "class_weights": Hyperparameter(
        bool, 0, 1, "whether an image counts in inverse proportion to its class' size"
    ),
    "deterministic": Hyperparameter(bool, 0, 1, "whether two runs on one machine give the same bytes"),
}
"""By name. `dropout_hidden` and `dropout_logits` are the two shares of the trainer's `dropout`."""


def parse_hyperparameters(texts: Mapping[str, str]) -> dict[str, Value]:
    """The values of texts by name.

    Raises:
        HyperparameterError: One is unknown, no value, or out of its range.
    """
    values: dict[str, Value] = {}
    for name, text in texts.items():
        known = HYPERPARAMETERS.get(name)
        if known is None:
            raise HyperparameterError(
                name, f"there is no hyper-parameter {name[:40]!r}; there are {', '.join(HYPERPARAMETERS)}"
            )
        values[name] = known.parse(name, text)
    return values
