from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from neurogate_trainer.config import PRESETS, Augmentation, ConfigError, TrainConfig, preset
from neurogate_trainer.export.serving_graph import save_serving_graph
from neurogate_trainer.model.fold_batch_norm import FoldError, fold_batch_norms
from neurogate_trainer.model.network import (
    COARSE_MAP,
    FEATURE_MAP,
    FINE_MAP,
    HIDDEN,
    LOGITS,
    backbone_of,
    build_model,
    freeze_backbone,
    unfreeze_last,
)
from neurogate_trainer.training.augment import RandomGeometry, RandomIntensity, augmentation_layers

# Keras asks numpy 2 for copies in the way of numpy 1.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

CONFIG = TrainConfig(image_size=32, head_units=16)


def shake(model: keras.Model) -> None:
    """Weights and statistics as a trained network has them: no zeros, no ones."""
    random = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            size = layer.gamma.shape[0]
            layer.set_weights(
                [
                    random.uniform(0.5, 1.5, size),
                    random.normal(0, 0.3, size),
                    random.normal(0, 0.3, size),
                    random.uniform(0.2, 2.0, size),
                ]
            )


@pytest.fixture(scope="module")
def network() -> keras.Model:
    model = build_model(CONFIG, 4)
    shake(model)
    return model


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (5, 32, 32, 3)).astype(np.float32)


def norms(model: keras.Model) -> list[keras.layers.Layer]:
    return [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]


def test_the_presets_are_valid_and_the_default_is_the_brief():
    default = preset("default")
    assert (default.image_size, default.unfrozen_layers, default.batch_size, default.epochs) == (
        224,
        50,
        32,
        15,
    )
    assert (default.learning_rate, default.dropout, default.fractions) == (
        1e-4,
        (0.3, 0.2),
        (0.7, 0.15, 0.15),
    )
    assert default.class_weights
    assert default.augmentation.enabled
    for config in PRESETS.values():
        assert TrainConfig.from_json(config.to_json()) == config
    with pytest.raises(ConfigError, match="default, demo"):
        preset("fast")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"image_size": 100}, "multiple of 32"),
        ({"image_size": 4096}, "image_size is 4096"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"batch_size": 0}, "batch_size"),
        ({"unfrozen_layers": 155}, "0 to 154"),
        ({"batch_norm": "off"}, "batch_norm"),
        ({"dropout": (0.5, 1.0)}, "dropout"),
        ({"fractions": (0.7, 0.2, 0.2)}, "fractions"),
        ({"epochs": 0, "warmup_epochs": 0}, "nothing would be trained"),
        ({"augmentation": Augmentation(rotation=90)}, "rotation is 90"),
        ({"initial_weights": " "}, "initial_weights"),
    ],
)
def test_settings_out_of_range_are_named(change, word):
    with pytest.raises(ConfigError, match=word):
        TrainConfig(**change)


def test_unknown_settings_are_named():
    with pytest.raises(ConfigError, match="unknown settings: epoch"):
        TrainConfig.from_json({"epoch": 3})
    with pytest.raises(ConfigError, match="unknown settings: rotate"):
        TrainConfig.from_json({"augmentation": {"rotate": 3}})


def test_keras_names_and_layer_count_are_those_we_rely_on(network):
    # The input and its scaling are ours; Keras' own network begins with an input too.
    assert len(backbone_of(network).layers) - 1 == 154
    assert network.get_layer(FEATURE_MAP).output.shape == (None, 1, 1, 1280)
    assert network.get_layer(FINE_MAP).output.shape == (None, 4, 4, 192)
    assert network.get_layer(COARSE_MAP).output.shape == (None, 2, 2, 576)
    assert network.output.shape == (None, 4)


@pytest.mark.parametrize(("count", "trainable_norms"), [(0, 0), (50, 17), (154, 52)])
def test_the_last_layers_learn(network, count, trainable_norms):
    unfreeze_last(network, TrainConfig(image_size=32, head_units=16, unfrozen_layers=count))
    base = backbone_of(network).layers
    assert all(layer.trainable for layer in base[len(base) - count :])
    assert not any(layer.trainable for layer in base[: len(base) - count])
    assert sum(layer.trainable for layer in norms(network)) == trainable_norms
    assert all(layer.momentum == CONFIG.batch_norm_momentum for layer in norms(network))
    assert network.get_layer(HIDDEN).trainable
    freeze_backbone(network)
    assert {v.path.split("/")[0] for v in network.trainable_variables} == {HIDDEN, LOGITS}


@pytest.mark.parametrize("mode", ["frozen", "adapt"])
def test_batch_norms_do_in_fit_what_the_settings_say(mode):
    config = TrainConfig(image_size=32, head_units=8, unfrozen_layers=20, batch_norm=mode)
    model = build_model(config, 2)
    shake(model)
    unfreeze_last(model, config)
    before = {layer.name: layer.get_weights() for layer in norms(model)}
    random = np.random.default_rng(3)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    pixels = random.integers(0, 256, (8, 32, 32, 3)).astype(np.float32)
    model.fit(pixels, random.integers(0, 2, 8), batch_size=8, verbose=0)
    moved = {
        layer.name
        for layer in norms(model)
        if any(not np.array_equal(a, b) for a, b in zip(before[layer.name], layer.get_weights(), strict=True))
    }
    last = {layer.name for layer in backbone_of(model).layers[-20:]} & before.keys()
    assert moved == (last if mode == "adapt" else set())
    assert last


def test_folding_keeps_the_function(network, images):
    folded = fold_batch_norms(network)
    assert not norms(folded)
    assert len(folded.weights) < len(network.weights)
    np.testing.assert_allclose(
        folded.predict_on_batch(images), network.predict_on_batch(images), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(("side", "folds"), [(8, True), (9, False)])
def test_padding_is_folded_only_where_the_convolution_would_add_the_same_zeros(side, folds):
    """Padding ((0, 1), (0, 1)) is that of stride 2 and kernel 3 over an even side, not over an odd one."""
    inputs = keras.Input((side, side, 3))
    outputs = keras.layers.ZeroPadding2D(((0, 1), (0, 1)))(inputs)
    outputs = keras.layers.DepthwiseConv2D(3, strides=2, padding="valid")(outputs)
    model = keras.Model(inputs, outputs)
    folded = fold_batch_norms(model)
    assert any(isinstance(layer, keras.layers.ZeroPadding2D) for layer in folded.layers) is not folds
    pixels = np.random.default_rng(0).normal(size=(2, side, side, 3)).astype(np.float32)
    np.testing.assert_allclose(folded.predict_on_batch(pixels), model.predict_on_batch(pixels), atol=1e-6)


def test_folding_half_precision_gives_single():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = build_model(CONFIG, 3)
    finally:
        keras.config.set_dtype_policy("float32")
    folded = fold_batch_norms(model)
    assert {layer.compute_dtype for layer in folded.layers} == {"float32"}


@pytest.mark.parametrize("activation_between", [True, False])
def test_what_cannot_be_folded_is_refused(activation_between):
    inputs = keras.Input((8, 8, 3))
    made = keras.layers.Conv2D(4, 3, name="c")(inputs)
    other = keras.layers.ReLU(name="between")(made) if activation_between else made
    norm = keras.layers.BatchNormalization(name="n")(other)
    outputs = [norm] if activation_between else [norm, made]
    with pytest.raises(FoldError, match="n follows"):
        fold_batch_norms(keras.Model(inputs, [*outputs, keras.layers.ReLU(name="user")(made)]))


def test_augmentation_does_nothing_outside_training(images):
    for layer in augmentation_layers(Augmentation(), seed=1):
        np.testing.assert_array_equal(layer(images, training=False), images)
    assert augmentation_layers(Augmentation(enabled=False), seed=1) == []


def test_augmentation_is_random_bounded_and_seeded(images):
    def changed(seed: int) -> np.ndarray:
        value = images
        for layer in augmentation_layers(Augmentation(), seed=seed):
            value = layer(value, training=True)
        return np.asarray(value)

    first = changed(1)
    np.testing.assert_array_equal(first, changed(1))
    assert not np.array_equal(first, changed(2))
    assert first.min() >= 0
    assert first.max() <= 255
    # Grey stays grey: the noise is the same in every channel.
    grey = np.repeat(images[..., :1], 3, axis=3)
    noisy = np.asarray(RandomIntensity(contrast=0.1, brightness=5, noise=5, seed=1)(grey, training=True))
    np.testing.assert_allclose(noisy[..., 0], noisy[..., 2], atol=1e-4)


def test_mirroring_is_left_to_right_only():
    layer = RandomGeometry(mirror=True, rotation=0, zoom=0, shift=0, seed=0)
    image = np.zeros((64, 9, 9, 3), np.float32)
    image[:, 1, 1] = 200
    found = np.asarray(layer(image, training=True))
    kept, mirrored = found[:, 1, 1, 0] > 199, found[:, 1, 7, 0] > 199
    assert (kept ^ mirrored).all()
    assert 10 < kept.sum() < 54


def test_rotation_keeps_the_centre_and_fills_with_black():
    layer = RandomGeometry(mirror=False, rotation=45, zoom=0, shift=0, seed=0)
    image = np.full((16, 33, 33, 3), 100, np.float32)
    found = np.asarray(layer(image, training=True))
    np.testing.assert_allclose(found[:, 16, 16], 100, atol=1e-3)
    assert (found[:, 0, 0] < 1).any()


def operations_run(folder: Path, outputs: list[str], image: np.ndarray) -> list[str]:
    """Names of the operations that a session runs for some outputs, as a model server would."""
    seen = tf.compat.v1.RunMetadata()
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        signature = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(folder)).signature_def[
            "serving_default"
        ]
        session.run(
            [signature.outputs[output].name for output in outputs],
            {signature.inputs["images"].name: image},
            tf.compat.v1.RunOptions(trace_level=tf.compat.v1.RunOptions.FULL_TRACE),
            seen,
        )
    return [node.node_name for device in seen.step_stats.dev_stats for node in device.node_stats]


def test_a_server_computes_only_what_is_asked_for(network, images, tmp_path):
    save_serving_graph(network, tmp_path, temperature=1.0, distance=None)
    image = images[:1].astype(np.uint8)
    alone = operations_run(tmp_path, ["probabilities"], image)
    with_maps = operations_run(tmp_path, ["probabilities", "gradcam"], image)
    assert not any(name.endswith("PartitionedCall") for name in with_maps)
    assert any(name.endswith("Softmax") for name in alone)
    assert len(set(with_maps) - set(alone)) > 100
    assert not any("grad" in name.lower() for name in alone)
