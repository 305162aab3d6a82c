"""evaluation.json: the sealed test split of a run, for those who measure a served version on its images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from neurogate_trainer._files import named_beside, write_atomically
from neurogate_trainer.data.index import ImageRecord

EVALUATION_FILE: Final = "evaluation.json"
EVALUATION_REVISION: Final = 1


def images_digest(digests: Sequence[str]) -> str:
    """Hex SHA-256 of the sorted digests of images, joined by newlines: names a set of images."""
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def write_evaluation_set(folder: Path, root: Path, test: Sequence[ImageRecord]) -> None:
    """Writes evaluation.json into a run folder, replacing an older one in one step.

    Args:
        folder: The run folder.
        root: The data set's folder.
        test: The sealed test split.

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
    write_atomically(folder / EVALUATION_FILE, (json.dumps(document, indent=1) + "\n").encode())
