"""A trainer's job: its folder, its command line, and the interface of those who run it."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

from neurogate_core.manifest import ManifestError, read_manifest
from neurogate_core.repository import ModelRepository, RepositoryError

from neurogate_gateway.store.run import Run, RunExample

EVENTS_FILE: Final = "events.jsonl"
EXAMPLES_FILE: Final = "examples.json"
GATE_POLICY_FILE: Final = "gate-policy.toml"
LOG_FILE: Final = "trainer.log"
RUN_DIR: Final = "run"
STATE_FILE: Final = "state.json"
CHECKPOINT: Final = Path("checkpoint", "best.keras")
"""Where a trainer's run folder keeps what its version has learnt."""
_EXAMPLES_REVISION: Final = 1
_TAIL_BYTES: Final = 4096
_TAIL_LINES: Final = 20


class LaunchError(RuntimeError):
    """A trainer cannot be started or asked about; the message says why.

    Attributes:
        transient: Whether it may work a moment later, as when a cluster cannot be reached.
    """

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """One run of a trainer.

    Attributes:
        run_id: The retraining's.
        command: Program and arguments; the trainer writes events to `folder`/EVENTS_FILE.
        folder: The job's own, made by the caller; a launcher keeps LOG_FILE and its own notes there.
    """

    run_id: str
    command: tuple[str, ...]
    folder: Path


class JobState(enum.Enum):
    """Where a job stands."""

    WAITING = "waiting"
    """For its turn, or for resources."""
    RUNNING = "running"
    ENDED = "ended"
    LOST = "lost"
    """It is gone, and nothing says how it ended."""


@dataclasses.dataclass(frozen=True, slots=True)
class JobStatus:
    """How a job is; once it is over, `reason` says to people how that came."""

    state: JobState
    reason: str = ""

    @property
    def over(self) -> bool:
        """Whether nothing comes after it."""
        return self.state in {JobState.ENDED, JobState.LOST}


class Launcher(Protocol):
    """Starts trainers, and finds them again after a restart of the gateway.

    Events, log and the published version are in the job's folder and the repository, so a launcher only
    starts, looks, and ends.
    """

    @property
    def name(self) -> str:
        """As RetrainingSpec.launcher has it."""

    @property
    def max_jobs(self) -> int:
        """How many jobs a gateway starts before one has ended."""

    async def start(self, job: Job) -> str:
        """Starts a job, or finds the one that was started for the same run before.

        Returns:
            A handle, by which this or another gateway finds the job again.

        Raises:
            LaunchError: It cannot be started.
        """

    async def status(self, handle: str) -> JobStatus:
        """How a job is.

        Raises:
            LaunchError: The launcher cannot find out now.
        """

    async def cancel(self, handle: str) -> None:
        """Asks a job to end; what does not end is killed after a while. Safe to repeat.

        Raises:
            LaunchError: It cannot be asked now.
        """

    def close(self) -> None:
        """Releases threads and connections; jobs go on. No other method may be called afterwards."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainerJobs:
    """Makes the jobs of retrainings, and finds what they have published and left to start from.

    A retraining's run folder is <runs_dir>/<run id>/run; the base run's is known by itself. The lineage in a
    version's manifest names the run that published it.

    Attributes:
        trainer: The trainer's command, a path or a name.
        base_run: Folder of the run whose data set, splits and settings retrainings take over.
        runs_dir: Every retraining has a folder of its own there, kept for those that start from its weights.
        repository: Root of the model repository.
        model: Name of the model in it.
        image_path: Where the image of an example lies.
    """

    trainer: str
    base_run: Path
    runs_dir: Path
    repository: Path
    model: str
    image_path: Callable[[str], Path]
    _run_ids: dict[int, str] = dataclasses.field(default_factory=dict, init=False)

    def folder(self, run_id: str) -> Path:
        """The folder of a retraining."""
        return self.runs_dir.absolute() / run_id

    def make(self, run: Run, examples: Sequence[RunExample]) -> Job:
        """Makes the folder with all that the trainer needs; safe to repeat.

        Raises:
            LaunchError: Something that a trainer needs is not there.
        """
        if not (self.base_run / STATE_FILE).is_file():
            raise LaunchError(f"{self.base_run} is no folder of a training run, so there is no base data set")
        folder = self.folder(run.run_id)
        options: dict[str, object] = {
            "--examples": folder / EXAMPLES_FILE,
            "--events": folder / EVENTS_FILE,
            "--run-dir": folder / RUN_DIR,
            "--run-id": run.run_id,
            "--repository": self.repository.absolute(),
            "--model": self.model,
        }
        described = [
            {
                "path": str(self.image_path(example.example_id).absolute()),
                "class": example.class_id,
                "sha256": example.example_id,
                "group": example.group,
            }
            for example in examples
        ]
        document = {"revision": _EXAMPLES_REVISION, "examples": described}
        files = {EXAMPLES_FILE: json.dumps(document, indent=1) + "\n"}
        if run.spec.gate_policy:
            files[GATE_POLICY_FILE] = run.spec.gate_policy
            options["--gate-policy"] = folder / GATE_POLICY_FILE
        if run.spec.WhichOneof("base") == "warm_start_version":
            options["--warm-start"] = self._warm_start(run.spec.warm_start_version).absolute()
        command = [self._command(), "retrain", str(self.base_run.absolute())]
        command += [f"--set={name}={value}" for name, value in sorted(run.spec.hyperparameters.items())]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                aside = folder / f".{name}"
                aside.write_text(text, encoding="utf-8", newline="")
                aside.replace(folder / name)
        except OSError as error:
            raise LaunchError(f"the folder of the run cannot be made: {error}") from error
        return Job(run.run_id, (*command, *(f"{name}={value}" for name, value in options.items())), folder)

    def versions(self) -> list[int]:
        """The versions that a warm start may begin from."""
        return [number for number in self._numbers() if self.run_dir(number) is not None]

    def run_dir(self, version: int) -> Path | None:
        """Folder of the run that has published a version; None where its weights are gone."""
        run_id = self._run_id(version)
        if not run_id:
            return None
        folders = [self.runs_dir / run_id / RUN_DIR]
        if self._base_run_id() == run_id:
            folders.append(self.base_run)
        return next((folder for folder in folders if (folder / CHECKPOINT).is_file()), None)

    def published_by(self, run_id: str) -> int:
        """The version that a run has published; 0 for none."""
        return next((n for n in reversed(self._numbers()) if self._run_id(n) == run_id), 0)

    def _command(self) -> str:
        found = shutil.which(Path(sys.executable).parent / self.trainer) or shutil.which(self.trainer)
        if found is None:
            raise LaunchError(
                f"there is no command {self.trainer!r}; install the extra trainer, or name a path"
            )
        return str(Path(found).absolute())

    def _warm_start(self, version: int) -> Path:
        run_dir = self.run_dir(version)
        if run_dir is None:
            raise LaunchError(f"the weights of version {version} are gone since it was asked for")
        return run_dir

    def _numbers(self) -> list[int]:
        with contextlib.suppress(RepositoryError, OSError):
            return ModelRepository(self.repository).versions(self.model)
        return []

    def _run_id(self, version: int) -> str:
        # A version never changes, so what its manifest says holds for ever.
        if version not in self._run_ids:
            try:
                manifest = read_manifest(ModelRepository(self.repository).path(self.model, version))
            except (ManifestError, RepositoryError, OSError):
                return ""
            self._run_ids[version] = manifest.lineage.run_id
        return self._run_ids[version]

    def _base_run_id(self) -> str:
        try:
            content = json.loads((self.base_run / STATE_FILE).read_text(encoding="utf-8"))
            return str(content["run_id"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""


def log_tail(folder: Path) -> str:
    """The last lines of a job's log; empty where there is none."""
    try:
        with (folder / LOG_FILE).open("rb") as log:
            size = log.seek(0, 2)
            log.seek(max(0, size - _TAIL_BYTES))
            # PostgreSQL holds no NUL.
            text = log.read().decode(errors="replace").replace("\0", "\ufffd")
    except OSError:
        return ""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(lines[-_TAIL_LINES:])
