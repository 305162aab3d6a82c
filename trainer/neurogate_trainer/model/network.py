"""The network: a backbone, MobileNetV2, below pooling and two dense layers; and which of it learns when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import keras

from neurogate_trainer.config import TrainConfig

FEATURE_MAP: Final = "out_relu"
"""The layer whose output, [N, h, w, 1280], is pooled for the head."""

COARSE_MAP: Final = "block_13_expand_relu"
"""The last layer of stride 16, and which features it is that speak for a class."""

FINE_MAP: Final = "block_6_expand_relu"
"""The last layer of stride 8, and where exactly they are."""

POOLED: Final = "pooled"
HIDDEN: Final = "hidden"
LOGITS: Final = "logits"
_INPUT: Final = "images"

Backbone = Callable[[keras.KerasTensor], keras.KerasTensor]
"""From images float32 [N, side, side, 3], -1 to 1, to the output of a layer named `FEATURE_MAP`."""


def mobilenet_v2(images: keras.KerasTensor) -> keras.KerasTensor:
    """MobileNetV2 without its classifier, its layers under Keras' own names."""
    return keras.applications.MobileNetV2(include_top=False, weights=None, input_tensor=images).output


def build_model(config: TrainConfig, classes: int, *, backbone: Backbone = mobilenet_v2) -> keras.Model:
    """The network, with random weights.

    The backbone has layers of all the names that this module lists.

    Input "images": float32 [N, side, side, 3], grey levels from 0 to 255. Output: logits float32
    [N, classes].
    """
    images = keras.Input((config.image_size, config.image_size, 3), name=_INPUT)
    scaled = keras.layers.Rescaling(1 / 127.5, offset=-1.0, name="scaled")(images)
    features = keras.layers.GlobalAveragePooling2D(name=POOLED)(backbone(scaled))
    features = keras.layers.Dropout(config.dropout[0], seed=config.seed, name="dropout_features")(features)
    penalty = keras.regularizers.L2(config.l2)
    hidden = keras.layers.Dense(
        config.head_units,
        activation="relu",
        kernel_initializer=keras.initializers.HeNormal(seed=config.seed),
        kernel_regularizer=penalty,
        name=HIDDEN,
    )(features)
    hidden = keras.layers.Dropout(config.dropout[1], seed=config.seed + 1, name="dropout_hidden")(hidden)
    logits = keras.layers.Dense(
        classes,
        kernel_initializer=keras.initializers.GlorotUniform(seed=config.seed + 1),
        kernel_regularizer=penalty,
        # Half precision is for the convolutions; a loss of half-precision logits is not worth its speed.
        dtype="float32",
        name=LOGITS,
    )(hidden)
    return keras.Model(images, logits, name="neurogate")


def backbone_of(model: keras.Model) -> keras.Model:
    """The backbone within `model`: the same layers, from the input to the last feature map."""
    return keras.Model(model.inputs, model.get_layer(FEATURE_MAP).output)


def freeze_backbone(model: keras.Model) -> None:
    """Lets the head alone learn."""
    for layer in backbone_of(model).layers:
        layer.trainable = False


def unfreeze_last(model: keras.Model, config: TrainConfig) -> None:
    """Lets the head and the last `config.unfrozen_layers` layers of the backbone learn.

    A batch normalisation that must keep its statistics is made untrainable itself: Keras then uses the
    statistics also in `fit`, where an argument `training=False` given at construction would not last.
    """
    layers = backbone_of(model).layers
    first = len(layers) - config.unfrozen_layers
    for position, layer in enumerate(layers):
        layer.trainable = position >= first
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = config.batch_norm_momentum
            if config.batch_norm == "frozen":
                layer.trainable = False
