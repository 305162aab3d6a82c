import numpy as np
import pytest
from neurogate_core.preprocessing.transform import default_spec
from neurogate_trainer.config import TrainConfig
from neurogate_trainer.data.inputs import Examples
from neurogate_trainer.evaluation.ood import (
    CANDIDATES,
    FeatureDistance,
    acceptance_threshold,
    auroc,
    compare,
    energy,
    fit_distance,
    fit_ood,
)
from neurogate_trainer.evaluation.ood_sources import foreign_images
from neurogate_trainer.model.network import build_model
from neurogate_trainer.progress import Reporter
from sklearn.metrics import roc_auc_score

# Keras asks numpy 2 for copies in the way of numpy 1.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

RANDOM = np.random.default_rng(0)


def heads(count: int, side: int = 32, seed: int = 0) -> np.ndarray:
    """Bright discs on black, in all three channels."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    images = np.zeros((count, side, side, 3), np.uint8)
    for image in images:
        radius = random.uniform(0.3, 0.45) * side
        disc = (y - side / 2) ** 2 + (x - side / 2) ** 2 < radius**2
        image[disc] = random.integers(80, 200, (int(disc.sum()), 1))
    return images


def test_a_distance_is_the_mahalanobis_distance_of_a_factor_model():
    mixing = RANDOM.normal(size=(6, 40))
    features = (RANDOM.normal(size=(500, 6)) @ mixing + 0.1 * RANDOM.normal(size=(500, 40))).astype(
        np.float32
    )
    distance = fit_distance("mahalanobis-layout", features, np.zeros(500, np.int64))
    rank = distance.components.shape[1]
    precision = distance.residual * np.eye(40) + distance.components * distance.gains @ distance.components.T
    offset = features / distance.scale - distance.means[0]
    expected = np.einsum("nd,de,ne->n", offset, precision, offset) / 40
    np.testing.assert_allclose(np.asarray(distance(features)), expected, rtol=1e-3)
    np.testing.assert_allclose(distance.components.T @ distance.components, np.eye(rank), atol=1e-5)
    assert float(np.mean(expected)) == pytest.approx(1.0, rel=0.2)
    unusual = features + 3 * np.sign(RANDOM.normal(size=features.shape)).astype(np.float32)
    assert auroc(np.asarray(distance(features)), np.asarray(distance(unusual))) > 0.99


def test_the_nearest_class_counts():
    centres = np.array([[0.0] * 8, [10.0] * 8])
    labels = np.arange(200) % 2
    features = (centres[labels] + RANDOM.normal(size=(200, 8))).astype(np.float32)
    distance = fit_distance("mahalanobis", features, labels)
    between = np.full((1, 8), 5.0, np.float32)
    known = np.asarray(distance(features))
    assert float(np.asarray(distance(between))[0]) > np.quantile(known, 0.99)


def test_features_that_never_vary_do_not_divide_by_zero():
    features = RANDOM.normal(size=(50, 10)).astype(np.float32)
    features[:, 3] = 7.0
    distance = fit_distance("mahalanobis-layout", features, np.zeros(50, np.int64))
    assert np.isfinite(np.asarray(distance(features))).all()
    assert np.isfinite(distance.gains).all()


def test_fewer_images_than_features_still_fit():
    features = RANDOM.normal(size=(12, 300)).astype(np.float32)
    distance = fit_distance("mahalanobis-layout", features, np.zeros(12, np.int64))
    assert np.isfinite(np.asarray(distance(features))).all()


def test_a_distance_survives_its_file(tmp_path):
    features = RANDOM.normal(size=(60, 10)).astype(np.float32)
    distance = fit_distance("mahalanobis", features, np.arange(60) % 3)
    distance.save(tmp_path / "ood.npz")
    again = FeatureDistance.load(tmp_path / "ood.npz")
    np.testing.assert_array_equal(np.asarray(again(features)), np.asarray(distance(features)))
    assert again.method == "mahalanobis"


def test_energy_is_large_where_no_class_finds_support():
    scores = np.asarray(energy(np.array([[9.0, 0.0], [0.1, 0.0]], np.float32)))
    assert scores[0] == pytest.approx(-np.log(np.exp(9) + 1), rel=1e-4)
    assert scores[1] > scores[0]


def test_the_threshold_accepts_the_share():
    scores = RANDOM.normal(size=400).astype(np.float32)
    limit = acceptance_threshold(scores, 0.95)
    assert 0.95 <= (scores <= limit).mean() < 0.96


def test_auroc_is_scikit_learns():
    inside, outside = (
        RANDOM.integers(0, 9, 50).astype(np.float32),
        RANDOM.integers(3, 12, 70).astype(np.float32),
    )
    truth = np.r_[np.zeros(50), np.ones(70)]
    assert auroc(inside, outside) == pytest.approx(roc_auc_score(truth, np.r_[inside, outside]))


def test_the_better_candidate_is_kept():
    inside = {"a": np.zeros(10, np.float32), "b": np.zeros(10, np.float32)}
    outside = {
        "a": {"x": np.ones(5, np.float32), "y": -np.ones(50, np.float32)},
        "b": {"x": np.ones(5, np.float32)},
    }
    best, table = compare(inside, outside)
    assert best == "b"
    assert table["a"] == {"auroc": 0.5, "per_source": {"x": 1.0, "y": 0.0}}


def test_foreign_images_come_from_all_sources_and_differ_by_part():
    spec = default_spec(32, 32)
    parts = {
        part: foreign_images(heads(20), spec, part=part, per_source=6) for part in ("selection", "report")
    }
    for sources in parts.values():
        assert sources.keys() == {"photographs", "digits", "noise", "text", "inverted heads", "rotated heads"}
        for images in sources.values():
            assert images.shape == (6, 32, 32, 3)
            assert images.dtype == np.uint8
    again = foreign_images(heads(20), spec, part="report", per_source=6)
    for name, images in parts["report"].items():
        np.testing.assert_array_equal(images, again[name])
        assert not np.array_equal(images, parts["selection"][name])


def test_rotated_heads_are_turned_by_quarters():
    spec = default_spec(32, 32)
    marked = np.zeros((4, 32, 32, 3), np.uint8)
    marked[:, 2, 5] = 255
    turned = foreign_images(marked, spec, part="report", per_source=4)["rotated heads"]
    spots = {tuple(np.argwhere(image[..., 0])[0]) for image in turned}
    assert spots <= {(26, 2), (29, 26), (5, 29)}


def test_fit_ood_chooses_and_sets_the_threshold():
    model = build_model(TrainConfig(image_size=32, head_units=8), 2)
    training = Examples(heads(40), np.arange(40) % 2)
    validation = Examples(heads(30, seed=1), np.arange(30) % 2)
    foreign = foreign_images(validation.pixels, default_spec(32, 32), part="selection", per_source=8)
    record, distance = fit_ood(model, training, validation, foreign, acceptance=0.9, reporter=Reporter())
    assert record["candidates"].keys() == {"energy", *CANDIDATES}
    best = max(record["candidates"], key=lambda name: record["candidates"][name]["auroc"])
    assert record["method"] == best
    assert (distance is None) == (best == "energy")
    assert 0.9 <= record["id_acceptance"] <= 0.94
    assert np.isfinite(record["threshold"])
