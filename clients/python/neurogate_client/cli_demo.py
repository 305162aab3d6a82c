"""`neurogate demo`: data, training, servers and classified images, from nothing, in one command."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from neurogate_client import demo_run, processes
from neurogate_client.cli_common import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    fail,
    own_name,
    printable,
    stderr,
    stdout,
)
from neurogate_client.cli_demo_report import show_samples, show_summary
from neurogate_client.client import Client
from neurogate_client.errors import NeurogateError
from neurogate_client.servers import NotServingError, Servers, published_versions

MODEL = "brain_tumor"


def demo(
    *,
    folder: Annotated[
        Path,
        typer.Option("--dir", metavar="FOLDER", help="Where everything goes; nothing is written elsewhere."),
    ] = Path("demo"),
    train_per_class: Annotated[
        int | None,
        typer.Option(
            "--train-per-class", min=8, metavar="N", help="Training images a class.", show_default=False
        ),
    ] = None,
    test_per_class: Annotated[
        int | None,
        typer.Option(
            "--test-per-class", min=1, metavar="N", help="Held-out images a class.", show_default=False
        ),
    ] = None,
) -> None:
    """Make a phantom data set, train on it, serve the model and classify the held-out images.

    A second run reuses what is there and takes seconds; an interrupted one goes on where it was.
    """
    log = stderr()
    steps = _Steps(log)
    sizes = {"--train-per-class": train_per_class, "--test-per-class": test_per_class}
    try:
        with processes.Supervisor(env=_environment(folder)) as supervisor:
            folder.mkdir(parents=True, exist_ok=True)
            _train(
                supervisor, steps, folder, {key: value for key, value in sizes.items() if value is not None}
            )
            answered = _serve(supervisor, steps, folder)
    except processes.Interrupted as stop:
        log.print(f"\nstopped by {stop}; the next run goes on from here", style="yellow")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except processes.ChildFailedError as error:
        for line in error.child.tail:
            log.print(Text(f"  {printable(line)}", style="dim"), soft_wrap=True)
        fail(f"{error} (its last lines are above)")
    except (
        processes.MissingProgramError,
        NotServingError,
        demo_run.DemoError,
        NeurogateError,
        OSError,
    ) as error:
        fail(str(error))
    _tell(folder)
    if not answered:
        raise typer.Exit(EXIT_FAILED)


def _train(supervisor: processes.Supervisor, steps: _Steps, folder: Path, sizes: dict[str, int]) -> None:
    paths = demo_run.Paths(folder)
    missing = demo_run.what_is_missing(paths, MODEL)
    if missing is None:
        versions = published_versions(paths.models, MODEL)
        steps.note(
            f"version {versions[-1]} and its data are there: nothing to make; remove {folder} for new ones"
        )
        return
    trainer = processes.program("neurogate-trainer")
    options = [part for key, value in sizes.items() for part in (key, str(value))]
    with steps.step(f"Data: a phantom data set in {paths.data}"):
        supervisor.run(
            "neurogate-trainer data phantom", [trainer, "data", "phantom", str(paths.data), *options]
        )
    if missing is demo_run.Missing.IMAGES:
        return
    with steps.step(f"Training: a version of {MODEL} for {paths.models}"):
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
            ],
        )


def _serve(supervisor: processes.Supervisor, steps: _Steps, folder: Path) -> bool:
    paths = demo_run.Paths(folder)
    held_out = demo_run.held_out_images(paths)
    version = demo_run.published_version(paths)
    servers = Servers(
        repository=paths.models,
        model=MODEL,
        port=processes.free_port(),
        model_server_port=processes.free_port(),
    )
    with demo_run.log_files(paths.logs) as on_line, Client(servers.target) as client:
        with steps.step("Servers: model server and gateway on free ports of 127.0.0.1"):
            servers.start(supervisor, on_line)
            servers.wait_until_ready(supervisor, client)
            served = client.get_model_version(version)
        with steps.step("Answers: some held-out images of every class"):
            show_samples(stdout(), client, held_out, version)
        with steps.step(f"Accuracy: all {len(held_out)} held-out images, streamed"):
            answered = show_summary(stdout(), steps.log, client, held_out, served)
    return answered


class _Steps:
    """Headings with the time that has passed."""

    def __init__(self, log: Console) -> None:
        self.log = log
        self._began = time.monotonic()
        self._number = 0

    def note(self, text: str) -> None:
        self.log.print(Text(text, style="dim"))

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        self._number += 1
        self.log.print(
            Rule(
                Text(f"{self._number}. {title}  [{_clock(time.monotonic() - self._began)}]", style="bold"),
                align="left",
                style="cyan",
            )
        )
        began = time.monotonic()
        yield
        self.note(f"took {time.monotonic() - began:.1f} s")


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _environment(folder: Path) -> dict[str, str]:
    """Sends what the trainer caches into the demo's folder."""
    cache = (folder / "cache").resolve()
    wanted = {"NEUROGATE_CACHE": cache, "MPLCONFIGDIR": cache / "matplotlib"}
    # Keras looks there for weights that were downloaded before, so an existing folder stays in use.
    if not (Path.home() / ".keras").exists():
        wanted["KERAS_HOME"] = cache / "keras"
    return {name: str(path) for name, path in wanted.items()}


def _tell(folder: Path) -> None:
    paths, name = demo_run.Paths(folder), own_name()
    report = paths.run / "report.html"
    stdout().print(
        "\nNext:\n"
        f"    {name} up --repository {paths.models}\n"
        f"    {name} classify {paths.data / 'Testing' / 'glioma'}      (from another terminal)\n"
        + (f"    and look at {report}, the report of the training\n" if report.exists() else "")
        + "\n"
        "Research software, not a medical device. The images are phantoms: how well a model does on them\n"
        "says nothing about patients.",
        soft_wrap=True,
        markup=False,
    )
