"""A retraining as a job: its folder, the document of its examples, and the trainer's command line."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from neurogate_gateway.store.run import Run, RunExample

from .checkpoints import STATE, Checkpoints
from .launcher import EVENTS_FILE, EXAMPLES_FILE, GATE_POLICY_FILE, RUN_DIR, Job, LaunchError

_EXAMPLES_REVISION: Final = 1


@dataclasses.dataclass(frozen=True, slots=True)
class JobMaker:
    """Makes jobs of retrainings.

    Attributes:
        trainer: The trainer's command, a path or a name.
        base_run: Folder of the run whose data set, splits and settings retrainings take over.
        runs_dir: Every retraining has a folder of its own there, for as long as somebody may start from it.
        repository: Root of the model repository.
        model: Name of the model in it.
        checkpoints: Finds the weights to start from.
        image_path: Where the image of an example lies.
    """

    trainer: str
    base_run: Path
    runs_dir: Path
    repository: Path
    model: str
    checkpoints: Checkpoints
    image_path: Callable[[str], Path]

    def folder(self, run_id: str) -> Path:
        """The folder of a retraining."""
        return self.runs_dir.absolute() / run_id

    def make(self, run: Run, examples: Sequence[RunExample]) -> Job:
        """Makes the folder with all that the trainer needs; safe to repeat.

        Raises:
            LaunchError: Something that a trainer needs is not there.
        """
        if not (self.base_run / STATE).is_file():
            raise LaunchError(f"{self.base_run} is no folder of a training run, so there is no base data set")
        command = [
            self._command(),
            "retrain",
            str(self.base_run.absolute()),
            *self._warm_start(run),
            *(f"--set={name}={value}" for name, value in sorted(run.spec.hyperparameters.items())),
        ]
        folder = self.folder(run.run_id)
        options = {
            "--examples": folder / EXAMPLES_FILE,
            "--events": folder / EVENTS_FILE,
            "--run-dir": folder / RUN_DIR,
            "--run-id": run.run_id,
            "--repository": self.repository.absolute(),
            "--model": self.model,
        }
        files = {}
        if run.spec.gate_policy:
            files[GATE_POLICY_FILE] = run.spec.gate_policy
            options["--gate-policy"] = folder / GATE_POLICY_FILE
        document = {
            "revision": _EXAMPLES_REVISION,
            "examples": [
                {
                    "path": str(self.image_path(example.example_id).absolute()),
                    "class": example.class_id,
                    "sha256": example.example_id,
                    "group": example.group,
                }
                for example in examples
            ],
        }
        files[EXAMPLES_FILE] = json.dumps(document, indent=1) + "\n"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                aside = folder / f".{name}"
                aside.write_text(text, encoding="utf-8", newline="")
                aside.replace(folder / name)
        except OSError as error:
            raise LaunchError(f"the folder of the run cannot be made: {error}") from error
        return Job(run.run_id, (*command, *(f"{name}={value}" for name, value in options.items())), folder)

    def _command(self) -> str:
        found = shutil.which(Path(sys.executable).parent / self.trainer) or shutil.which(self.trainer)
        if found is None:
            raise LaunchError(
                f"there is no command {self.trainer!r}; install the extra trainer, or name a path"
            )
        return str(Path(found).absolute())

    def _warm_start(self, run: Run) -> list[str]:
        if run.spec.WhichOneof("base") != "warm_start_version":
            return []
        run_dir = self.checkpoints.run_dir(run.spec.warm_start_version)
        if run_dir is None:
            raise LaunchError(
                f"the weights of version {run.spec.warm_start_version} are gone since it was asked for"
            )
        return [f"--warm-start={run_dir.absolute()}"]
