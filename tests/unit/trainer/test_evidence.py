"""The geometry of the evidence maps: where units look, and how they come onto the grid."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from neurogate_trainer.model.evidence import centres, grid_side, onto_grid
from neurogate_trainer.model.fold_batch_norm import fold_batch_norms
from neurogate_trainer.model.network import COARSE_MAP, FEATURE_MAP, FINE_MAP


def strided(side: int, *, folded: bool) -> keras.Model:
    """As MobileNetV2 pads: "same" at first, then zeros by a layer of their own; a sum on the way."""
    inputs = keras.Input((side, side, 1))
    first = keras.layers.Conv2D(1, 3, strides=2, padding="same", kernel_initializer="ones")(inputs)
    before = 1 - first.shape[1] % 2
    second = keras.layers.ZeroPadding2D(((1 - before, 1), (1 - before, 1)))(first)
    second = keras.layers.DepthwiseConv2D(3, strides=2, depthwise_initializer="ones")(second)
    third = keras.layers.DepthwiseConv2D(3, padding="same", depthwise_initializer="ones")(second)
    third = keras.layers.Add()([second, third])
    last = keras.layers.Conv2D(1, 3, strides=2, padding="same", kernel_initializer="ones", name="last")(third)
    model = keras.Model(inputs, last)
    return fold_batch_norms(model) if folded else model


@pytest.mark.parametrize("side", [64, 66, 67, 70, 71, 73])
@pytest.mark.parametrize("folded", [False, True])
def test_units_look_where_their_gradient_is(side, folded):
    """Every kernel is even, so the gradient's centre of mass is the receptive field's centre."""
    model = strided(side, folded=folded)
    image = tf.zeros((1, side, side, 1))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(image)
        answer = model(image)
        rows = [answer[0, row, answer.shape[2] // 2, 0] for row in range(answer.shape[1])]
    found = centres(model, "last")
    assert found.shape == (answer.shape[1],)
    for row, place in list(zip(rows, found, strict=True))[2:-2]:  # the border cuts fields off
        weights = tape.gradient(row, image).numpy()[0].sum(axis=(1, 2))
        assert np.average(np.arange(side), weights=weights) == pytest.approx(place, abs=1e-4)


@pytest.mark.parametrize(("side", "first"), [(96, {8: 7, 16: 15, 32: 31}), (97, {8: 0, 16: 0, 32: 0})])
def test_centres_in_mobilenet(side, first):
    model = keras.applications.MobileNetV2((side, side, 3), alpha=0.35, include_top=False, weights=None)
    for layer in model.layers:
        if hasattr(layer, "kernel_size"):
            layer.set_weights([np.ones_like(weights) for weights in layer.get_weights()])
    for stride, name in ((8, FINE_MAP), (16, COARSE_MAP), (32, FEATURE_MAP)):
        expected = first[stride] + stride * np.arange(model.get_layer(name).output.shape[1])
        np.testing.assert_allclose(centres(model, name), expected, atol=1e-9)


@pytest.mark.parametrize("tap", [0, 1, 2])
def test_units_look_where_the_weight_of_their_kernels_is(tap):
    """Each kernel has one weight alone, so the gradient shows exactly which pixel a unit looks at."""
    output = inputs = keras.Input((64, 64, 1))
    for layer in (
        keras.layers.Conv2D(1, 3, strides=2, padding="same", use_bias=False),
        keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False),
        keras.layers.Conv2D(1, 3, strides=2, padding="same", use_bias=False, name="last"),
    ):
        output = layer(output)
        kernel = np.zeros((3, 3, 1, 1), np.float32)
        kernel[tap, tap] = 0.5
        layer.set_weights([kernel])
    model = keras.Model(inputs, output)
    image = tf.zeros((1, 64, 64, 1))
    with tf.GradientTape() as tape:
        tape.watch(image)
        unit = model(image)[0, 7, 9, 0]
    (place,) = np.argwhere(tape.gradient(unit, image).numpy()[0, ..., 0])
    np.testing.assert_allclose(centres(model, "last")[[7, 9]], place, atol=1e-9)


def test_a_kernel_without_weights_leans_nowhere():
    inputs = keras.Input((8, 8, 1))
    conv = keras.layers.Conv2D(1, 3, padding="same", kernel_initializer="zeros", name="conv")(inputs)
    np.testing.assert_array_equal(centres(keras.Model(inputs, conv), "conv"), np.arange(8))


def test_other_layers_that_change_the_size_are_refused():
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, keras.layers.MaxPooling2D(name="pool")(inputs))
    with pytest.raises(ValueError, match="pool makes 4 of 8 rows"):
        centres(model, "pool")


@pytest.mark.parametrize(
    ("side", "cells"), [(32, 32), (64, 32), (96, 24), (128, 32), (160, 40), (192, 24), (224, 28), (512, 64)]
)
def test_the_grid(side, cells):
    assert grid_side(side) == cells


@pytest.mark.parametrize("side", [96, 224])
@pytest.mark.parametrize("stride", [8, 16])
def test_the_grid_shows_values_where_they_are(side, stride):
    places = stride - 1.0 + stride * np.arange(side // stride)
    onto = onto_grid(places, side)
    middles = (np.arange(len(onto)) + 0.5) * side / len(onto) - 0.5
    np.testing.assert_allclose(onto.sum(axis=1), 1, rtol=1e-6)
    assert (onto >= 0).all()
    # A slope stays a slope, away from the borders, beyond which the outermost values go on.
    inside = (middles > places[0] + 0.08 * side) & (middles < places[-1] - 0.08 * side)
    assert inside.sum() > len(onto) // 3
    np.testing.assert_allclose((onto @ places)[inside], middles[inside], atol=0.01 * side)
    # One value alone spreads as the Gaussian and the line to its neighbours do.
    peak = onto[:, 2] / onto[:, 2].sum()
    assert middles @ peak == pytest.approx(places[2], abs=0.05 * stride)
    spread = np.sqrt((middles - places[2]) ** 2 @ peak)
    assert spread == pytest.approx(np.hypot(0.02 * side, stride / np.sqrt(6)), rel=0.1)


def test_a_single_unit_covers_the_grid():
    np.testing.assert_allclose(onto_grid(np.array([15.0]), 32), 1)
