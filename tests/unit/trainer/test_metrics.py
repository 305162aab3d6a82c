from __future__ import annotations

import json

import numpy as np
import pytest
from neurogate_testing.predictions import CLASSES, make_predictions
from neurogate_trainer.evaluation import metrics as m
from neurogate_trainer.evaluation.calibrate import (
    expected_calibration_error,
    risk_coverage_curve,
)
from neurogate_trainer.evaluation.predictions import Predictions, PredictionsError
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score


def one_hot(indices: list[int], classes: int = 4) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[indices]


def exact(labels: list[int], answers: list[int]) -> Predictions:
    """Answers given with certainty."""
    sure = one_hot(answers)
    paths = tuple(f"{number}.png" for number in range(len(labels)))
    zeros = np.zeros(len(labels), np.float32)
    return Predictions(CLASSES, paths, np.array(labels), sure, sure * 9, zeros)


class TestPointValues:
    def test_agree_with_scikit_learn(self):
        predictions = make_predictions(count=200)
        result = m.compute_metrics(predictions, bootstrap=0)
        truth, answers, scores = predictions.labels, predictions.predicted, predictions.probabilities
        assert result["macro"]["f1"]["value"] == pytest.approx(f1_score(truth, answers, average="macro"))
        assert result["weighted"]["f1"]["value"] == pytest.approx(
            f1_score(truth, answers, average="weighted")
        )
        assert result["macro"]["roc_auc"]["value"] == pytest.approx(
            roc_auc_score(truth, scores, multi_class="ovr"), abs=1e-6
        )
        assert result["per_class"][2]["pr_auc"]["value"] == pytest.approx(
            average_precision_score(truth == 2, scores[:, 2])
        )

    def test_by_hand(self):
        result = m.compute_metrics(exact([0, 0, 0, 1, 2, 3], [0, 0, 1, 1, 2, 3]), bootstrap=0)
        glioma, meningioma = result["per_class"][:2]
        assert result["accuracy"]["value"] == pytest.approx(5 / 6)
        assert (glioma["support"], glioma["predicted"]) == (3, 2)
        assert glioma["precision"]["value"] == 1.0
        assert glioma["recall"]["value"] == pytest.approx(2 / 3)
        assert meningioma["precision"]["value"] == 0.5
        assert meningioma["f1"]["value"] == pytest.approx(2 / 3)
        assert result["confusion"] == [[2, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]

    def test_no_bootstrap_leaves_intervals_null(self):
        accuracy = m.compute_metrics(make_predictions(), bootstrap=0)["accuracy"]
        assert accuracy["low"] is accuracy["high"] is None

    def test_refuses_an_empty_split(self):
        with pytest.raises(ValueError, match="test split is empty"):
            m.compute_metrics(make_predictions(count=0))

    def test_refuses_a_negative_number_of_resamples(self):
        with pytest.raises(ValueError, match="cannot be negative, got -1"):
            m.compute_metrics(make_predictions(), bootstrap=-1)


class TestIntervals:
    def test_surround_the_value_and_shrink_with_more_images(self):
        few = m.compute_metrics(make_predictions(count=60), bootstrap=300)["accuracy"]
        many = m.compute_metrics(make_predictions(count=3000), bootstrap=300)["accuracy"]
        assert few["low"] <= few["value"] <= few["high"]
        assert many["high"] - many["low"] < (few["high"] - few["low"]) / 3

    def test_cover_the_truth_about_as_often_as_they_say(self):
        rate = 0.8
        generator = np.random.default_rng(1)
        covered = 0
        for _ in range(200):
            labels = np.repeat(np.arange(4), 50)
            answers = np.where(generator.random(200) < rate, labels, (labels + 1) % 4)
            accuracy = m.compute_metrics(exact(labels.tolist(), answers.tolist()), bootstrap=200)["accuracy"]
            covered += accuracy["low"] <= rate <= accuracy["high"]
        assert 0.88 <= covered / 200 <= 0.99

    def test_same_seed_same_result(self):
        predictions = make_predictions()
        first, second, other = (m.compute_metrics(predictions, seed=seed, bootstrap=50) for seed in (3, 3, 4))
        assert first == second
        assert (
            first["accuracy"]["low"] != other["accuracy"]["low"] or first["ece"]["low"] != other["ece"]["low"]
        )

    def test_chunks_do_not_change_the_kind_of_result(self, monkeypatch):
        predictions = make_predictions()
        whole = m.compute_metrics(predictions, bootstrap=400)["macro"]["f1"]
        monkeypatch.setattr("neurogate_core.evaluation._CHUNK_ELEMENTS", 7 * len(predictions))
        parts = m.compute_metrics(predictions, bootstrap=400)["macro"]["f1"]
        assert parts["low"] == pytest.approx(whole["low"], abs=0.03)


class TestDegenerate:
    """Whatever the split lacks is null with a reason: no crash, no warning (they are errors here), no NaN."""

    def test_class_without_images(self):
        result = m.compute_metrics(exact([0, 1, 2, 0], [0, 1, 2, 3]), bootstrap=50)
        pituitary = result["per_class"][3]
        assert pituitary["recall"]["value"] is None
        assert pituitary["recall"]["note"] == "no test image is of class pituitary"
        assert pituitary["roc_auc"]["value"] is None
        assert pituitary["precision"]["value"] == 0.0
        assert "no test image is of class pituitary" in result["macro"]["recall"]["note"]
        json.dumps(result, allow_nan=False)

    def test_class_never_answered(self):
        result = m.compute_metrics(exact([0, 1, 2, 3], [0, 1, 2, 2]), bootstrap=50)
        pituitary = result["per_class"][3]
        assert pituitary["precision"]["value"] is None
        assert pituitary["precision"]["note"] == "no test image was classified as pituitary"
        assert (pituitary["recall"]["value"], pituitary["f1"]["value"]) == (0.0, 0.0)
        assert result["macro"]["precision"]["value"] == pytest.approx((1 + 1 + 0.5 + 0) / 4)

    def test_split_of_one_class_answered_with_it(self):
        result = m.compute_metrics(exact([1, 1, 1], [1, 1, 1]), bootstrap=50)
        assert result["cohen_kappa"]["value"] is None
        assert result["cohen_kappa"]["note"] == "truth and answers are all of one class"
        assert result["macro"]["roc_auc"]["value"] is None
        assert result["per_class"][1]["roc_auc"]["note"] == "all test images are of class meningioma"
        json.dumps(result, allow_nan=False)

    def test_single_image(self):
        result = m.compute_metrics(exact([2], [0]), bootstrap=20, abstain_below=0.5)
        assert result["accuracy"] == {"value": 0.0, "low": 0.0, "high": 0.0}
        assert result["abstention"]["risk"]["value"] == 1.0


class TestAbstention:
    def test_counts_only_what_reaches_the_threshold(self):
        probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.55, 0.45]], np.float32)
        paths = ("a", "b", "c", "d")
        zeros = np.zeros(4, np.float32)
        predictions = Predictions(
            ("no", "yes"), paths, np.array([0, 1, 1, 1]), probabilities, probabilities, zeros
        )
        result = m.compute_metrics(predictions, bootstrap=100, abstain_below=0.7, target_risk=0.1)[
            "abstention"
        ]
        assert result["answered"] == 3
        assert result["coverage"]["value"] == 0.75
        assert result["risk"]["value"] == pytest.approx(1 / 3)
        assert result["target_risk"] == 0.1

    def test_nothing_answered_has_no_risk(self):
        result = m.compute_metrics(make_predictions(), bootstrap=20, abstain_below=1.0)["abstention"]
        assert result["risk"]["value"] is None
        assert result["risk"]["note"] == "no test image reaches the abstention threshold"

    def test_curve_ends_with_everything_answered(self):
        predictions = make_predictions()
        thresholds, coverage, risk = risk_coverage_curve(predictions.probabilities, predictions.labels)
        assert (np.diff(thresholds) < 0).all()
        assert coverage[-1] == 1.0
        assert risk[-1] == pytest.approx(1 - predictions.correct.mean())

    def test_curve_answers_ties_together(self):
        _, coverage, risk = risk_coverage_curve(one_hot([0, 1, 2]), np.array([0, 1, 3]))
        assert coverage.tolist() == [1.0]
        assert risk.tolist() == pytest.approx([1 / 3])


class TestCalibrationError:
    def test_certain_and_right_is_perfect(self):
        assert expected_calibration_error(one_hot([0, 1, 2]), np.array([0, 1, 2])) == 0.0

    @pytest.mark.parametrize(
        ("probabilities", "labels", "message"),
        [
            (np.zeros((0, 4)), np.zeros(0, int), "at least one image"),
            (np.array([[2.0, -1.0]]), np.array([0]), "are these logits"),
            (np.array([[np.nan, 1.0]]), np.array([0]), "finite"),
            (np.array([[0.5, 0.5]]), np.array([0, 1]), r"expected \[N, C\] and \[N\]"),
        ],
    )
    def test_refuses_what_is_not_a_distribution(self, probabilities, labels, message):
        with pytest.raises(ValueError, match=message):
            expected_calibration_error(probabilities, labels)


class TestPredictions:
    def test_are_written_as_plain_arrays(self, tmp_path):
        predictions = make_predictions()
        predictions.save(tmp_path / "new" / "predictions.npz")
        with np.load(tmp_path / "new" / "predictions.npz", allow_pickle=False) as stored:
            assert tuple(stored["classes"]) == predictions.classes
            assert tuple(stored["paths"]) == predictions.paths
            for name in ("labels", "probabilities", "logits", "ood_score"):
                np.testing.assert_array_equal(stored[name], getattr(predictions, name))

    @pytest.mark.parametrize(
        ("labels", "message"), [([0, 1], r"labels has shape \(2,\)"), ([2], "between 0 and 1")]
    )
    def test_refuses_labels_that_do_not_fit(self, labels, message):
        scores, zeros = one_hot([0], 2), np.zeros(1, np.float32)
        with pytest.raises(PredictionsError, match=message):
            Predictions(("a", "b"), ("x",), np.array(labels), scores, scores, zeros)
