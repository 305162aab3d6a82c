"""The images of a run: decoded once by the one transform, kept as uint8 in memory-mapped files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from neurogate.v1 import manifest_pb2
from neurogate_core.files import replacing
from neurogate_core.preprocessing.transform import TransformError, transform

from neurogate_trainer.errors import TrainerError
from neurogate_trainer.progress import Reporter

from .index import ImageRecord

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Batch = tuple[Pixels, npt.NDArray[np.float32], npt.NDArray[np.float32]]

_BATCHES_AHEAD: Final = 4


class InputError(TrainerError, RuntimeError):
    """An image cannot be read any more, or the disk has no room for the pixels."""


@dataclass(frozen=True, slots=True)
class Examples:
    """Decoded images with their classes.

    Attributes:
        pixels: uint8 [N, H, W, 3]; a memory-mapped file, so it costs memory only where it is read.
        labels: int64 [N], class indices.
    """

    pixels: Pixels
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)


def decode_examples(
    records: Sequence[ImageRecord],
    root: Path,
    spec: manifest_pb2.TransformSpec,
    *,
    classes: Sequence[str],
    cache: Path,
    reporter: Reporter,
) -> Examples:
    """Decodes images on all cores into a file under `cache`, or opens the file of an earlier call.

    The file's name is a digest of the images' contents and of the transform, so it is never out of date.

    Raises:
        InputError: An image is gone or damaged, or the file cannot be written.
    """
    position = {name: index for index, name in enumerate(classes)}
    labels = np.array([position[record.class_id] for record in records], np.int64)
    key = hashlib.sha256(spec.SerializeToString(deterministic=True))
    key.update(json.dumps([record.sha256 for record in records]).encode())
    path = cache / f"pixels-{key.hexdigest()[:24]}.npy"
    if not path.is_file():
        try:
            with replacing(path) as temporary:
                _decode(records, root, spec, temporary, reporter)
        except OSError as error:
            reason = error.strerror or str(error)
            raise InputError(f"the decoded images cannot be stored in {path}: {reason}") from error
    return Examples(np.load(path, mmap_mode="r"), labels)


def _decode(
    records: Sequence[ImageRecord],
    root: Path,
    spec: manifest_pb2.TransformSpec,
    target: Path,
    reporter: Reporter,
) -> None:
    def pixels(record: ImageRecord) -> Pixels:
        try:
            data = (root / record.path).read_bytes()
            if hashlib.sha256(data).hexdigest() != record.sha256:
                raise InputError(f"{root / record.path} has changed since the data set was indexed")
            return transform(data, spec)
        except (OSError, TransformError) as error:
            raise InputError(f"{root / record.path} was readable when indexed, but now: {error}") from error

    shape = (len(records), spec.height, spec.width, 3)
    stored: Any = np.lib.format.open_memmap(target, mode="w+", dtype=np.uint8, shape=shape)
    # A page of a mapped file for which the disk has no room ends the process with SIGBUS; this is an OSError.
    with target.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, target.stat().st_size)
    # Decoding releases the interpreter lock; twice as many threads as cores also hide the reading.
    workers = 2 * len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        waiting = iter(records)
        ahead = [pool.submit(pixels, record) for record in islice(waiting, 8 * workers)]
        try:
            for position in range(len(records)):
                stored[position] = ahead.pop(0).result()
                ahead.extend(pool.submit(pixels, record) for record in islice(waiting, 1))
                reporter.advance()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    stored.flush()


def balanced_weights(labels: Labels, classes: int) -> npt.NDArray[np.float32]:
    """float32 [classes]: N / (classes * images of the class), so that every class counts the same in all.

    Raises:
        ValueError: A class has no image.
    """
    counts = np.bincount(labels, minlength=classes)
    if (counts == 0).any():
        raise ValueError(f"a class has no training image: {counts.tolist()}")
    return (len(labels) / (classes * counts)).astype(np.float32)


class EpochBatches:
    """The batches of one epoch: (uint8 images, one-hot labels, weights), in an order that the seed fixes.

    A remainder smaller than a batch is left out, since its statistics would disturb the batch
    normalisations; the next epoch leaves out others.

    Args:
        examples: The training images.
        class_weights: float32 [C].
        batch_size: Images per batch; a smaller set gives one smaller batch.
        seed: With `epoch`, fixes the order.
        epoch: Number of the epoch.
    """

    def __init__(
        self,
        examples: Examples,
        class_weights: npt.NDArray[np.float32],
        *,
        batch_size: int,
        seed: int,
        epoch: int,
    ) -> None:
        self._examples = examples
        self._weights = class_weights
        self._size = min(batch_size, len(examples))
        self._order = np.random.default_rng((seed, epoch)).permutation(len(examples))

    def __len__(self) -> int:
        return len(self._order) // self._size

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < len(self):
            raise IndexError(index)
        # In ascending order the memory-mapped file is read forwards; within a batch, order means nothing.
        chosen = np.sort(self._order[index * self._size : (index + 1) * self._size])
        labels = self._examples.labels[chosen]
        targets = np.eye(len(self._weights), dtype=np.float32)[labels]
        return self._examples.pixels[chosen], targets, self._weights[labels]


def as_dataset(batches: Sequence[Batch] | EpochBatches) -> tf.data.Dataset:
    """Batches for `fit`, in their order, prepared by a thread while the model is busy."""
    signature = tuple(tf.TensorSpec((None, *part.shape[1:]), tf.as_dtype(part.dtype)) for part in batches[0])
    count = len(batches)
    made = tf.data.Dataset.from_generator(
        lambda: (batches[index] for index in range(count)), output_signature=signature
    )
    options = tf.data.Options()
    # There is nothing to tune, and the end of an epoch would wait for the tuner's thread, which looks up only
    # every five seconds. (Keras' own PyDataset has the same wait and no way to turn it off.)
    options.autotune.enabled = False
    complete = made.apply(tf.data.experimental.assert_cardinality(count))
    return complete.prefetch(_BATCHES_AHEAD).with_options(options)
