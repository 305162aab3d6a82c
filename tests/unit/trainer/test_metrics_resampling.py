"""The metrics of all resamples at once are scikit-learn's, resample by resample."""

from __future__ import annotations

import numpy as np
import pytest
from neurogate_testing.predictions import make_predictions
from neurogate_trainer.evaluation import resampling as r
from sklearn.metrics import (
    average_precision_score,
    cohen_kappa_score,
    precision_recall_fscore_support,
    roc_auc_score,
)

PREDICTIONS = make_predictions(count=90, skill=1.0)
WEIGHTS = next(r.stratified_weights(PREDICTIONS.labels, resamples=6, seed=5))


def test_resamples_keep_the_size_of_every_class():
    for label in np.unique(PREDICTIONS.labels):
        members = PREDICTIONS.labels == label
        assert (WEIGHTS[:, members].sum(axis=1) == members.sum()).all()


def test_resamples_are_as_many_as_asked_for(monkeypatch):
    monkeypatch.setattr(r, "_CHUNK_ELEMENTS", 4 * 90)
    sizes = [len(chunk) for chunk in r.stratified_weights(PREDICTIONS.labels, resamples=10, seed=0)]
    assert sizes == [4, 4, 2]


@pytest.mark.parametrize("row", range(6))
def test_precision_recall_f1(row):
    matrices = r.confusion(WEIGHTS, PREDICTIONS.labels, PREDICTIONS.predicted, 4)
    expected = precision_recall_fscore_support(
        PREDICTIONS.labels, PREDICTIONS.predicted, sample_weight=WEIGHTS[row], zero_division=np.nan
    )
    for found, reference in zip(r.precision_recall_f1(matrices), expected[:3], strict=True):
        np.testing.assert_allclose(found[row], reference)


@pytest.mark.parametrize("row", range(6))
def test_cohen_kappa(row):
    matrices = r.confusion(WEIGHTS, PREDICTIONS.labels, PREDICTIONS.predicted, 4)
    expected = cohen_kappa_score(PREDICTIONS.labels, PREDICTIONS.predicted, sample_weight=WEIGHTS[row])
    assert r.cohen_kappa(matrices)[row] == pytest.approx(expected)


@pytest.mark.parametrize("digits", [6, 1], ids=["distinct scores", "many ties"])
def test_ranking_areas(digits):
    positive = PREDICTIONS.labels == 1
    scores = PREDICTIONS.probabilities[:, 1].round(digits)
    roc, pr = r.ranking_areas(WEIGHTS, scores, positive)
    for row, weights in enumerate(WEIGHTS):
        assert roc[row] == pytest.approx(roc_auc_score(positive, scores, sample_weight=weights))
        assert pr[row] == pytest.approx(average_precision_score(positive, scores, sample_weight=weights))


def test_undefined_values_are_nan():
    ones = np.ones((1, 3))
    roc, pr = r.ranking_areas(ones, np.array([0.1, 0.2, 0.3]), np.zeros(3, bool))
    assert np.isnan([roc[0], pr[0]]).all()
    assert np.isnan(r.cohen_kappa(np.array([[[3.0, 0.0], [0.0, 0.0]]]))[0])
