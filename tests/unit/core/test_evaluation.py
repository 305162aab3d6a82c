"""The metrics of all resamples at once are scikit-learn's, resample by resample."""

from __future__ import annotations

import numpy as np
import pytest
from neurogate_core import evaluation as e
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    cohen_kappa_score,
    precision_recall_fscore_support,
    roc_auc_score,
)

random = np.random.default_rng(0)
LABELS = random.integers(0, 4, 90)
LOGITS = random.normal(size=(90, 4)) + np.eye(4)[LABELS]
PROBABILITIES = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
ANSWERS = PROBABILITIES.argmax(axis=1)
WEIGHTS = next(e.stratified_weights(LABELS, resamples=6, seed=5))


def test_resamples_keep_the_size_of_every_class():
    for label in range(4):
        assert (WEIGHTS[:, label == LABELS].sum(axis=1) == (label == LABELS).sum()).all()


def test_resamples_are_as_many_as_asked_for(monkeypatch):
    monkeypatch.setattr(e, "_CHUNK_ELEMENTS", 4 * 90)
    sizes = [len(chunk) for chunk in e.stratified_weights(LABELS, resamples=10, seed=0)]
    assert sizes == [4, 4, 2]


def test_means_over_resamples_are_those_of_their_weights(monkeypatch):
    """However few are drawn at a time."""
    values = random.normal(size=(90, 3))
    expected = next(e.stratified_weights(LABELS, resamples=30, seed=1)) @ values / 90
    monkeypatch.setattr(e, "_BLOCK_ELEMENTS", 50)
    np.testing.assert_allclose(e.resampled_means(LABELS, values, resamples=30, seed=1), expected)
    one = e.resampled_means(LABELS, values[:, 0], resamples=30, seed=1)
    np.testing.assert_allclose(one, expected[:, 0])


@pytest.mark.parametrize("row", range(6))
def test_scores_are_those_of_scikit_learn(row):
    found = {
        name: values[row] for name, values in e.classification_metrics(WEIGHTS, LABELS, PROBABILITIES).items()
    }
    weights = {"sample_weight": WEIGHTS[row]}
    assert found["accuracy"] == pytest.approx(accuracy_score(LABELS, ANSWERS, **weights))
    assert found["cohen_kappa"] == pytest.approx(cohen_kappa_score(LABELS, ANSWERS, **weights))
    for average in ("macro", "weighted"):
        expected = precision_recall_fscore_support(
            LABELS, ANSWERS, average=average, zero_division=0.0, **weights
        )
        assert [found[f"{average}/{score}"] for score in e.SCORES[:3]] == pytest.approx(expected[:3])
    each = precision_recall_fscore_support(LABELS, ANSWERS, zero_division=np.nan, **weights)
    for score, values in zip(e.SCORES, each[:3], strict=False):
        np.testing.assert_allclose([found[f"{index}/{score}"] for index in range(4)], values)


@pytest.mark.parametrize("digits", [6, 1], ids=["distinct scores", "many ties"])
def test_ranking_areas(digits):
    positive, scores = LABELS == 1, PROBABILITIES[:, 1].round(digits)
    roc, pr = e.ranking_areas(WEIGHTS, scores, positive)
    for row, weights in enumerate(WEIGHTS):
        assert roc[row] == pytest.approx(roc_auc_score(positive, scores, sample_weight=weights))
        assert pr[row] == pytest.approx(average_precision_score(positive, scores, sample_weight=weights))


def test_undefined_values_are_nan():
    roc, pr = e.ranking_areas(np.ones((1, 3)), np.array([0.1, 0.2, 0.3]), np.zeros(3, bool))
    assert np.isnan([roc[0], pr[0]]).all()
    assert np.isnan(e.cohen_kappa(np.array([[[3.0, 0.0], [0.0, 0.0]]]))[0])


def test_bins_are_closed_above():
    assert e.bin_index(np.array([0.0, 0.2, 0.2000001, 1.0])).tolist() == [0, 2, 3, 14]


def test_calibration_error_by_hand():
    probabilities = np.array([[0.95, 0.05], [0.95, 0.05], [0.6, 0.4], [0.6, 0.4]])
    found = e.calibration_error(np.ones((1, 4)), np.array([0, 1, 0, 0]), probabilities)
    assert found == pytest.approx((2 * abs(0.5 - 0.95) + 2 * abs(1.0 - 0.6)) / 4)
