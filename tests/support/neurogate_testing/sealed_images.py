"""A folder of evaluation images that are none: their bytes name their class."""

from __future__ import annotations

from pathlib import Path

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")


def sealed_folder(parent: Path) -> Path:
    """Twelve files, three a class."""
    folder = parent / "sealed"
    for number in range(12):
        name = CLASSES[number % 4]
        path = folder / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"{name} {number}".encode())
    return folder
