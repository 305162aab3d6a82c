"""Why a published version answers as it does: the evidence for every class in one image, without a server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from neurogate_core.manifest import read_manifest
from neurogate_core.preprocessing.transform import transform

from neurogate_trainer.evaluation.saved_model import OUTPUTS, SavedModel

from .pictures import evidence_figure

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a version says about an image.

    Attributes:
        classes: Class ids, in the order of the arrays.
        probabilities: float32 [C], calibrated.
        gradcam: float32 [h, w, C], at least 0: how much each place speaks for the class.
        pixels: uint8 [H, W, 3], what the network saw.
    """

    classes: tuple[str, ...]
    probabilities: Floats
    gradcam: Floats
    pixels: npt.NDArray[np.uint8]


def explain_image(version_dir: Path, image: Path, figure: Path) -> Explanation:
    """Asks a version's exported graph about an image, and draws the evidence for every class.

    Raises:
        TransformError: It is no image that the version's transform accepts.
        EvaluationError: The version cannot be called.
        ManifestError: It has no valid manifest.
        OSError: A file cannot be read or written.
    """
    manifest = read_manifest(version_dir)
    pixels = transform(image.read_bytes(), manifest.transform)
    outputs = SavedModel(version_dir)(pixels[np.newaxis], OUTPUTS)
    explained = Explanation(
        classes=tuple(entry.id for entry in manifest.classes),
        probabilities=outputs["probabilities"][0],
        gradcam=outputs["gradcam"][0],
        pixels=pixels,
    )
    limits = manifest.thresholds
    score = float(outputs["ood_score"][0])
    subtitle = (
        f"{manifest.model_name} version {manifest.version}; abstains below {limits.abstain_below:.1%}; "
        f"foreign above {limits.out_of_distribution_above:.3g}, this image {score:.3g}"
    )
    evidence_figure(
        pixels,
        dict(zip(explained.classes, explained.probabilities.tolist(), strict=True)),
        explained.gradcam,
        figure,
        title=f"What speaks for each class: {image.name}",
        subtitle=subtitle,
    )
    return explained
