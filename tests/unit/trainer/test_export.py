import dataclasses
import io
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from neurogate_core.manifest import MANIFEST_FILE
from neurogate_core.preprocessing.transform import default_spec, pixels_digest, transform
from neurogate_testing.data_folders import record
from neurogate_testing.toy_network import SIDE, toy_examples, toy_network
from neurogate_trainer.data.inputs import Examples
from neurogate_trainer.evaluation.calibrate import probabilities
from neurogate_trainer.evaluation.ood import FeatureDistance, fit_distance, taps
from neurogate_trainer.evaluation.saved_model import SavedModel
from neurogate_trainer.export.serving_graph import save_serving_graph
from neurogate_trainer.export.version import (
    GOLDEN_BYTES,
    Exported,
    ExportError,
    _to_compare,
    check_parity,
    export_version,
    model_classes,
    weights_digest,
)
from neurogate_trainer.model.evidence import centres, onto_grid
from neurogate_trainer.model.fold_batch_norm import fold_batch_norms
from neurogate_trainer.model.network import COARSE_MAP, FINE_MAP, LOGITS
from neurogate_trainer.training.train import predict_logits
from PIL import Image
from tensorflow.python.saved_model import fingerprinting_utils
from tensorflow_serving.apis import prediction_log_pb2

# Keras asks numpy 2 for copies in the way of numpy 1.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

SPEC = default_spec(SIDE, SIDE)
CLASSES = ("fine", "middle", "wide")
TEMPERATURE = 1.7


@dataclasses.dataclass(frozen=True)
class Case:
    model: object
    distance: FeatureDistance
    examples: Examples
    root: Path
    folder: Path
    exported: Exported


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Case:
    model = toy_network(len(CLASSES))
    random = np.random.default_rng(0)
    for layer in model.layers:
        if layer.name.endswith("_bn"):
            layer.set_weights([random.uniform(0.5, 1.5, value.shape) for value in layer.get_weights()])
    root = tmp_path_factory.mktemp("data")
    made = toy_examples(24)
    records, pixels = [], []
    for number, (image, label) in enumerate(zip(made.pixels, made.labels, strict=True)):
        stored = io.BytesIO()
        Image.fromarray(image).save(stored, "PNG")
        path = root / CLASSES[label] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(stored.getvalue())
        pixels.append(transform(stored.getvalue(), SPEC))
        records.append(record(f"{CLASSES[label]}/{number}.png"))
    examples = Examples(np.stack(pixels), made.labels)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss, jit_compile=False)
    model.fit(examples.pixels.astype(np.float32), examples.labels, epochs=20, verbose=0)
    tapped = keras.Model(model.inputs, taps(model, "mahalanobis-layout"))
    features = tapped.predict_on_batch(examples.pixels.astype(np.float32))
    distance = fit_distance("mahalanobis-layout", features, examples.labels)
    folder = tmp_path_factory.mktemp("version")
    exported = export_version(
        model,
        folder,
        name="toy",
        temperature=TEMPERATURE,
        distance=distance,
        examples=examples,
        records=records,
        root=root,
        spec=SPEC,
        classes=CLASSES,
        goldens_per_class=2,
    )
    return Case(model, distance, examples, root, folder, exported)


def test_the_signature_is_the_contract(case):
    signature = tf.saved_model.load(str(case.folder)).signatures["serving_default"]
    inputs = signature.structured_input_signature[1]
    assert {name: (spec.dtype, spec.shape.as_list()) for name, spec in inputs.items()} == {
        "images": (tf.uint8, [None, SIDE, SIDE, 3])
    }
    outputs = {
        name: (spec.dtype, spec.shape.as_list()) for name, spec in signature.structured_outputs.items()
    }
    assert outputs == {
        "probabilities": (tf.float32, [None, 3]),
        "logits": (tf.float32, [None, 3]),
        "gradcam": (tf.float32, [None, 32, 32, 3]),
        "ood_score": (tf.float32, [None]),
    }


def test_the_graph_is_an_inference_graph(case):
    loaded = tf.saved_model.load(str(case.folder))
    assert not getattr(loaded, "variables", None)
    operations = {op.type for op in loaded.signatures["serving_default"].graph.get_operations()}
    library = loaded.signatures["serving_default"].graph.as_graph_def().library
    operations |= {node.op for function in library.function for node in function.node_def}
    assert "Conv2D" in operations
    assert not {op for op in operations if "BatchNorm" in op or op in {"VarHandleOp", "ReadVariableOp"}}


def test_outputs_are_those_of_the_trained_network(case):
    found = SavedModel(case.folder)(case.examples.pixels)
    logits = predict_logits(case.model, case.examples)
    np.testing.assert_allclose(found["logits"], logits, atol=1e-4)
    np.testing.assert_allclose(found["probabilities"], probabilities(logits, TEMPERATURE), atol=1e-5)
    tapped = keras.Model(case.model.inputs, taps(case.model, "mahalanobis-layout"))
    expected = case.distance(tapped.predict_on_batch(case.examples.pixels.astype(np.float32)))
    np.testing.assert_allclose(found["ood_score"], expected, rtol=1e-3)


def test_the_served_maps_are_those_of_a_gradient_tape(case):
    """All classes; the tape runs through the trained network, the maps come out of the exported graph."""
    served = SavedModel(case.folder)(case.examples.pixels, ("gradcam",))["gradcam"]
    outputs = [case.model.get_layer(name).output for name in (COARSE_MAP, FINE_MAP, LOGITS)]
    network = keras.Model(case.model.input, outputs)
    with tf.GradientTape(persistent=True) as tape:
        coarse, fine, logits = network(case.examples.pixels.astype(np.float32), training=False)
        chosen = [
            tf.reduce_sum(logits[:, index] - tf.reduce_mean(logits, 1)) for index in range(len(CLASSES))
        ]
    folded = fold_batch_norms(case.model)
    onto = [onto_grid(centres(folded, name), SIDE) for name in (COARSE_MAP, FINE_MAP)]
    maps = []
    for score in chosen:
        signed = tf.reduce_sum(tape.gradient(score, coarse) * coarse, axis=3).numpy()
        positive = tf.reduce_sum(tf.nn.relu(tape.gradient(score, fine)) * fine, axis=3).numpy()
        what = np.maximum(onto[0] @ signed @ onto[0].T, 0)
        where = onto[1] @ positive @ onto[1].T
        maps.append(what * where / where.max(axis=(1, 2), keepdims=True))
    expected = np.stack(maps, axis=-1)
    assert (expected.max(axis=(0, 1, 2)) > 0).sum() >= 2
    np.testing.assert_allclose(served, expected, atol=1e-4 * expected.max())


def test_the_map_of_an_image_does_not_depend_on_its_batch(case):
    served = SavedModel(case.folder)
    together = served(case.examples.pixels[:3], ("gradcam",))["gradcam"]
    for image, maps in zip(case.examples.pixels, together, strict=False):
        alone = served(image[np.newaxis], ("gradcam",))["gradcam"][0]
        np.testing.assert_allclose(alone, maps, atol=1e-5 * together.max())


def maps_with(model: keras.Model, kernel: np.ndarray, case, folder: Path) -> np.ndarray:
    model.get_layer(LOGITS).set_weights([kernel, model.get_layer(LOGITS).get_weights()[1]])
    save_serving_graph(model, folder, temperature=1.0, distance=None)
    return SavedModel(folder)(case.examples.pixels[:4], ("gradcam",))["gradcam"]


def test_what_raises_all_logits_alike_is_no_evidence(case, tmp_path):
    model = toy_network(len(CLASSES))
    kernel = model.get_layer(LOGITS).get_weights()[0]
    common = 3 * np.abs(kernel).max() * np.ones((len(kernel), 1), np.float32)
    maps = maps_with(model, kernel, case, tmp_path / "own")
    raised = maps_with(model, kernel + common, case, tmp_path / "raised")
    assert maps.any()
    np.testing.assert_allclose(raised, maps, atol=1e-3 * maps.max())


def test_no_gradient_is_a_map_of_zeros(case, tmp_path):
    model = toy_network(len(CLASSES))
    kernel = model.get_layer(LOGITS).get_weights()[0]
    maps = maps_with(model, np.zeros_like(kernel), case, tmp_path)
    np.testing.assert_array_equal(maps, 0)


def test_the_fingerprint_is_of_the_file_that_lies_there(case, tmp_path):
    written = tf.saved_model.experimental.read_fingerprint(str(case.folder))
    shutil.copytree(case.folder, tmp_path / "copy")
    fingerprinting_utils.write_fingerprint(str(tmp_path / "copy"))
    found = tf.saved_model.experimental.read_fingerprint(str(tmp_path / "copy"))
    assert written.singleprint() == found.singleprint()
    assert written.saved_model_checksum == found.saved_model_checksum


def test_the_energy_score_needs_no_fit(case, tmp_path):
    save_serving_graph(case.model, tmp_path, temperature=1.0, distance=None)
    found = SavedModel(tmp_path)(case.examples.pixels[:4])
    expected = -np.log(np.exp(found["logits"].astype(np.float64)).sum(axis=1))
    np.testing.assert_allclose(found["ood_score"], expected, rtol=1e-4, atol=1e-4)


def test_describe_reads_the_manifest_that_lies_there_now(case, tmp_path):
    moved = tmp_path / "7"
    shutil.copytree(case.folder, moved)
    describe = tf.saved_model.load(str(moved)).signatures["describe"]
    for content in (b"first", b"second \x00\xff"):
        (moved / MANIFEST_FILE).write_bytes(content)
        assert describe(index=tf.constant([0, 5], tf.int32))["manifest"].numpy().tolist() == [content] * 2


def test_warm_up_requests_fit_both_signatures(case):
    path = case.folder / "assets.extra" / "tf_serving_warmup_requests"
    signatures = tf.saved_model.load(str(case.folder)).signatures
    seen = []
    for raw in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        request = prediction_log_pb2.PredictionLog.FromString(raw).predict_log.request
        assert request.model_spec.name == "toy"
        values = {name: tf.constant(tf.make_ndarray(tensor)) for name, tensor in request.inputs.items()}
        signatures[request.model_spec.signature_name](**values)
        count = next(iter(values.values())).shape[0]
        seen.append((request.model_spec.signature_name, count, tuple(request.output_filter)))
    classify, explain = ("probabilities", "ood_score"), ("probabilities", "ood_score", "gradcam")
    assert seen == [
        *(("serving_default", count, classify) for count in (1, 4, 16)),
        ("serving_default", 1, explain),
        ("describe", 1, ()),
    ]


def test_goldens_prove_the_version(case):
    served = SavedModel(case.folder)
    assert [golden.name for golden in case.exported.goldens] == [
        f"{name}-{number}" for name in CLASSES for number in (0, 1)
    ]
    for golden in case.exported.goldens:
        assert len(golden.image) <= GOLDEN_BYTES
        pixels = transform(golden.image, SPEC)
        assert pixels_digest(pixels) == golden.pixels_sha256
        found = served(pixels[np.newaxis])["probabilities"][0]
        np.testing.assert_allclose(found, golden.probabilities, atol=1e-6)


def test_an_image_too_large_for_a_manifest_is_recorded_by_its_pixels(case, tmp_path):
    large = tmp_path / "large.png"
    noise = np.random.default_rng(0).integers(0, 256, (500, 500, 3), np.uint8)
    Image.fromarray(noise).save(large)
    assert large.stat().st_size > GOLDEN_BYTES
    exported = export_version(
        case.model,
        tmp_path,
        name="toy",
        temperature=1.0,
        distance=None,
        examples=Examples(case.examples.pixels[:3], case.examples.labels[:3]),
        records=[record(f"{name}/large.png") for name in CLASSES],
        root=_same_file(tmp_path, large),
        spec=SPEC,
        classes=CLASSES,
        goldens_per_class=1,
    )
    for golden, pixels in zip(exported.goldens, case.examples.pixels, strict=False):
        assert len(golden.image) <= GOLDEN_BYTES
        np.testing.assert_array_equal(transform(golden.image, SPEC), pixels)


def _same_file(root: Path, file: Path) -> Path:
    for name in CLASSES:
        (root / name).mkdir()
        (root / name / "large.png").write_bytes(file.read_bytes())
    return root


def test_parity_is_recorded(case):
    parity = case.exported.parity
    assert parity["images"] == parity["same_answers"] == 24
    assert parity["largest_probability_difference"] <= 1e-4
    assert parity["weights_sha256"] == weights_digest(case.model)


@pytest.mark.parametrize(("first", "spare", "count"), [(9, 300, 256), (9, 12, 21), (300, 12, 300)])
def test_spare_images_fill_up_what_is_compared(first, spare, count):
    compared = _to_compare(toy_examples(first), toy_examples(spare, seed=1))
    assert len(compared) == count
    assert (compared.pixels[:first] == toy_examples(first).pixels).all()
    if first < 256:
        assert (compared.pixels[[first, -1]] == toy_examples(spare, seed=1).pixels[[0, -1]]).all()
    assert _to_compare(compared, None) is compared


def test_a_graph_that_is_not_the_network_is_refused(case):
    other = toy_network(len(CLASSES), seed=9)
    with pytest.raises(ExportError, match="not the trained network"):
        check_parity(other, SavedModel(case.folder), case.examples, temperature=TEMPERATURE)
    with pytest.raises(ExportError, match="not the trained network"):
        check_parity(case.model, SavedModel(case.folder), case.examples, temperature=2 * TEMPERATURE)


def test_an_answer_that_is_no_number_is_refused(case):
    class Broken:
        def __call__(self, images):
            nothing = np.full((len(images), 3), np.nan, np.float32)
            return {"probabilities": nothing, "logits": nothing}

    with pytest.raises(ExportError):
        check_parity(case.model, Broken(), case.examples, temperature=TEMPERATURE)


def test_classes_have_names_for_people():
    named = {entry.id: entry.display_name for entry in model_classes(("glioma", "notumor", "my_class"))}
    assert named == {"glioma": "Glioma", "notumor": "No tumour", "my_class": "My class"}
    assert [entry.index for entry in model_classes(CLASSES)] == [0, 1, 2]
