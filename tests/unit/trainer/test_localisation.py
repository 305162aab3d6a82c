"""Do explanations point at the lesion? Measured on pictures whose lesion is a coloured spot."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from neurogate_core.preprocessing.transform import default_spec, transform
from neurogate_trainer.data.index import build_index
from neurogate_trainer.data.masks import mask_path, read_mask
from neurogate_trainer.data.splits import Splits
from neurogate_trainer.evaluation import pointing
from neurogate_trainer.evaluation.evaluate import evaluate_run
from neurogate_trainer.evaluation.localisation_summary import localisation_message
from neurogate_trainer.progress import Reporter
from neurogate_trainer.report.figures import draw_figures
from neurogate_trainer.report.page import write_report
from neurogate_trainer.report.words import map_warning
from PIL import Image

CLASSES = ("blue", "green", "none")
SIDE = 48


class SpotModel(tf.Module):
    """Blue or green light on the gray head decides, and the map is that light; else it is "none"."""

    def __init__(self, upside_down: bool):
        super().__init__()
        self.upside_down = upside_down

    @tf.function(input_signature=[tf.TensorSpec([None, SIDE, SIDE, 3], tf.uint8, name="images")])
    def serve(self, images):
        light = tf.cast(images, tf.float32) / 255.0
        colour = tf.nn.relu(tf.stack([light[..., 2], light[..., 1]], -1) - light[..., :1] - 0.2)
        share = tf.reduce_mean(colour, axis=[1, 2])
        logits = tf.concat([1000.0 * share, tf.fill([tf.shape(images)[0], 1], 2.0)], axis=1)
        maps = tf.nn.avg_pool2d(tf.concat([colour, 1.0 - light[..., :1]], -1), 2, 2, "VALID")
        return {
            "probabilities": tf.nn.softmax(logits),
            "logits": logits,
            "gradcam": maps[:, ::-1] if self.upside_down else maps,
            "ood_score": share[:, 0],
        }


def save(path, *, upside_down):
    model = SpotModel(upside_down)
    tf.saved_model.save(model, str(path), signatures={"serving_default": model.serve})
    return path


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    return save(tmp_path_factory.mktemp("good"), upside_down=False)


@pytest.fixture(scope="module")
def misleading(tmp_path_factory):
    return save(tmp_path_factory.mktemp("bad"), upside_down=True)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Gray discs, six of each class, with a spot of colour in their upper half."""
    root = tmp_path_factory.mktemp("spots")
    rng = np.random.default_rng(3)
    down, right = np.ogrid[:96, :96]
    for name in CLASSES:
        (root / name).mkdir()
        for number in range(6):
            head = (down - 48) ** 2 + (right - 48) ** 2 < 40**2
            gray = (head * 60 + rng.integers(0, 8, (96, 96))).astype(np.uint8)
            pixels = np.repeat(gray[..., None], 3, axis=2)
            spot = (down - rng.integers(22, 34)) ** 2 + (right - rng.integers(30, 66)) ** 2 < 6**2
            if name != "none":
                pixels[spot, 2 if name == "blue" else 1] = 230
                path = root / mask_path(f"{name}/{number}.png")
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(spot).save(path)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return build_index(root, reporter=Reporter())


def measured(run, version, index, *, draw=False, **changes):
    splits = Splits((), (), index.records, (), 0)
    spec = default_spec(SIDE, SIDE)
    found = evaluate_run(run, version, splits, index, spec=spec, bootstrap=50, **changes)
    if draw:
        draw_figures(
            run,
            found.predictions,
            found.metrics,
            foreign={},
            load=lambda path: transform((index.root / path).read_bytes(), spec),
            explain=found.maps,
            pointed=found.pointed,
            lesion=lambda position: read_mask(index.root, splits.test[position]),
            reporter=Reporter(),
        )
    return found.metrics


def test_maps_that_show_the_lesion(version, index, tmp_path):
    metrics = measured(tmp_path, version, index)
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    lesions, deletion = metrics["localisation"]["lesions"], metrics["localisation"]["deletion"]
    assert (lesions["images"], lesions["of"]) == (12, 12)
    assert lesions["pointing"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert lesions["strict"]["value"] == 1.0
    assert lesions["energy"]["value"] > 0.7
    assert lesions["baselines"]["centre"]["value"] == 0.0
    assert lesions["baselines"]["head_centre"]["value"] == 0.0
    assert lesions["baselines"]["brightest_spot"]["value"] == 1.0
    assert (lesions["control"]["class_id"], lesions["control"]["pointing"]["value"]) == ("none", 0.0)
    assert [(row["class_id"], row["images"]) for row in lesions["per_class"]] == [("blue", 6), ("green", 6)]
    assert deletion["images"] == 12
    assert deletion["changed"]["value"] == 1.0
    assert deletion["random_disc"]["value"] < 0.5
    assert [row["images"] for row in deletion["per_class"]] == [6, 6, 6]
    assert deletion["per_class"][2]["changed"]["value"] == 0.0
    assert map_warning(metrics) == ""

    message = localisation_message(metrics["localisation"])
    assert (message.support, message.deletion_support, message.control_class_id) == (12, 12, "none")
    assert (message.pointing.value, message.pointing.low, message.control.value) == (1.0, 1.0, 0.0)
    assert [each.class_id for each in message.per_class] == list(CLASSES)
    assert message.per_class[0].strict.value == 1.0
    assert message.per_class[2].HasField("deletion")
    assert not message.per_class[2].HasField("pointing")


def test_maps_that_show_something_else(misleading, index, tmp_path):
    metrics = measured(tmp_path, misleading, index, draw=True)
    lesions = metrics["localisation"]["lesions"]
    assert [lesions[name]["value"] for name in ("pointing", "strict")] == [0.0, 0.0]
    assert metrics["localisation"]["deletion"]["changed"]["value"] == 0.0
    assert (tmp_path / "figures" / "localisation.png").is_file()
    assert map_warning(metrics).startswith("The maps of this version are not to be relied on")
    page = write_report(tmp_path).read_text()
    assert page.count("The maps of this version are not to be relied on") == 2, "in the section and on top"
    assert "Always the brightest spot" in page
    assert "All, the map of none" in page
    assert "The map points, it does not outline" in page


def test_without_masks_only_the_deletion_is_measured(version, index, tmp_path):
    root = shutil.copytree(index.root, tmp_path / "bare", ignore=shutil.ignore_patterns(".neurogate"))
    metrics = measured(tmp_path, version, build_index(root, reporter=Reporter()), draw=True)["localisation"]
    assert metrics["lesions"] is None
    assert metrics["deletion"]["images"] == 18
    assert metrics["deletion"]["changed"]["value"] == pytest.approx(12 / 18)
    message = localisation_message(metrics)
    assert not message.HasField("pointing")
    assert (message.support, message.deletion_support) == (0, 18)
    assert not (tmp_path / "figures" / "localisation.png").exists()
    assert "No test image has a mask of its lesion" in write_report(tmp_path).read_text()


def test_the_same_seed_measures_the_same_and_no_resamples_no_interval(version, index, tmp_path):
    first = measured(tmp_path / "a", version, index, seed=4)["localisation"]
    assert first == measured(tmp_path / "b", version, index, seed=4)["localisation"]


def test_no_more_than_the_limit_are_measured(version, index, tmp_path, monkeypatch):
    monkeypatch.setattr("neurogate_trainer.evaluation.localisation.MOST_IMAGES", 9)
    metrics = measured(tmp_path, version, index)["localisation"]
    assert sum(row["images"] for row in metrics["deletion"]["per_class"]) == 9
    assert metrics["lesions"]["images"] < metrics["lesions"]["of"] == 12


# Places


def test_a_lesion_grows_by_a_twentieth_of_the_side():
    mask = np.zeros((200, 200), bool)
    mask[80:120, 100:120] = True
    lesion = pointing.lesion_of(mask, 100, 100)
    assert (lesion.core.sum(), lesion.core[40:60, 50:60].all()) == (200, True)
    assert (lesion.near[50, 45], lesion.near[50, 44]) == (True, False)
    assert pointing.lesion_of(np.zeros((9, 9), bool), 100, 100) is None


def test_a_lesion_smaller_than_a_pixel_is_not_lost():
    mask = np.zeros((400, 400), bool)
    mask[201, 201] = True
    assert np.argwhere(pointing.lesion_of(mask, 40, 40).core).tolist() == [[20, 20]]


def test_a_map_without_evidence_points_nowhere():
    lesion = pointing.lesion_of(np.ones((8, 8), bool), 8, 8)
    assert pointing.peak(np.zeros((8, 8), np.float32)) is None
    assert pointing.scores(np.zeros((8, 8), np.float32), lesion) == (0.0, 0.0, 0.0)


def test_hidden_places_take_the_look_of_their_surroundings():
    pixels = np.full((100, 100, 3), 80, np.uint8)
    pixels[40:60, 40:60] = 250
    where = np.zeros((100, 100), bool)
    where[37:63, 37:63] = True
    hidden = pointing.hidden(pixels, where)
    assert hidden.dtype == np.uint8
    assert np.abs(hidden.astype(int) - 80).max() <= 1
    assert np.array_equal(hidden[:30], pixels[:30])


@pytest.mark.parametrize("picture", [np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), 255, np.uint8)])
def test_pictures_without_a_head(picture):
    assert pointing.baselines(picture)["head_centre"] == (16, 16)
    assert pointing.random_disc(picture, np.random.default_rng(0)).sum() == 51
    everywhere = np.ones((32, 32), bool)
    assert pointing.hidden(picture, everywhere).shape == picture.shape


def test_the_strongest_twentieth():
    heat = np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)
    assert np.flatnonzero(pointing.strongest(heat)).tolist() == list(range(380, 400))
