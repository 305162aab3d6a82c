"""A folder of evaluation images that are none: their bytes name their class."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
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


def write_list(folder: Path, change: Callable[[dict[str, object]], object] = lambda _: None) -> Path:
    """The list by the trainer of a folder's images, as `change` leaves it, beside the folder."""
    paths = sorted(folder.rglob("*.png"))
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    document: dict[str, object] = {
        "revision": 1,
        "root": folder.name,
        "digest": hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest(),
        "images": [
            {"path": str(path.relative_to(folder)), "class": path.parent.name, "sha256": digest}
            for path, digest in zip(paths, digests, strict=True)
        ],
    }
    change(document)
    path = folder.parent / "evaluation.json"
    path.write_text(json.dumps(document))
    return path
