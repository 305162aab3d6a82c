"""What lies in a run folder, read for the report: missing or damaged parts become remarks, not failures."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from google.protobuf import json_format
from neurogate.v1 import manifest_pb2

from neurogate_trainer.evaluation.metrics import Json

_RECORDS: Final = {
    "config": "the settings of the run",
    "environment": "the environment it ran in",
    "splits": "the division into training, validation and test images",
    "audit": "the audit of the data set",
    "dataset_stats": "the statistics of the data set",
    "history": "the history of the training",
    "calibration": "the calibration",
    "ood": "the out-of-distribution score",
    "export": "the comparison of the exported model with the trained one",
    "metrics": "the evaluation on the test split",
    "manifest": "the manifest",
    "published": "the publication (the version may not have been published)",
}


# What the sections rely on; a file without it was written by something else.
_REQUIRED: Final = {
    "metrics": {
        "support",
        "classes",
        "accuracy",
        "cohen_kappa",
        "ece",
        "macro",
        "weighted",
        "per_class",
        "confusion",
        "reliability",
        "abstention",
        "bootstrap",
    },
    "calibration": {"temperature", "ece_before", "ece_after"},
}


@dataclass(slots=True)
class Run:
    """The records of a run folder.

    Attributes:
        folder: The run folder.
        records: Content of NAME.json by NAME; absent ones are missing.
        manifest: The manifest, or None.
        gaps: What is missing or damaged, in sentences for people.
        missing_figures: File names of figures that should be there.
    """

    folder: Path
    records: dict[str, Any] = field(default_factory=dict)
    manifest: manifest_pb2.ModelManifest | None = None
    gaps: list[str] = field(default_factory=list)
    missing_figures: list[str] = field(default_factory=list)

    def record(self, name: str) -> Json:
        """The JSON object of one file; empty when it is missing or is no object."""
        content = self.records.get(name)
        return content if isinstance(content, dict) else {}

    @property
    def history(self) -> list[Json]:
        """The entries of history.json."""
        content = self.records.get("history")
        return [entry for entry in content if isinstance(entry, dict)] if isinstance(content, list) else []

    def figure(self, name: str) -> Path | None:
        """The file of a figure by its name without ".png", or None."""
        path = self.folder / "figures" / f"{name}.png"
        return path if path.is_file() else None

    def figures(self, prefix: str) -> list[Path]:
        """The figures whose names begin with `prefix`, sorted."""
        folder = self.folder / "figures"
        return sorted(path for path in folder.glob("*.png") if path.name.startswith(prefix))


def read_run(folder: Path) -> Run:
    """Everything readable in a run folder.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no run folder at {folder}")
    run = Run(folder)
    for name, meaning in _RECORDS.items():
        path = folder / f"{name}.json"
        if not path.is_file():
            run.gaps.append(f"{path.name} is missing: {meaning} cannot be shown.")
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            run.gaps.append(f"{path.name} cannot be read ({error}): {meaning} cannot be shown.")
            continue
        lacking = _REQUIRED.get(name, set()) - (content.keys() if isinstance(content, dict) else set())
        if lacking:
            run.gaps.append(f"{path.name} lacks {', '.join(sorted(lacking))}: {meaning} cannot be shown.")
        else:
            run.records[name] = content
    if "manifest" in run.records:
        try:
            run.manifest = json_format.ParseDict(
                run.records["manifest"], manifest_pb2.ModelManifest(), ignore_unknown_fields=True
            )
        except json_format.ParseError as error:
            run.gaps.append(f"manifest.json is not a manifest ({error}): lineage cannot be shown.")
    return run
