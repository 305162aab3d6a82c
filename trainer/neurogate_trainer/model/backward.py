"""Gradients of all logits at once, as operations of the graph that is served.

`tf.gradients` makes a pass of its own for each class, and in it a 1 x 1 convolution takes more time than a
product of matrices. Here the classes are one batch, and such a convolution is such a product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from .network import HIDDEN, LOGITS


class Backward:
    """The way back from a network's logits to some of its layers.

    Args:
        model: A network without batch normalisations and paddings of their own.
        targets: Names of layers; every way from the last of them to the logits leads through the others.
    """

    def __init__(self, model: keras.Model, targets: Sequence[str]) -> None:
        self._targets = tuple(targets)
        order = [layer.name for layer in model.layers]
        # Layers lie in the order of their computation.
        behind = model.layers[order.index(targets[-1]) + 1 : order.index(LOGITS) + 1]
        self._layers: list[keras.layers.Layer] = list(reversed(behind))
        masks = [layer.name for layer in behind if isinstance(layer, keras.layers.ReLU)]
        self.needs = tuple(dict.fromkeys([*masks, HIDDEN, LOGITS, *targets]))
        """Names of the layers whose outputs a call needs."""

    def __call__(self, outputs: Mapping[str, Any]) -> list[Any]:
        """The gradients of every class's logit, less the mean of all, with respect to the targets' outputs.

        The probabilities do not change when all logits rise together, so neither may what explains them.

        Returns:
            For each target float32 [C, N, h, w, K].

        Args:
            outputs: Of the layers in `needs`.

        Raises:
            ValueError: There is a layer on the way that this does not know.
        """
        logits = outputs[LOGITS]
        classes = logits.shape[1]
        # All images of the first class, then all of the second.
        reached = {LOGITS: tf.repeat(tf.eye(classes) - 1 / classes, tf.shape(logits)[0], axis=0)}
        for layer in self._layers:
            before = _back(layer, reached[layer.name], outputs.get(layer.name), classes)
            for source in sources(layer):
                known = reached.get(source.name)
                reached[source.name] = before if known is None else known + before
        return [tf.reshape(reached[name], (classes, -1, *outputs[name].shape[1:])) for name in self._targets]


def _back(layer: keras.layers.Layer, given: Any, output: Any, classes: int) -> Any:  # noqa: ANN401 - as above
    """From the gradient with respect to a layer's output to that with respect to its inputs."""
    if isinstance(layer, keras.layers.Add | keras.layers.Dropout):
        return given
    if isinstance(layer, keras.layers.ReLU) and layer.max_value == 6:
        return tf.raw_ops.Relu6Grad(gradients=given, features=tf.tile(output, (classes, 1, 1, 1)))
    inside = sources(layer)[0].output.shape[1:]
    if isinstance(layer, keras.layers.GlobalAveragePooling2D):
        height, width, channels = inside
        even = given[:, tf.newaxis, tf.newaxis, :] / float(height * width)
        return tf.broadcast_to(even, (tf.shape(given)[0], height, width, channels))
    if isinstance(layer, keras.layers.Dense):
        if layer.activation is keras.activations.relu:
            given = tf.raw_ops.ReluGrad(gradients=given, features=tf.tile(output, (classes, 1)))
        return tf.matmul(given, tf.convert_to_tensor(layer.kernel), transpose_b=True)
    if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D):
        return _back_convolution(layer, given, inside)
    raise ValueError(f"{layer.name} ({type(layer).__name__}) is no layer that gradients go back through")


def _back_convolution(layer: keras.layers.Layer, given: Any, inside: tuple[int, int, int]) -> Any:  # noqa: ANN401
    kernel = tf.convert_to_tensor(layer.kernel)
    size = (tf.shape(given)[0], *inside)
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        strides = (1, *layer.strides, 1)
        return tf.nn.depthwise_conv2d_backprop_input(size, kernel, given, strides, layer.padding.upper())
    if (*layer.kernel_size, *layer.strides) == (1, 1, 1, 1):
        return tf.nn.conv2d(given, tf.transpose(kernel, (0, 1, 3, 2)), 1, "VALID")
    return tf.nn.conv2d_transpose(given, kernel, size, layer.strides, layer.padding.upper())


def sources(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers whose outputs a layer takes."""
    given = layer.input if isinstance(layer.input, list) else [layer.input]
    return [tensor._keras_history.operation for tensor in given]  # noqa: SLF001 - Keras' own way to find them
