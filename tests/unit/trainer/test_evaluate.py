"""Evaluation through a real SavedModel of the served shape: a tiny graph that tells colours apart."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf
from neurogate.v1 import manifest_pb2
from neurogate_core.preprocessing.transform import default_spec
from neurogate_testing.recorder import Recorder
from neurogate_trainer.data.index import build_index
from neurogate_trainer.data.splits import Splits
from neurogate_trainer.evaluation import evaluate as e
from neurogate_trainer.evaluation.metrics import compute_metrics, metrics_message
from neurogate_trainer.evaluation.saved_model import SavedModel, decode_batches
from neurogate_trainer.progress import Reporter
from PIL import Image

CLASSES = ("blue", "green", "red")
SIDE = 16


class ColourModel(tf.Module):
    """The channel with most light wins; gray light, which all channels share, counts as foreign."""

    @tf.function(input_signature=[tf.TensorSpec([None, SIDE, SIDE, 3], tf.uint8, name="images")])
    def serve(self, images):
        light = tf.cast(images, tf.float32) / 255.0
        bgr = tf.reduce_mean(light, axis=[1, 2])[:, ::-1]
        return {
            "probabilities": tf.nn.softmax(8.0 * bgr),
            "logits": 8.0 * bgr,
            "gradcam": tf.nn.avg_pool2d(light, 4, 4, "VALID")[..., ::-1],
            "ood_score": tf.reduce_min(bgr, axis=1),
        }


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    path = tmp_path_factory.mktemp("version")
    model = ColourModel()
    tf.saved_model.save(model, str(path), signatures={"serving_default": model.serve})
    return path


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    for channel, name in enumerate(reversed(CLASSES)):
        (root / name).mkdir()
        for number in range(8):
            pixels = generator.integers(0, 60, (24, 24, 3), np.uint8)
            pixels[..., channel] += 150
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return build_index(root, name="colours", reporter=Reporter())


@pytest.fixture
def spec():
    return default_spec(SIDE, SIDE)


def predict(version, index, spec, **changes):
    settings = {"classes": index.classes, "batch_size": 5} | changes
    return e.predict_saved_model(version, index.records, index.root, spec, **settings)


class TestPredictions:
    def test_are_those_of_the_graph_in_the_order_of_the_records(self, version, index, spec):
        predictions = predict(version, index, spec)
        assert predictions.paths == tuple(record.path for record in index.records)
        assert predictions.correct.all()
        model = SavedModel(version)
        one = next(decode_batches([index.root / predictions.paths[7]], spec, batch_size=1))
        np.testing.assert_allclose(model(one)["probabilities"][0], predictions.probabilities[7], rtol=1e-5)

    def test_batch_size_does_not_matter(self, version, index, spec):
        whole, single = (predict(version, index, spec, batch_size=size) for size in (100, 1))
        np.testing.assert_allclose(whole.probabilities, single.probabilities, rtol=1e-5)

    def test_labels_follow_the_order_of_the_classes(self, version, index, spec):
        predictions = predict(version, index, spec, classes=("red", "blue", "green"))
        assert not predictions.correct.any()

    def test_reports_every_image(self, version, index, spec):
        reporter = Recorder()
        predict(version, index, spec, reporter=reporter)
        assert reporter.steps == len(index.records)


class TestRefusals:
    def test_a_folder_without_a_model(self, tmp_path, index, spec):
        with pytest.raises(e.EvaluationError, match=r"holds no saved_model\.pb"):
            predict(tmp_path, index, spec)

    def test_no_images(self, version, index, spec):
        with pytest.raises(ValueError, match="split is empty"):
            e.predict_saved_model(version, [], index.root, spec, classes=CLASSES)

    def test_a_class_that_the_model_does_not_know(self, version, index, spec):
        with pytest.raises(e.EvaluationError, match=r"classes \['red'\], but the model knows"):
            predict(version, index, spec, classes=("blue", "green"))

    def test_images_of_another_size(self, version, index):
        with pytest.raises(e.EvaluationError, match="graph that takes"):
            predict(version, index, default_spec(32, 32))

    def test_a_batch_size_of_nothing(self, version, index, spec):
        with pytest.raises(ValueError, match="at least 1, got 0"):
            predict(version, index, spec, batch_size=0)

    def test_an_image_that_is_gone(self, version, index, spec, tmp_path):
        with pytest.raises(e.EvaluationError, match=r"0\.png was readable when the data set was indexed"):
            e.predict_saved_model(version, index.records, tmp_path, spec, classes=index.classes)

    def test_an_image_that_was_damaged(self, version, index, spec, tmp_path):
        for record in index.records:
            target = tmp_path / record.path
            target.parent.mkdir(exist_ok=True)
            target.write_bytes((index.root / record.path).read_bytes()[:40])
        with pytest.raises(e.EvaluationError, match="but now"):
            e.predict_saved_model(version, index.records, tmp_path, spec, classes=index.classes)

    def test_a_graph_with_other_outputs(self, tmp_path):
        module = tf.Module()
        module.serve = tf.function(
            lambda images: {"logits": tf.cast(images, tf.float32)},
            input_signature=[tf.TensorSpec([None, 2, 2, 3], tf.uint8, name="images")],
        )
        tf.saved_model.save(module, str(tmp_path), signatures={"serving_default": module.serve})
        with pytest.raises(e.EvaluationError, match="no output gradcam, ood_score, probabilities"):
            SavedModel(tmp_path)

    def test_answers_that_are_no_probabilities(self, tmp_path, index, spec):
        model, good = tf.Module(), ColourModel()
        model.serve = tf.function(
            lambda images: (
                good.serve(images) | {"probabilities": good.serve(images)["logits"] * float("nan")}
            ),
            input_signature=[tf.TensorSpec([None, SIDE, SIDE, 3], tf.uint8, name="images")],
        )
        tf.saved_model.save(model, str(tmp_path), signatures={"serving_default": model.serve})
        with pytest.raises(e.EvaluationError, match="do not make sense: probabilities must be finite"):
            predict(tmp_path, index, spec)


class TestRun:
    @pytest.fixture
    def splits(self, index):
        return Splits(index.records[1::2], (), index.records[::2], (), 0)

    def test_writes_metrics_and_predictions(self, version, index, spec, splits, tmp_path):
        (tmp_path / "calibration.json").write_text('{"abstain_below": 0.5, "target_risk": 0.02}')
        (tmp_path / "ood.json").write_text('{"method": "minimum", "threshold": 0.5}')
        gray, dark = (np.full((6, SIDE, SIDE, 3), level, np.uint8) for level in (200, 0))
        found = e.evaluate_run(
            tmp_path, version, splits, index, spec=spec, foreign={"gray": gray, "dark": dark}, bootstrap=50
        )
        written = json.loads((tmp_path / "metrics.json").read_text())
        assert written == found.metrics
        assert written["accuracy"]["value"] == 1.0
        assert written["abstention"]["abstain_below"] == 0.5
        assert written["ood"]["sources"]["gray"] == {"support": 6, "auroc": 1.0, "flagged": 1.0}
        assert written["ood"]["sources"]["dark"] == {"support": 6, "auroc": 0.0, "flagged": 0.0}
        assert (found.ood_auroc, written["ood"]["accepted"]) == (0.5, 1.0)
        assert np.load(tmp_path / "predictions.npz")["paths"].tolist() == [r.path for r in splits.test]
        assert {name: len(scores) for name, scores in found.foreign.items()} == {"gray": 6, "dark": 6}
        assert found.maps(gray).shape == (6, 4, 4, 3)

    def test_without_calibration_or_foreign_images(self, version, index, spec, splits, tmp_path):
        found = e.evaluate_run(tmp_path, version, splits, index, spec=spec, bootstrap=10)
        assert found.metrics["abstention"] is None
        assert found.metrics["ood"] is None
        assert found.ood_auroc is None

    def test_refuses_a_damaged_record(self, version, index, spec, splits, tmp_path):
        (tmp_path / "calibration.json").write_text("[1, 2]")
        with pytest.raises(ValueError, match=r"calibration\.json holds a JSON list, expected an object"):
            e.evaluate_run(tmp_path, version, splits, index, spec=spec, bootstrap=10)


class TestManifestMetrics:
    def test_carry_over(self, version, index, spec):
        metrics = compute_metrics(predict(version, index, spec), bootstrap=50)
        message = metrics_message(metrics, 0.97)
        assert isinstance(message, manifest_pb2.EvaluationMetrics)
        assert (message.support, message.accuracy, message.ood_auroc) == (24, 1.0, 0.97)
        assert message.macro_f1 == metrics["macro"]["f1"]["value"]
        assert [row.class_id for row in message.per_class] == list(CLASSES)
        assert message.per_class[2].roc_auc == 1.0

    def test_undefined_is_zero(self, version, index, spec):
        records = [record for record in index.records if record.class_id != "red"]
        predictions = e.predict_saved_model(version, records, index.root, spec, classes=index.classes)
        message = metrics_message(compute_metrics(predictions, bootstrap=10), None)
        assert (message.per_class[2].support, message.per_class[2].recall, message.ood_auroc) == (0, 0.0, 0.0)


def test_ood_scores_of_many_batches(version):
    model = SavedModel(version)
    images = np.arange(7, dtype=np.uint8)[:, None, None, None] * np.ones((1, SIDE, SIDE, 3), np.uint8)
    scores = e.ood_scores(model, images, batch_size=3)
    np.testing.assert_allclose(scores, np.arange(7) / 255, rtol=1e-5)
    assert e.ood_scores(model, images[:0]).shape == (0,)
