"""A trained network becomes a model version: the served graph, its proof, and its manifest."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np
import numpy.typing as npt
from neurogate.v1 import manifest_pb2
from neurogate_core.preprocessing.dicom import is_dicom
from neurogate_core.preprocessing.privacy import deidentified
from neurogate_core.preprocessing.transform import pixels_digest, transform
from PIL import Image

from neurogate_trainer.data.index import ImageRecord
from neurogate_trainer.data.inputs import Examples
from neurogate_trainer.errors import TrainerError
from neurogate_trainer.evaluation.calibrate import probabilities
from neurogate_trainer.evaluation.ood import FeatureDistance
from neurogate_trainer.evaluation.saved_model import SavedModel
from neurogate_trainer.training.train import predict_logits

from .serving_graph import save_serving_graph
from .warmup import write_warmup_requests

PARITY_IMAGES: Final = 256
PARITY_TOLERANCE: Final = 1e-4
GOLDEN_BYTES: Final = 256 * 1024
_GOLDEN_CANDIDATES: Final = 64

_DISPLAY_NAMES: Final = {
    "glioma": "Glioma",
    "meningioma": "Meningioma",
    "notumor": "No tumour",
    "pituitary": "Pituitary tumour",
}


class ExportError(TrainerError, RuntimeError):
    """The exported graph is not the trained network, so it must not be published."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A version that is staged, but for its manifest.

    Attributes:
        parity: What export.json holds.
        goldens: Recorded examples of every class.
    """

    parity: dict[str, Any]
    goldens: list[manifest_pb2.Golden]


def export_version(
    model: keras.Model,
    staged: Path,
    *,
    name: str,
    temperature: float,
    distance: FeatureDistance | None,
    examples: Examples,
    records: Sequence[ImageRecord],
    root: Path,
    spec: manifest_pb2.TransformSpec,
    classes: Sequence[str],
    goldens_per_class: int,
    spare: Examples | None = None,
) -> Exported:
    """Writes the SavedModel and its warm-up requests, and proves them.

    `examples` are decoded images to compare on and to record examples of: the validation split, since the
    test split stays sealed; `records` are theirs, in the same order. `spare` fills up what is compared where
    they are fewer than 256: the training split. A `distance` of None stands for the energy score.

    Raises:
        ExportError: The graph does not give the network's answers.
    """
    save_serving_graph(model, staged, temperature=temperature, distance=distance)
    served = SavedModel(staged)
    parity = check_parity(model, served, _to_compare(examples, spare), temperature=temperature)
    parity["weights_sha256"] = weights_digest(model)
    files = [root / record.path for record in records]
    # A recorded image travels with the version to whoever may read it, which those who sent it never meant.
    ours = np.array([not Path(record.path).is_absolute() for record in records])
    candidates = Examples(examples.pixels, np.where(ours, examples.labels, -1))
    goldens = [
        golden
        for index, class_id in enumerate(classes)
        for golden in _goldens(served, candidates, files, spec, (index, class_id, goldens_per_class))
    ]
    pixels = np.stack([transform(golden.image, spec) for golden in goldens])
    write_warmup_requests(staged, name, pixels)
    return Exported(parity, goldens)


def weights_digest(model: keras.Model) -> str:
    """Hex SHA-256 over everything that the network has learnt, in the order of its layers."""
    digest = hashlib.sha256()
    for layer in model.layers:
        # Dropout keeps the state of its random numbers, which no answer depends on.
        if not isinstance(layer, keras.layers.Dropout):
            for array in layer.get_weights():
                digest.update(array.tobytes())
    return digest.hexdigest()


def _to_compare(examples: Examples, spare: Examples | None) -> Examples:
    """The examples, and as many of the spare ones, spread over them, as are missing from 256."""
    missing = PARITY_IMAGES - len(examples)
    if spare is None or missing <= 0:
        return examples
    chosen = np.linspace(0, len(spare) - 1, min(missing, len(spare))).astype(int)
    return Examples(
        np.concatenate([examples.pixels, spare.pixels[chosen]]),
        np.concatenate([examples.labels, spare.labels[chosen]]),
    )


def check_parity(
    model: keras.Model, served: SavedModel, examples: Examples, *, temperature: float
) -> dict[str, Any]:
    """Compares the exported graph with the trained network, on up to 256 images spread over the examples.

    Raises:
        ExportError: A probability differs by more than 1e-4, or the most probable class differs.
    """
    count = min(PARITY_IMAGES, len(examples))
    chosen = np.linspace(0, len(examples) - 1, count).astype(int)
    sample = Examples(examples.pixels[chosen], examples.labels[chosen])
    logits = predict_logits(model, sample)
    expected = probabilities(logits, temperature)
    outputs = [served(sample.pixels[start : start + 32]) for start in range(0, count, 32)]
    found = np.concatenate([output["probabilities"] for output in outputs])
    found_logits = np.concatenate([output["logits"] for output in outputs])
    difference = float(np.abs(found - expected).max())
    same = int((found.argmax(axis=1) == expected.argmax(axis=1)).sum())
    if not (difference <= PARITY_TOLERANCE and same == count):  # also true of NaN
        raise ExportError(
            f"the exported graph is not the trained network: on {count} images its probabilities differ by "
            f"up to {difference:.2g} (at most {PARITY_TOLERANCE:g} is accepted) and {count - same} "
            "answers differ"
        )
    return {
        "images": count,
        "largest_probability_difference": difference,
        "largest_logit_difference": float(np.abs(found_logits - logits).max()),
        "same_answers": same,
        "tolerance": PARITY_TOLERANCE,
    }


def _goldens(
    served: SavedModel,
    examples: Examples,
    files: Sequence[Path],
    spec: manifest_pb2.TransformSpec,
    wanted: tuple[int, str, int],
) -> list[manifest_pb2.Golden]:
    """Recorded examples of one class; `wanted` is its index, its id, and how many."""
    index, class_id, count = wanted
    of_class = np.flatnonzero(examples.labels == index)[:_GOLDEN_CANDIDATES]
    answers = np.concatenate([served(examples.pixels[[i]])["probabilities"] for i in of_class])
    # Right answers before wrong ones, and of those the least saturated probabilities: they move most when
    # anything is wrong, so they make the best proof.
    order = np.lexsort((answers.max(axis=1), answers.argmax(axis=1) != index))
    goldens = []
    for number, position in enumerate(of_class[order][:count]):
        image = _encoded(files[position], examples.pixels[position])
        pixels = transform(image, spec)
        golden = manifest_pb2.Golden(
            name=f"{class_id}-{number}",
            image=image,
            pixels_sha256=pixels_digest(pixels),
            probabilities=served(pixels[np.newaxis])["probabilities"][0].tolist(),
        )
        goldens.append(golden)
    return goldens


def _encoded(path: Path, pixels: npt.NDArray[np.uint8]) -> bytes:
    """The image's own file, or where that is too large for a manifest, its pixels as PNG.

    Of a DICOM file the picture: a manifest travels to whoever may read the version.
    """
    data = path.read_bytes()
    if is_dicom(data):
        data = deidentified(data)
    if len(data) <= GOLDEN_BYTES:
        return data
    for quality in (None, 95, 85, 70, 50):
        stored = io.BytesIO()
        if quality is None:
            Image.fromarray(pixels).save(stored, "PNG", optimize=True)
        else:
            Image.fromarray(pixels).save(stored, "JPEG", quality=quality)
        if stored.tell() <= GOLDEN_BYTES:
            break
    return stored.getvalue()


def model_classes(classes: Sequence[str]) -> list[manifest_pb2.ModelClass]:
    """The manifest's classes, in the order of the outputs."""
    return [
        manifest_pb2.ModelClass(
            index=index,
            id=class_id,
            display_name=_DISPLAY_NAMES.get(class_id, class_id.replace("_", " ").strip().capitalize()),
        )
        for index, class_id in enumerate(classes)
    ]
