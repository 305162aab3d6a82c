"""The evidence map: for every class, which places of the image raise its logit.

Two feature maps answer, by the gradients with respect to them of y, the class's logit less the mean of all:

    coarse = relu(P16 (sum_k dy/dA_k * A_k) P16')     A: stride 16, signed before the relu (HiResCAM)
    fine   = P8 (sum_k relu(dy/dB_k) * B_k) P8'       B: stride 8 (LayerCAM)
    map    = coarse * fine / max(fine)

Less the mean, since what raises all logits raises no probability. Without it the map of `notumor` pointed at
44 % of the lesions after one training run, with it at 2 %. The coarse one knows the class, the fine one the
place. Only the fine one is divided by its maximum, so that the maps of an image's classes stay comparable. P
brings a feature map onto the grid of the result: every unit to where the centre of its receptive field lies,
bilinearly between, smoothed by a Gaussian.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from .backward import Backward, sources
from .fold_batch_norm import same_padding
from .network import COARSE_MAP, FINE_MAP

_FEWEST_CELLS: Final = 24
_STRIDE: Final = 8
_SMOOTHING: Final = 0.02
"""Standard deviation of the Gaussian, as a share of the image's side."""

Floats = npt.NDArray[np.float32]


class Evidence:
    """The maps of one network, with what depends on its shape alone computed once.

    Args:
        model: The network, with square images and without batch normalisations.
    """

    def __init__(self, model: keras.Model) -> None:
        side = int(model.input_shape[1])
        self._backward = Backward(model, (COARSE_MAP, FINE_MAP))
        self._coarse, self._fine = (
            tf.constant(onto_grid(centres(model, name), side)) for name in (COARSE_MAP, FINE_MAP)
        )
        self.needs = self._backward.needs
        """Names of the layers whose outputs a call needs."""

    def __call__(self, outputs: Mapping[str, Any]) -> Any:  # noqa: ANN401 - tensorflow carries no types
        """Maps of every class, float32 [N, G, G, C], finite and at least 0.

        Args:
            outputs: Of the layers in `needs`.
        """
        by_coarse, by_fine = self._backward(outputs)
        signed = tf.reduce_sum(by_coarse * outputs[COARSE_MAP], axis=4)
        positive = tf.reduce_sum(tf.nn.relu(by_fine) * outputs[FINE_MAP], axis=4)
        where = _spread(self._fine, positive)
        share = tf.math.divide_no_nan(where, tf.reduce_max(where, axis=(2, 3), keepdims=True))
        return tf.transpose(tf.nn.relu(_spread(self._coarse, signed)) * share, (1, 2, 3, 0))


def _spread(onto: Any, maps: Any) -> Any:  # noqa: ANN401 - as above
    """[C, N, h, h] onto the grid [C, N, G, G]."""
    cells, units = onto.shape
    # As one batch dimension: of several, the last of them 1, TensorFlow 2.21 makes wrong products on several
    # threads, with oneDNN and a matrix without them on the left.
    flat = tf.matmul(tf.matmul(onto, tf.reshape(maps, (-1, units, units))), onto, transpose_b=True)
    return tf.reshape(flat, (maps.shape[0], -1, cells, cells))


def grid_side(side: int) -> int:
    """Cells along a side of the maps: an eighth of the image's side in pixels, doubled while below 24."""
    cells = side // _STRIDE
    while cells < _FEWEST_CELLS:
        cells *= 2
    return cells


def onto_grid(places: npt.NDArray[np.float64], side: int) -> Floats:
    """The matrix that brings values at some places onto the grid, float32 [G, h]; its rows add up to 1.

    Args:
        places: float64 [h], ascending, in pixels; the first pixel is at 0. Beyond the outermost ones their
            values go on.
        side: The image's side in pixels, which the cells of the grid divide evenly.
    """
    cells = grid_side(side)
    wanted = (np.arange(cells) + 0.5) * side / cells - 0.5
    between = np.stack([np.interp(wanted, places, unit) for unit in np.eye(len(places))], axis=1)
    smooth = np.exp(-0.5 * ((wanted[:, np.newaxis] - wanted) / (_SMOOTHING * side)) ** 2)
    smooth /= smooth.sum(axis=1, keepdims=True)
    return (smooth @ between).astype(np.float32)


def centres(model: keras.Model, name: str) -> npt.NDArray[np.float64]:
    """Where the units of a layer look: the centres of their receptive fields along a side, float64 [h].

    In pixels; the first pixel is at 0. A convolution of stride 2 and kernel 3 pads an even side behind
    alone, so its unit i looks at 2i + 1 there and at 2i on an odd side; over five of them it is half a cell.

    To that comes how far the weights of a kernel lie beside its middle. ImageNet's lean towards the end: over
    the layers of stride 8 that adds up to some 3 pixels, over those of stride 16 to some 6.

    Raises:
        ValueError: On the way lies a layer other than a convolution or a padding that changes the size.
    """
    layers = [model.get_layer(name)]
    while not isinstance(layers[-1], keras.layers.InputLayer):
        layers.append(sources(layers[-1])[-1])
    step, first = 1.0, 0.0
    for layer in reversed(layers[:-1]):
        before, after = sources(layer)[-1].output.shape[1], layer.output.shape[1]
        if isinstance(layer, keras.layers.ZeroPadding2D):
            first -= step * layer.padding[0][0]
        elif isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D):
            kernel, stride = layer.kernel_size[0], layer.strides[0]
            padding = same_padding(before, kernel, stride)[0] if layer.padding == "same" else 0
            first += step * ((kernel - 1) / 2 - padding + _leaning(layer))
            step *= stride
        elif before != after:
            raise ValueError(
                f"{layer.name} makes {after} of {before} rows, which only convolutions should do"
            )
    return first + step * np.arange(layers[0].output.shape[1])


def _leaning(layer: keras.layers.Layer) -> float:
    """How far beside a kernel's middle its squared weights have their centre, in units; mean of both axes."""
    energy = np.square(np.asarray(layer.get_weights()[0], np.float64)).sum(axis=(2, 3))
    total = float(energy.sum())
    if not total > 0:
        return 0.0
    places = np.arange(len(energy)) - (len(energy) - 1) / 2
    return float((energy.sum(axis=0) + energy.sum(axis=1)) @ places) / (2 * total)
