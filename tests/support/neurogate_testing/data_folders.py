"""Small data sets of made-up pictures, each unlike all others."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from neurogate_trainer.data.index import DatasetIndex, ImageRecord
from PIL import Image


def picture(seed: int, size: tuple[int, int] = (96, 80)) -> Image.Image:
    """A gray picture of smooth random blobs; another seed gives another picture."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **settings: int) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def write_folder(root: Path, counts: Mapping[str, int], *, first_seed: int = 0) -> Path:
    """Writes `counts[folder]` pictures into each folder, e.g. {"Training/glioma": 6}; returns the root."""
    seed = first_seed
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (root / folder / f"{number:03d}.jpg").write_bytes(encoded(picture(seed)))
            seed += 1
    return root


def record(path: str, *, sha256: str = "", given_split: str = "", group: str = "") -> ImageRecord:
    """A record without an image behind it; its class is the folder, its content its path."""
    class_id = path.rsplit("/", 2)[-2]
    return ImageRecord(path, class_id, sha256 or f"content of {path}", 0, 8, 8, "L", 1.0, given_split, group)


def index_of(*records: ImageRecord) -> DatasetIndex:
    """An index of such records."""
    classes = tuple(sorted({r.class_id for r in records}))
    return DatasetIndex(Path("nowhere"), "made up", classes, tuple(sorted(records, key=lambda r: r.path)), ())
