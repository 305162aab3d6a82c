"""evaluation.json: the sealed test split of a run, for those who measure a served version on its images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from neurogate_core.files import replace_json
from neurogate_core.names import images_digest

from neurogate_trainer.data.index import ImageRecord
from neurogate_trainer.data.layout import named_beside

EVALUATION_FILE: Final = "evaluation.json"
EVALUATION_REVISION: Final = 1


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
