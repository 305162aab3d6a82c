from __future__ import annotations

import numpy as np
import pytest
from neurogate_testing.predictions import make_predictions
from neurogate_testing.runs import ramps, stripes
from neurogate_trainer.evaluation.calibrate import reliability_bins
from neurogate_trainer.evaluation.metrics import compute_metrics
from neurogate_trainer.report import charts, pictures
from neurogate_trainer.report.style import figure, shorten
from PIL import Image


def check_png(path):
    """A readable picture of a moderate size that is not empty."""
    assert path.stat().st_size < 900_000
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert 700 <= image.width <= 1600
        assert np.asarray(image.convert("L")).std() > 3


def epoch(number, **changes):
    entry = {
        "epoch": number,
        "phase": "head",
        "loss": 1.0,
        "accuracy": 0.5,
        "val_loss": 1.1,
        "val_accuracy": 0.5,
        "val_macro_f1": 0.4,
        "learning_rate": 1e-3,
        "seconds": 2.0,
    }
    return entry | changes


class TestHistory:
    @pytest.mark.parametrize(
        "history",
        [
            [epoch(0)],
            [epoch(0), epoch(1, phase="fine-tune", learning_rate=1e-4)],
            [epoch(0, val_macro_f1=None), epoch(1, val_macro_f1=None, val_loss=float("nan"))],
            [epoch(number, loss=0.0) for number in range(40)],
        ],
        ids=["one epoch", "two phases", "without macro F1", "many epochs"],
    )
    def test_draws(self, tmp_path, history):
        charts.training_history(history, tmp_path / "history.png")
        check_png(tmp_path / "history.png")


class TestQuality:
    @pytest.mark.parametrize(
        "predictions",
        [
            make_predictions(),
            make_predictions(np.zeros(12, int)),
            make_predictions(np.array([1])),
            make_predictions(classes=("no", "yes")),
            make_predictions(classes=tuple(f"class $x_{n}$ <b>" for n in range(9))),
        ],
        ids=["usual", "one class in the split", "one image", "two classes", "nine odd names"],
    )
    def test_draws(self, tmp_path, predictions):
        metrics = compute_metrics(predictions, bootstrap=20, abstain_below=0.5, target_risk=0.02)
        charts.confusion_matrix(metrics, tmp_path / "confusion.png")
        charts.per_class_metrics(metrics, tmp_path / "classes.png")
        charts.roc_and_pr(predictions, metrics, tmp_path / "roc.png")
        charts.risk_coverage(predictions, metrics, tmp_path / "risk.png")
        for path in tmp_path.iterdir():
            check_png(path)

    def test_without_bootstrap_and_threshold(self, tmp_path):
        predictions = make_predictions()
        metrics = compute_metrics(predictions, bootstrap=0)
        charts.per_class_metrics(metrics, tmp_path / "classes.png")
        charts.risk_coverage(predictions, metrics, tmp_path / "risk.png")
        for path in tmp_path.iterdir():
            check_png(path)

    def test_same_data_same_bytes(self, tmp_path):
        metrics = compute_metrics(make_predictions(), bootstrap=20)
        for name in ("first.png", "second.png"):
            charts.confusion_matrix(metrics, tmp_path / name)
        assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()


class TestTrust:
    @pytest.mark.parametrize("count", [1, 3])
    def test_reliability(self, tmp_path, count):
        predictions = make_predictions()
        bins = reliability_bins(predictions.probabilities, predictions.labels)
        charts.reliability([("test split", 0.1, bins)] * count, tmp_path / "reliability.png")
        assert (tmp_path / "reliability.png").stat().st_size > 10_000

    @pytest.mark.parametrize(
        ("inside", "sources"),
        [
            (np.linspace(1, 5, 50), {"digits": np.linspace(6, 9, 20), "noise": np.linspace(4, 7, 3)}),
            (np.linspace(1, 5, 50), {}),
            (np.full(5, 2.0), {"noise": np.full(5, 2.0)}),
            (np.linspace(1, 5, 50), {"far": np.array([1e12])}),
        ],
        ids=["usual", "no sources", "all equal", "an outlier"],
    )
    def test_ood_histogram(self, tmp_path, inside, sources):
        charts.ood_histogram(inside, sources, 5.0, "energy", tmp_path / "ood.png")
        check_png(tmp_path / "ood.png")


class TestPictures:
    def test_gradcam_grid_counts_what_it_shows(self, tmp_path):
        predictions = make_predictions()
        shown = pictures.gradcam_grid(predictions, 0, stripes, ramps, tmp_path / "gradcam.png")
        right = int((predictions.correct & (predictions.labels == 0)).sum())
        wrong = int((~predictions.correct & (predictions.labels == 0)).sum())
        assert shown == min(6, right) + min(6, wrong)
        check_png(tmp_path / "gradcam.png")

    def test_gradcam_grid_of_an_absent_class_is_no_figure(self, tmp_path):
        predictions = make_predictions(np.array([1, 1, 2]))
        assert pictures.gradcam_grid(predictions, 0, stripes, ramps, tmp_path / "gradcam.png") == 0
        assert not list(tmp_path.iterdir())

    def test_a_map_without_evidence_leaves_the_image(self, tmp_path):
        predictions = make_predictions(count=8)
        pictures.gradcam_grid(
            predictions,
            int(predictions.labels[0]),
            stripes,
            lambda images: np.zeros((len(images), 24, 24, 4), np.float32),
            tmp_path / "gradcam.png",
        )
        check_png(tmp_path / "gradcam.png")
        pixels = stripes("a")
        assert pictures.overlay(pixels, np.zeros((7, 7), np.float32)) is pixels

    def test_overlay_colours_where_the_evidence_is(self):
        heat = np.zeros((4, 4), np.float32)
        heat[0, 0] = 0.001
        pixels = np.full((64, 64, 3), 100, np.uint8)
        mixed = pictures.overlay(pixels, heat).astype(int)
        assert np.abs(mixed[4, 4] - 100).max() > 60
        assert np.abs(mixed[-4, -4] - 100).max() < 3

    @pytest.mark.parametrize("classes", [2, 4, 9])
    @pytest.mark.parametrize("evidence", [0.0, 5.0])
    def test_evidence_for_every_class(self, tmp_path, classes, evidence):
        maps = np.full((3, 3, classes), evidence, np.float32)
        maps[..., 0] = 0
        shares = {f"class {number}": 1 / classes for number in range(classes)}
        path = tmp_path / "evidence.png"
        pictures.evidence_figure(stripes("a"), shares, maps, path, title="a", subtitle="b")
        check_png(path)

    def test_one_scale_lets_classes_be_compared(self):
        pixels = np.full((32, 32, 3), 100, np.uint8)
        strong, weak = np.full((2, 2), 8.0, np.float32), np.full((2, 2), 0.4, np.float32)
        changes = [
            np.abs(pictures.overlay(pixels, heat, peak=8.0).astype(int) - 100).max()
            for heat in (strong, weak)
        ]
        assert changes[0] > 10 * changes[1]

    def test_mistakes_are_the_most_confident_first(self, tmp_path):
        predictions = make_predictions(skill=0.5)
        asked: list[str] = []

        def load(path):
            asked.append(path)
            return stripes(path)

        assert pictures.confident_mistakes(predictions, load, tmp_path / "m.png", count=5) == 5
        chosen = [predictions.paths.index(path) for path in asked]
        assert not predictions.correct[chosen].any()
        assert (np.diff(predictions.confidence[chosen]) <= 0).all()
        assert predictions.confidence[chosen[0]] == predictions.confidence[~predictions.correct].max()

    def test_no_mistake_is_no_figure(self, tmp_path):
        predictions = make_predictions(skill=99)
        assert pictures.confident_mistakes(predictions, stripes, tmp_path / "m.png") == 0
        assert not list(tmp_path.iterdir())


def test_a_failed_figure_leaves_the_old_one(tmp_path):
    def draw(fail):
        with figure(tmp_path / "f.png", "Title", size=(5, 3)) as canvas:
            canvas.subplots()
            if fail:
                raise RuntimeError("no data")

    draw(fail=False)
    before = (tmp_path / "f.png").read_bytes()
    with pytest.raises(RuntimeError, match="no data"):
        draw(fail=True)
    assert (tmp_path / "f.png").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["f.png"]


def test_shorten_keeps_the_telling_end():
    assert shorten("Testing/glioma/0001.jpg", 12) == "…ma/0001.jpg"
    assert shorten("short.jpg") == "short.jpg"
