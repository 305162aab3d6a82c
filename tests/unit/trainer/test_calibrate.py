import numpy as np
import pytest
from neurogate_trainer.evaluation.calibrate import (
    abstention_threshold,
    calibrate,
    fit_temperature,
    probabilities,
)
from scipy.special import softmax


def sample(count: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are right exactly as often as they say when divided by `temperature`."""
    random = np.random.default_rng(seed)
    true = random.normal(0, 2, (count, 4))
    shares = softmax(true, axis=1)
    labels = np.array([random.choice(4, p=row) for row in shares])
    return true * temperature, labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_is_found(temperature):
    logits, labels = sample(4000, temperature)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.1)


def test_few_images_hardly_move_the_temperature_and_many_do():
    logits, labels = sample(6000, 3.0)
    few, more, many = (fit_temperature(logits[:count], labels[:count]) for count in (10, 200, 6000))
    assert 1.0 < few < more < many
    assert many == pytest.approx(3.0, rel=0.1)
    assert few < 2


def test_scaling_improves_the_calibration_error_and_no_answer():
    logits, labels = sample(2000, 3.0)
    record = calibrate(logits, labels, target_risk=0.1)
    assert record["ece_before"] > 0.1
    assert record["ece_after"] < 0.05
    np.testing.assert_array_equal(
        probabilities(logits, 1.0).argmax(axis=1), probabilities(logits, record["temperature"]).argmax(axis=1)
    )
    assert record["risk"] <= 0.1
    assert 0 < record["coverage"] < 1
    assert len(record["curve"]) <= 200
    assert sum(entry["count"] for entry in record["reliability_after"]) == 2000


def test_perfect_logits_do_not_break_the_fit():
    logits = np.eye(4)[np.arange(40) % 4] * 50
    record = calibrate(logits, np.arange(40) % 4, target_risk=0.02)
    assert record["temperature"] >= 0.05
    assert (record["abstain_below"], record["coverage"], record["risk"]) == (0.0, 1.0, 0.0)


def rows(confidences: list[float]) -> np.ndarray:
    return np.array([[value, 1 - value] for value in confidences])


def test_the_limit_answers_as_much_as_the_risk_allows():
    scores = rows([0.95, 0.9, 0.85, 0.8, 0.75, 0.7])
    labels = np.array([0, 0, 0, 0, 1, 1])
    limit, coverage, risk = abstention_threshold(scores, labels, target_risk=0.0)
    assert 0.75 < limit < 0.8
    assert (coverage, risk) == (pytest.approx(4 / 6), 0.0)
    limit, coverage, risk = abstention_threshold(scores, labels, target_risk=0.2)
    assert 0.7 < limit < 0.75
    assert (coverage, risk) == (pytest.approx(5 / 6), pytest.approx(0.2))


def test_an_early_mistake_does_not_end_the_search():
    scores = rows([0.95, *np.linspace(0.9, 0.6, 30)])
    labels = np.array([1] + [0] * 30)
    limit, coverage, _ = abstention_threshold(scores, labels, target_risk=0.05)
    assert (limit, coverage) == (0.0, 1.0)


def test_where_the_target_cannot_be_met_the_least_risk_is_taken():
    scores = rows([0.9, 0.8, 0.7, 0.6])
    labels = np.array([1, 0, 1, 1])
    limit, coverage, risk = abstention_threshold(scores, labels, target_risk=0.1)
    assert 0.7 < limit < 0.8
    assert (coverage, risk) == (0.5, 0.5)
