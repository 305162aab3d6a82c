"""evaluation.json: the sealed test split of a run, for those who measure a served version on its images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from neurogate_core.files import replace_json

from neurogate_trainer.data.index import ImageRecord
from neurogate_trainer.data.layout import named_beside

EVALUATION_FILE: Final = "evaluation.json"
EVALUATION_REVISION: Final = 1


def images_digest(digests: Sequence[str]) -> str:
    """Hex SHA-256 of the sorted digests of images, joined by newlines: names a set of images."""
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def write_evaluation_set(folder: Path, root: Path, test: Sequence[ImageRecord]) -> None:
    """Writes evaluation.json into a run folder, replacing an older one in one step.

    Raises:
        OSError: It cannot be written.
    """
    document = {
        "revision": EVALUATION_REVISION,
        "root": str(root.expanduser().absolute()),
        "root_beside": named_beside(root, folder),
        "digest": images_digest([record.sha256 for record in test]),
        "images": [{"path": r.path, "class": r.class_id, "sha256": r.sha256} for r in test],
    }
    replace_json(folder / EVALUATION_FILE, document)
