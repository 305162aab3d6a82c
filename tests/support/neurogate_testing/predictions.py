"""Made-up answers of a made-up model, for tests of metrics, figures and reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from neurogate_trainer.evaluation.predictions import Predictions

if TYPE_CHECKING:
    import numpy.typing as npt

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")


def make_predictions(
    labels: npt.NDArray[np.int64] | None = None,
    *,
    count: int = 120,
    skill: float = 2.5,
    classes: tuple[str, ...] = CLASSES,
    seed: int = 0,
) -> Predictions:
    """Answers whose logits favour the truth by `skill`; images of random classes unless labels are given."""
    generator = np.random.default_rng(seed)
    if labels is None:
        labels = generator.integers(0, len(classes), count)
    logits = generator.normal(size=(len(labels), len(classes)))
    logits[np.arange(len(labels)), labels] += skill
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    return Predictions(
        classes=classes,
        paths=tuple(f"Testing/{classes[label]}/{number:04d}.jpg" for number, label in enumerate(labels)),
        labels=labels.astype(np.int64),
        probabilities=(scores / scores.sum(axis=1, keepdims=True)).astype(np.float32),
        logits=logits.astype(np.float32),
        ood_score=generator.gamma(9.0, 1.0, len(labels)).astype(np.float32),
    )
