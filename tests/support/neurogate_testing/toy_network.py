"""A network of a few layers with the names that the trainer goes by, so that tests train in a second."""

from __future__ import annotations

import keras
import numpy as np
from neurogate_trainer.config import TrainConfig
from neurogate_trainer.data.inputs import Examples
from neurogate_trainer.model.network import build_model

SIDE = 32


def toy_backbone(images: keras.KerasTensor) -> keras.KerasTensor:
    """Convolutions with batch normalisation and a shortcut, of strides 4 and 8, for `build_model`."""

    def normed(layer, inputs, *, relu=True):
        outputs = keras.layers.BatchNormalization(name=f"{layer.name}_bn")(layer(inputs))
        return keras.layers.ReLU(6.0, name=f"{layer.name}_relu")(outputs) if relu else outputs

    def convolution(name, filters, kernel, strides=1):
        return keras.layers.Conv2D(
            filters, kernel, strides=strides, padding="same", use_bias=False, name=name
        )

    first = normed(convolution("Conv1", 8, 3, 4), images, relu=False)
    depthwise = keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="deep")
    added = keras.layers.Add(name="block_5_add")([first, normed(depthwise, first, relu=False)])
    fine = normed(convolution("block_6_expand", 12, 1), added)
    coarse = normed(convolution("block_13_expand", 12, 3, 2), fine)
    features = convolution("Conv_1", 16, 3)(coarse)
    features = keras.layers.BatchNormalization(name="Conv_1_bn")(features)
    return keras.layers.ReLU(6.0, name="out_relu")(features)


def build_toy_model(config: TrainConfig, classes: int) -> keras.Model:
    """What takes the place of the trainer's `build_model`."""
    return build_model(config, classes, backbone=toy_backbone)


def toy_network(classes: int = 3, *, seed: int = 0) -> keras.Model:
    """The network of the trainer on this backbone; 32 x 32 pixels."""
    keras.utils.set_random_seed(seed)
    config = TrainConfig(image_size=SIDE, seed=seed, head_units=8, dropout=(0.3, 0.0))
    return build_toy_model(config, classes)


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
