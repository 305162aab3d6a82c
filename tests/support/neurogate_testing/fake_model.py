"""The fake model server's "model": a small function of the pixels, so that all of it is predictable."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from google.protobuf import timestamp_pb2
from neurogate.v1 import manifest_pb2
from neurogate_core.manifest import MANIFEST_REVISION, model_digest
from neurogate_core.preprocessing.transform import default_spec, pixels_digest, transform
from PIL import Image

CLASSES = (
    ("glioma", "Glioma"),
    ("meningioma", "Meningioma"),
    ("notumor", "No tumour"),
    ("pituitary", "Pituitary tumour"),
)
CAM_SIDE = 7

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Outputs = dict[str, Floats]


def sample_image(seed: int = 0, *, size: tuple[int, int] = (64, 48), kind: str = "PNG") -> bytes:
    """A small encoded picture of smooth noise; another seed, another picture."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(buffer, kind)
    return buffer.getvalue()


def fake_outputs(pixels: Pixels, version: int, classes: int = len(CLASSES)) -> Outputs:
    """What the fake's version says about images, uint8 [N, H, W, 3]."""
    rows = []
    for image in pixels.astype(np.float32):
        quarters = [
            part.mean() for band in np.array_split(image, 2) for part in np.array_split(band, 2, axis=1)
        ]
        rows.append(np.roll(np.resize(quarters, classes), version) / 16)
    logits = np.array(rows, dtype=np.float32).reshape(len(pixels), classes)
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True)) if len(pixels) else logits
    ramp = np.linspace(0, 1, CAM_SIDE * CAM_SIDE, dtype=np.float32).reshape(1, CAM_SIDE, CAM_SIDE, 1)
    scale = np.arange(1, classes + 1, dtype=np.float32)
    return {
        "probabilities": exponents / exponents.sum(axis=1, keepdims=True),
        "logits": logits,
        "gradcam": np.repeat(ramp * scale, len(pixels), axis=0),
        "ood_score": pixels.reshape(len(pixels), -1).mean(axis=1, dtype=np.float32) / 255,
    }


def build_manifest(
    version: int,
    *,
    model: str = "brain_tumor",
    classes: Sequence[tuple[str, str]] = CLASSES,
    spec: manifest_pb2.TransformSpec | None = None,
    abstain_below: float = 0.0,
    out_of_distribution_above: float | None = None,
) -> manifest_pb2.ModelManifest:
    """A valid manifest whose goldens are right for the fake's version."""
    spec = spec or default_spec(32, 32)
    manifest = manifest_pb2.ModelManifest(
        manifest_revision=MANIFEST_REVISION,
        model_name=model,
        version=version,
        created_at=timestamp_pb2.Timestamp(seconds=1_700_000_000),
        classes=[
            manifest_pb2.ModelClass(index=index, id=identifier, display_name=name)
            for index, (identifier, name) in enumerate(classes)
        ],
        transform=spec,
        calibration=manifest_pb2.Calibration(temperature=1.0),
        thresholds=manifest_pb2.DecisionThresholds(
            abstain_below=abstain_below,
            out_of_distribution_above=out_of_distribution_above,
            ood_method="brightness",
        ),
        files=[
            manifest_pb2.FileDigest(
                path="saved_model.pb", size_bytes=version, sha256=hashlib.sha256(b"%d" % version).hexdigest()
            )
        ],
    )
    manifest.model_digest = model_digest(manifest.files)
    for index, (identifier, _) in enumerate(classes):
        image = sample_image(1000 + index)
        pixels = transform(image, spec)
        probabilities = fake_outputs(pixels[np.newaxis], version, len(classes))["probabilities"][0]
        manifest.goldens.add(
            name=f"{identifier}-0",
            image=image,
            pixels_sha256=pixels_digest(pixels),
            probabilities=probabilities.tolist(),
        )
    return manifest
