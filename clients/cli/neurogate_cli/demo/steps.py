"""What both demos are made of: headings, the trainer's steps, logs of the servers, the last words."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from neurogate_cli.local_stack import processes
from neurogate_cli.render.output import duration, stdout

from .folder import Paths, has_version, held_out_images, published_version

MODEL = "brain_tumor"


class Steps:
    """Headings with the time that has passed."""

    def __init__(self, log: Console) -> None:
        self.log = log
        self._began = time.monotonic()
        self._number = 0

    def note(self, text: str) -> None:
        """A remark."""
        self.log.print(Text(text, style="dim"))

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        """One step, with its heading before and the time that it took after it."""
        self._number += 1
        heading = Text(f"{self._number}. {title}  [{duration(time.monotonic() - self._began)}]", style="bold")
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
    """Makes a phantom data set, or what is missing of it; raises as `Supervisor.run`."""
    trainer = processes.program("neurogate-trainer")
    supervisor.run("neurogate-trainer data phantom", [trainer, "data", "phantom", str(folder), *options])


def _train(supervisor: processes.Supervisor, paths: Paths) -> None:
    """Trains on the demo's data set and publishes the version; goes on where it was interrupted."""
    trainer = processes.program("neurogate-trainer")
    options = ["--repository", paths.models, "--model", MODEL, "--run-dir", paths.run, "--preset", "demo"]
    command = [trainer, "train", paths.data, *options, "--keep-given-test"]
    supervisor.run("neurogate-trainer train", [str(part) for part in command])


def first_version(
    supervisor: processes.Supervisor,
    steps: Steps,
    paths: Paths,
    *,
    data: str,
    training: str,
    sizes: Sequence[str],
) -> None:
    """Makes data and trains on them, in steps called `data` and `training`; what is there is reused."""
    trained = has_version(paths, MODEL)
    if trained and all(each.path.is_file() for each in held_out_images(paths)):
        version = published_version(paths)
        steps.note(
            f"version {version} and its data are there: nothing to make; remove {paths.folder} for new ones"
        )
        return
    with steps.step(data):
        make_images(supervisor, paths.data, sizes)
    if not trained:
        with steps.step(training):
            _train(supervisor, paths)


def print_next(lines: Sequence[str]) -> None:
    """What to do with what the demo leaves."""
    listed = "".join(f"    {line}\n" for line in lines)
    stdout().print(
        f"\nNext:\n{listed}\n"
        "Research software, not a medical device. The images are phantoms: how well a model does on them\n"
        "says nothing about patients.",
        soft_wrap=True,
        markup=False,
    )


@contextlib.contextmanager
def log_files(folder: Path) -> Iterator[Callable[[str, str], None]]:
    """Writes lines into one file a process, begun anew."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as files:
        opened: dict[str, TextIO] = {}

        def write(name: str, line: str) -> None:
            # Lines still arrive while the servers stop, after the files were closed.
            with contextlib.suppress(ValueError, OSError):
                if name not in opened:
                    opened[name] = files.enter_context(
                        (folder / f"{name}.log").open("w", encoding="utf-8", errors="backslashreplace")
                    )
                opened[name].write(f"{line}\n")
                opened[name].flush()

        yield write
