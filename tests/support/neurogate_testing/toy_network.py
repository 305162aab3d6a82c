"""A network of a few layers with the names that the trainer goes by, so that tests train in a second."""

from __future__ import annotations

import keras
import numpy as np
from neurogate_trainer.data.inputs import Examples

SIDE = 32


def toy_network(classes: int = 3, *, seed: int = 0) -> keras.Model:
    """Convolutions with batch normalisation, a shortcut, and the head; 32 x 32 pixels."""
    keras.utils.set_random_seed(seed)
    images = keras.Input((SIDE, SIDE, 3), name="images")
    scaled = keras.layers.Rescaling(1 / 127.5, offset=-1.0, name="scaled")(images)
    first = keras.layers.Conv2D(8, 3, strides=4, padding="same", use_bias=False, name="Conv1")(scaled)
    first = keras.layers.BatchNormalization(name="bn_Conv1")(first)
    deep = keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="deep")(first)
    deep = keras.layers.BatchNormalization(name="bn_deep")(deep)
    added = keras.layers.Add(name="block_5_add")([first, deep])
    fine = keras.layers.Conv2D(12, 1, use_bias=False, name="block_6_expand")(added)
    fine = keras.layers.BatchNormalization(name="block_6_expand_bn")(fine)
    fine = keras.layers.ReLU(6.0, name="block_6_expand_relu")(fine)
    coarse = keras.layers.Conv2D(12, 3, strides=2, padding="same", use_bias=False, name="block_13_expand")(
        fine
    )
    coarse = keras.layers.BatchNormalization(name="block_13_expand_bn")(coarse)
    coarse = keras.layers.ReLU(6.0, name="block_13_expand_relu")(coarse)
    features = keras.layers.Conv2D(16, 3, padding="same", use_bias=False, name="Conv_1")(coarse)
    features = keras.layers.BatchNormalization(name="Conv_1_bn")(features)
    features = keras.layers.ReLU(6.0, name="out_relu")(features)
    pooled = keras.layers.GlobalAveragePooling2D(name="pooled")(features)
    pooled = keras.layers.Dropout(0.3, seed=seed, name="dropout_features")(pooled)
    hidden = keras.layers.Dense(8, activation="relu", name="hidden")(pooled)
    logits = keras.layers.Dense(classes, name="logits")(hidden)
    return keras.Model(images, logits, name="neurogate")


def toy_examples(count: int, *, classes: int = 3, seed: int = 0) -> Examples:
    """Pictures of stripes, whose width is the class."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    columns = np.arange(SIDE)
    pixels = np.empty((count, SIDE, SIDE, 3), np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        wave = np.sin(columns * 2 * np.pi / (4 << label) + random.uniform(0, 6))
        image[:] = np.clip(128 + 90 * wave + random.normal(0, 10, (SIDE, SIDE)), 0, 255)[..., None]
    return Examples(pixels, labels.astype(np.int64))
