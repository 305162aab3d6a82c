"""Headings, environment and trainer of both demos."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from neurogate_cli.local_stack import processes
from neurogate_cli.render.tables import duration

from .folder import Paths

MODEL = "brain_tumor"


class Steps:
    """Headings with the time that has passed."""

    def __init__(self, log: Console) -> None:
        self.log = log
        self._began = time.monotonic()
        self._number = 0

    @property
    def seconds(self) -> float:
        """Time since the beginning."""
        return time.monotonic() - self._began

    def note(self, text: str) -> None:
        """A remark."""
        self.log.print(Text(text, style="dim"))

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        """One step, with its heading before and the time that it took after it."""
        self._number += 1
        heading = Text(f"{self._number}. {title}  [{duration(self.seconds)}]", style="bold")
        self.log.print(Rule(heading, align="left", style="cyan"))
        began = time.monotonic()
        yield
        self.note(f"took {time.monotonic() - began:.1f} s")


def environment(folder: Path) -> dict[str, str]:
    """Sends what the trainer caches into the demo's folder."""
    cache = (folder / "cache").resolve()
    wanted = {"NEUROGATE_CACHE": cache, "MPLCONFIGDIR": cache / "matplotlib"}
    # Keras looks there for weights that were downloaded before, so an existing folder stays in use.
    if not (Path.home() / ".keras").exists():
        wanted["KERAS_HOME"] = cache / "keras"
    return {name: str(path) for name, path in wanted.items()}


def make_images(supervisor: processes.Supervisor, folder: Path, options: Sequence[str]) -> None:
    """Makes a phantom data set, or what is missing of it.

    Raises:
        MissingProgramError: the trainer is not installed.
        ChildFailedError: it has failed.
    """
    trainer = processes.program("neurogate-trainer")
    supervisor.run("neurogate-trainer data phantom", [trainer, "data", "phantom", str(folder), *options])


def make_dicom(supervisor: processes.Supervisor, image: Path, dicom: Path) -> None:
    """Writes an image as a DICOM file; raises as `make_images`."""
    trainer = processes.program("neurogate-trainer")
    supervisor.run("neurogate-trainer data dicom", [trainer, "data", "dicom", str(image), str(dicom)])


def train_first(supervisor: processes.Supervisor, paths: Paths, options: Sequence[str] = ()) -> None:
    """Trains on the demo's data set and publishes the version; goes on where it was interrupted.

    Raises:
        MissingProgramError: the trainer is not installed.
        ChildFailedError: it has failed.
    """
    trainer = processes.program("neurogate-trainer")
    supervisor.run(
        "neurogate-trainer train",
        [
            trainer,
            "train",
            str(paths.data),
            "--repository",
            str(paths.models),
            "--model",
            MODEL,
            "--run-dir",
            str(paths.run),
            "--preset",
            "demo",
            "--keep-given-test",
            *options,
        ],
    )
