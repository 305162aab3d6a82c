"""Batch normalisations and paddings folded into convolutions: the same function, fewer operations."""

from __future__ import annotations

from typing import Any, Final

import keras
import numpy as np

from neurogate_trainer.errors import TrainerError

_FOLDABLE: Final = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)


class FoldError(TrainerError, ValueError):
    """A network holds a batch normalisation that cannot be folded."""


def fold_batch_norms(model: keras.Model) -> keras.Model:
    """A float32 copy of a trained network for inference, without batch normalisations and explicit padding.

    With the moving statistics, a batch normalisation computes y = (x - mean) * s + beta with
    s = gamma / sqrt(variance + epsilon). Behind a convolution x = w * input + b, that is the convolution with
    the kernel w * s (per output channel) and the bias (b - mean) * s + beta. A ZeroPadding2D that pads as
    padding="same" would goes into the convolution behind it, which saves a copy of the feature map. The other
    layers keep their names.

    Args:
        model: A functional model in which every batch normalisation directly follows a convolution without
            activation that nothing else uses.

    Raises:
        FoldError: One does not.
    """
    pairs = {_producer(norm).name: norm for norm in model.layers if _is_norm(norm)}
    padded = {layer.name: conv.name for layer in model.layers if (conv := _pads_as_same(layer)) is not None}
    convolutions = set(padded.values())

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        config["dtype"] = "float32"
        if _is_norm(layer) or layer.name in padded:
            return keras.layers.Identity(name=layer.name)
        if layer.name in pairs:
            config["use_bias"] = True
        if layer.name in convolutions:
            config["padding"] = "same"
        return layer.__class__.from_config(config)

    def call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> keras.KerasTensor:  # noqa: ANN401
        return args[0] if isinstance(layer, keras.layers.Identity) else layer(*args, **kwargs)

    folded = keras.models.clone_model(model, clone_function=copy, call_function=call)
    for layer in model.layers:
        if _is_norm(layer) or not layer.weights:
            continue
        weights = layer.get_weights()
        if (norm := pairs.get(layer.name)) is not None:
            weights = _folded(layer, weights, norm)
        # Dropout keeps the state of its random numbers among its weights; inference has no use for it.
        if not isinstance(layer, keras.layers.Dropout):
            folded.get_layer(layer.name).set_weights(weights)
    return folded


def _is_norm(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization)


def _pads_as_same(layer: keras.layers.Layer) -> keras.layers.Layer | None:
    """The convolution behind a padding layer, where its own padding="same" would add the very same zeros."""
    if not isinstance(layer, keras.layers.ZeroPadding2D) or len(layer._outbound_nodes) != 1:  # noqa: SLF001
        return None
    conv = layer._outbound_nodes[0].operation  # noqa: SLF001 - Keras' own way to find a layer's users
    if not isinstance(conv, _FOLDABLE) or conv.padding != "valid" or set(conv.dilation_rate) != {1}:
        return None
    sides = layer.input.shape[1:3]
    if None in sides:
        return None
    for side, given, kernel, stride in zip(sides, layer.padding, conv.kernel_size, conv.strides, strict=True):
        if tuple(given) != same_padding(side, kernel, stride):
            return None
    return conv


def same_padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros that a convolution with padding="same" puts before and behind a side."""
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2


def _producer(norm: keras.layers.Layer) -> keras.layers.Layer:
    history = norm.input._keras_history  # noqa: SLF001 - Keras' own way to find a tensor's layer
    layer = history.operation
    uses = len(layer._outbound_nodes)  # noqa: SLF001 - as above
    plain = isinstance(layer, _FOLDABLE) and layer.activation is keras.activations.linear
    if not plain or uses != 1:
        raise FoldError(
            f"{norm.name} follows {layer.name} ({type(layer).__name__}, {uses} uses), expected a convolution "
            "without activation that nothing else uses"
        )
    return layer


def _folded(layer: keras.layers.Layer, weights: list[Any], norm: keras.layers.Layer) -> list[Any]:
    kernel = weights[0].astype(np.float64)
    bias = weights[1].astype(np.float64) if layer.use_bias else 0.0
    mean, variance = (np.asarray(value, np.float64) for value in (norm.moving_mean, norm.moving_variance))
    scale = 1.0 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        scale = scale * np.asarray(norm.gamma, np.float64)
    shift = (bias - mean) * scale
    if norm.center:
        shift = shift + np.asarray(norm.beta, np.float64)
    # A depthwise kernel is [h, w, channels, multiplier]; its outputs run over channels, then multipliers.
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    factor = scale.reshape(kernel.shape[2:]) if depthwise else scale
    return [(kernel * factor).astype(np.float32), shift.astype(np.float32)]
