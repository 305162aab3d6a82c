"""The gateway's evaluation and the trainer's give the same numbers, since the gate compares them."""

from __future__ import annotations

import numpy as np
import pytest
from neurogate_core.evaluation import Measured, evaluation_metrics
from neurogate_trainer.evaluation.metrics import compute_metrics
from neurogate_trainer.evaluation.predictions import Predictions

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")


@pytest.mark.parametrize(("images", "classes_seen"), [(1, 1), (37, 1), (37, 3), (37, 4), (400, 4), (4500, 4)])
def test_gateway_and_trainer_measure_the_same(images: int, classes_seen: int) -> None:
    random = np.random.default_rng(images)
    labels = random.integers(0, classes_seen, images)
    # Ties and doubtful answers, for the sake of ranks and bins.
    logits = random.normal(size=(images, 4)).round(1) + 1.5 * np.eye(4)[labels]
    probabilities = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)
    here = evaluation_metrics(
        Measured(
            version=1,
            digest="",
            images_digest="",
            class_ids=CLASSES,
            labels=labels,
            probabilities=probabilities,
            latency_ms=np.ones(images),
        )
    )
    there = compute_metrics(
        Predictions(
            classes=CLASSES,
            paths=tuple(map(str, range(images))),
            labels=labels,
            probabilities=probabilities,
            logits=logits.astype(np.float32),
            ood_score=np.zeros(images, np.float32),
        )
    )
    assert here.support == there["support"]
    pairs = [
        (here.accuracy, there["accuracy"]["value"]),
        (here.accuracy_ci_low, there["accuracy"]["low"]),
        (here.accuracy_ci_high, there["accuracy"]["high"]),
        (here.ece, there["ece"]["value"]),
        (here.macro_f1, there["macro"]["f1"]["value"]),
        (here.macro_roc_auc, there["macro"]["roc_auc"]["value"]),
    ]
    for ours, theirs in zip(here.per_class, there["per_class"], strict=True):
        assert (ours.class_id, ours.support) == (theirs["class_id"], theirs["support"])
        pairs += [
            (getattr(ours, name), theirs[name]["value"]) for name in ("precision", "recall", "f1", "roc_auc")
        ]
    for number, (ours_, theirs_) in enumerate(pairs):
        assert ours_ == pytest.approx(theirs_ or 0.0, abs=1e-9), number
