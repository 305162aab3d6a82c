"""Calling a model version's exported graph as a server would: by its signature, on decoded pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from neurogate.v1 import manifest_pb2
from neurogate_core.preprocessing.transform import TransformError, transform

from neurogate_trainer.errors import TrainerError

ANSWERS: Final = ("probabilities", "logits", "ood_score")
OUTPUTS: Final = (*ANSWERS, "gradcam")

Pixels = npt.NDArray[np.uint8]


class EvaluationError(TrainerError, RuntimeError):
    """A version, an image or a run folder that cannot be evaluated; the message says what and why."""


def check_path(path: Path) -> None:
    """Refuses a path that TensorFlow takes for a pattern: it finds no weights there, nor does its server.

    Raises:
        EvaluationError: It does.
    """
    if found := sorted(set(str(path.absolute())) & set("[\\")):
        raise EvaluationError(
            f"{path.absolute()} has {' and '.join(found)} in it, which TensorFlow takes for a pattern: it "
            "would find no model there; choose another folder, or a link to it"
        )


class SavedModel:
    """The signature `serving_default` of a version's SavedModel.

    Args:
        version_dir: Folder that holds `saved_model.pb`.

    Raises:
        EvaluationError: No SavedModel there, one without the signature and outputs that Neurogate serves, or
            a path that TensorFlow cannot read.
    """

    def __init__(self, version_dir: Path) -> None:
        check_path(version_dir)
        if not (version_dir / "saved_model.pb").is_file():
            raise EvaluationError(
                f"{version_dir} holds no saved_model.pb; expected an exported model version"
            )
        # The signature borrows the loaded object's variables, so the object has to live as long.
        self._loaded: Any = tf.saved_model.load(str(version_dir))
        signatures = self._loaded.signatures
        if "serving_default" not in signatures:
            raise EvaluationError(
                f"{version_dir} has the signatures {sorted(signatures)}; expected serving_default among them"
            )
        self._signature: Any = signatures["serving_default"]
        missing = set(OUTPUTS) - set(self._signature.structured_outputs)
        if missing:
            raise EvaluationError(
                f"{version_dir}: serving_default has no output {', '.join(sorted(missing))}"
            )
        inputs = self._signature.structured_input_signature[1]
        if set(inputs) != {"images"} or inputs["images"].dtype != tf.uint8:
            raise EvaluationError(
                f"{version_dir}: serving_default takes {inputs}; expected images uint8 [N, H, W, 3]"
            )
        self.input_shape: tuple[int | None, ...] = tuple(inputs["images"].shape.as_list())
        self._asks: dict[tuple[str, ...], Any] = {}

    def __call__(
        self, images: Pixels, outputs: tuple[str, ...] = ANSWERS
    ) -> dict[str, npt.NDArray[np.float32]]:
        """Some of `OUTPUTS` of one batch, uint8 [N, H, W, 3]; only what they need is computed.

        Raises:
            EvaluationError: The images' size is not the graph's.
        """
        known = [
            (have, want) for have, want in zip(images.shape[1:], self.input_shape[1:], strict=True) if want
        ]
        if any(have != want for have, want in known):
            raise EvaluationError(
                f"images of shape {images.shape[1:]} for a graph that takes {self.input_shape[1:]}"
            )
        found = self._ask(outputs)(tf.constant(images))
        return {name: value.numpy() for name, value in zip(outputs, found, strict=True)}

    def _ask(self, outputs: tuple[str, ...]) -> Any:  # noqa: ANN401 - tensorflow carries no types
        """The signature's function with some outputs alone; called itself, it would compute them all."""
        if outputs not in self._asks:

            @tf.function(input_signature=[tf.TensorSpec(self.input_shape, tf.uint8)])  # type: ignore[untyped-decorator]
            def ask(images: Any) -> list[Any]:  # noqa: ANN401 - as above
                found = self._signature(images=images)
                return [found[name] for name in outputs]

            self._asks[outputs] = ask
        return self._asks[outputs]


def decode_batches(
    paths: Sequence[Path], spec: manifest_pb2.TransformSpec, *, batch_size: int
) -> Iterator[Pixels]:
    """Decoded images in order, uint8 [n, height, width, 3] with n up to `batch_size`.

    The next batch is decoded by threads while the caller is busy with this one.

    Raises:
        ValueError: `batch_size` is below 1.
        EvaluationError: A file is gone or is no longer an image that the transform accepts.
    """
    if batch_size < 1:
        raise ValueError(f"the batch size must be at least 1, got {batch_size}")

    def decode(path: Path) -> Pixels:
        try:
            return transform(path.read_bytes(), spec)
        except (OSError, TransformError) as error:
            raise EvaluationError(
                f"{path} was readable when the data set was indexed, but now: {error}"
            ) from error

    with ThreadPoolExecutor(thread_name_prefix="decode") as pool:
        pending = iter(paths)
        ahead = [pool.submit(decode, path) for path in islice(pending, batch_size)]
        try:
            while ahead:
                following = [pool.submit(decode, path) for path in islice(pending, batch_size)]
                yield np.stack([future.result() for future in ahead])
                ahead = following
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
