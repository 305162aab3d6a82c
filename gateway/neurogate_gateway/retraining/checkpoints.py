"""Which run has published a version, and whether its weights are still there to start from."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Final

from neurogate_core.manifest import ManifestError, read_manifest
from neurogate_core.repository import ModelRepository, RepositoryError

from .launcher import RUN_DIR

CHECKPOINT: Final = Path("checkpoint", "best.keras")
"""Where a trainer's run folder keeps what its version has learnt."""

STATE: Final = "state.json"


class Checkpoints:
    """Finds runs by the versions that they published, through the lineage in the versions' manifests.

    A retraining's run folder is <runs_dir>/<run id>/run; the base run's is known by itself.

    Args:
        repository: Root of the model repository.
        model: Name of the model.
        base_run: The base run's folder.
        runs_dir: Where retrainings have their folders.
    """

    def __init__(self, repository: Path, model: str, *, base_run: Path, runs_dir: Path) -> None:
        self._repository = ModelRepository(repository)
        self._model = model
        self._base_run = base_run
        self._runs_dir = runs_dir
        self._run_ids: dict[int, str] = {}

    def versions(self) -> list[int]:
        """The versions that a warm start may begin from."""
        return [number for number in self._numbers() if self.run_dir(number) is not None]

    def run_dir(self, version: int) -> Path | None:
        """Folder of the run that has published a version; None where its weights are gone."""
        run_id = self._run_id(version)
        if not run_id:
            return None
        folders = [self._runs_dir / run_id / RUN_DIR]
        if self._base_run_id() == run_id:
            folders.append(self._base_run)
        return next((folder for folder in folders if (folder / CHECKPOINT).is_file()), None)

    def published_by(self, run_id: str) -> int:
        """The version that a run has published; 0 for none."""
        return next((n for n in reversed(self._numbers()) if self._run_id(n) == run_id), 0)

    def _numbers(self) -> list[int]:
        with contextlib.suppress(RepositoryError, OSError):
            return self._repository.versions(self._model)
        return []

    def _run_id(self, version: int) -> str:
        # A version never changes, so what its manifest says holds for ever.
        if version not in self._run_ids:
            try:
                manifest = read_manifest(self._repository.path(self._model, version))
            except (ManifestError, RepositoryError, OSError):
                return ""
            self._run_ids[version] = manifest.lineage.run_id
        return self._run_ids[version]

    def _base_run_id(self) -> str:
        try:
            content = json.loads((self._base_run / STATE).read_text(encoding="utf-8"))
            return str(content["run_id"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""
