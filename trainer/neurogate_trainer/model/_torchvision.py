"""Torchvision's MobileNetV2 weights for Keras' MobileNetV2, read without torch.

The two networks compute the same function but for three conventions, and all three are folded away here, so
that the result is an ordinary set of Keras weights:

* torchvision normalises the input by mean and deviation per channel, Keras scales it to -1 … 1: folded into
  the first convolution and the batch normalisation behind it;
* the batch normalisations' epsilon is 1e-5 there and 1e-3 here: folded into gamma;
* kernels are stored in another order of axes.

What remains is where padding goes in convolutions of stride 2: torchvision pads both sides, Keras the far
side only, so feature maps are sampled half a stride apart.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from neurogate_trainer.errors import TrainerError

_MAGIC: Final = 0x1950A86A20F9469CFC6C
_PROTOCOL: Final = 1001
_TORCH_EPSILON: Final = 1e-5
_KERAS_EPSILON: Final = 1e-3
_MEAN: Final = np.array([0.485, 0.456, 0.406])
_DEVIATION: Final = np.array([0.229, 0.224, 0.225])
_BLOCKS: Final = 17

Arrays = dict[str, npt.NDArray[Any]]


class WeightsFormatError(TrainerError, ValueError):
    """Bytes that are no weights of the expected kind; the message says what is wrong."""


@dataclass(slots=True)
class _Storage:
    """A run of numbers in the file; its content follows the pickled part."""

    dtype: str
    count: int
    values: npt.NDArray[Any] | None = None


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A view of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def array(self) -> npt.NDArray[Any]:
        contiguous = tuple(int(np.prod(self.shape[axis + 1 :])) for axis in range(len(self.shape)))
        count = int(np.prod(self.shape))
        if self.storage.values is None or self.offset + count > self.storage.count:
            raise WeightsFormatError("a tensor reaches beyond its storage")
        if count > 1 and self.stride != contiguous:
            raise WeightsFormatError(f"a tensor of shape {self.shape} has strides {self.stride}")
        return self.storage.values[self.offset : self.offset + count].reshape(self.shape)


def _rebuild(
    storage: _Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> _Tensor:
    return _Tensor(storage, offset, tuple(shape), tuple(stride))


_ALLOWED: Final[dict[tuple[str, str], Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch", "FloatStorage"): "<f4",
    ("torch", "LongStorage"): "<i8",
}


class _Unpickler(pickle.Unpickler):
    """Builds tensors and nothing else, whatever the pickle asks for."""

    def __init__(self, file: io.BytesIO, storages: dict[str, _Storage]) -> None:
        super().__init__(file)
        self._storages = storages

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in _ALLOWED:
            raise WeightsFormatError(f"the file asks for {module}.{name}, which no weights need")
        return _ALLOWED[module, name]

    def persistent_load(self, identifier: tuple[str, str, str, str, int]) -> _Storage:
        kind, dtype, key, _, count = identifier[:5]
        if kind != "storage":
            raise WeightsFormatError(f"the file refers to a {kind!r}, which no weights need")
        return self._storages.setdefault(key, _Storage(dtype, int(count)))


def read_state(data: bytes) -> Arrays:
    """The arrays of a state dictionary in torch's serialization from before version 1.6, by their names.

    Raises:
        WeightsFormatError: The bytes are something else, cut short, or ask for more than tensors.
    """
    try:
        return _read(io.BytesIO(data))
    except WeightsFormatError:
        raise
    # A damaged pickle raises nearly anything; none of it is more telling than this.
    except Exception as error:
        raise WeightsFormatError(f"not torch's older serialization, or damaged: {error}") from error


def _read(file: io.BytesIO) -> Arrays:
    storages: dict[str, _Storage] = {}
    magic, protocol, _, state, order = (_Unpickler(file, storages).load() for _ in range(5))
    if (magic, protocol) != (_MAGIC, _PROTOCOL):
        raise WeightsFormatError("not torch's older serialization")
    for key in order:
        storage = storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        dtype = np.dtype(storage.dtype)
        if count != storage.count:
            raise WeightsFormatError(f"storage {key} has {count} elements, announced {storage.count}")
        storage.values = np.frombuffer(file.read(count * dtype.itemsize), dtype, count)
    return {name: tensor.array() for name, tensor in state.items()}


def keras_weights(state: Arrays) -> dict[str, list[npt.NDArray[np.float32]]]:
    """The arrays of each layer of Keras' MobileNetV2 (width 1.0, without its classifier), by layer name.

    Raises:
        WeightsFormatError: An array is missing.
    """
    weights: dict[str, list[npt.NDArray[Any]]] = {}

    def convolution(source: str, layer: str, *, depthwise: bool = False) -> None:
        kernel = state[f"{source}.weight"].astype(np.float64)
        weights[layer] = [kernel.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))]

    def normalisation(source: str, layer: str) -> None:
        names = ("weight", "bias", "running_mean", "running_var")
        gamma, beta, mean, variance = (state[f"{source}.{name}"].astype(np.float64) for name in names)
        gamma = gamma * np.sqrt((variance + _KERAS_EPSILON) / (variance + _TORCH_EPSILON))
        weights[layer] = [gamma, beta, mean, variance]

    try:
        convolution("features.0.0", "Conv1")
        normalisation("features.0.1", "bn_Conv1")
        for block in range(_BLOCKS):
            source = f"features.{block + 1}.conv"
            layer = f"block_{block}_" if block else "expanded_conv_"
            first = 0
            if block:
                convolution(f"{source}.0.0", f"{layer}expand")
                normalisation(f"{source}.0.1", f"{layer}expand_BN")
                first = 1
            convolution(f"{source}.{first}.0", f"{layer}depthwise", depthwise=True)
            normalisation(f"{source}.{first}.1", f"{layer}depthwise_BN")
            convolution(f"{source}.{first + 1}", f"{layer}project")
            normalisation(f"{source}.{first + 2}", f"{layer}project_BN")
        convolution("features.18.0", "Conv_1")
        normalisation("features.18.1", "Conv_1_bn")
    except KeyError as error:
        raise WeightsFormatError(f"not torchvision's mobilenet_v2: no array {error.args[0]!r}") from error

    # torchvision computes k * (p - mean) / deviation with p in 0 … 1, Keras k' * (2 p - 1).
    (kernel,) = weights["Conv1"]
    shift = ((0.5 - _MEAN) / _DEVIATION)[None, None, :, None]
    weights["bn_Conv1"][2] = weights["bn_Conv1"][2] - (kernel * shift).sum(axis=(0, 1, 2))
    weights["Conv1"] = [kernel / (2 * _DEVIATION)[None, None, :, None]]
    return {layer: [array.astype(np.float32) for array in arrays] for layer, arrays in weights.items()}
