"""`neurogate demo`: data, training, servers and classified images, from nothing, in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from neurogate_client.client import Client
from neurogate_client.errors import NeurogateError
from rich.text import Text

from neurogate_cli.common import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    fail,
    own_name,
    printable,
    stderr,
    stdout,
)
from neurogate_cli.demo import folder as demo_run
from neurogate_cli.demo import loop as demo_loop
from neurogate_cli.demo.report import draw_evidence, show_samples, show_summary
from neurogate_cli.demo.steps import MODEL, Steps, environment, make_dicom, make_images, train_first
from neurogate_cli.local_stack import processes
from neurogate_cli.local_stack._version_files import published_versions
from neurogate_cli.local_stack.servers import NotServingError, Servers


def demo(
    *,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--dir",
            metavar="FOLDER",
            help="Where everything goes; nothing is written elsewhere. Default: demo, or demo-loop.",
            show_default=False,
        ),
    ] = None,
    whole_loop: Annotated[
        bool,
        typer.Option("--loop", help="A first version from few images, then upload, retraining, promotion."),
    ] = False,
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
    if whole_loop and (train_per_class or test_per_class):
        fail("--loop has sizes of its own", EXIT_USAGE)
    folder = folder or Path("demo-loop" if whole_loop else "demo")
    paths = demo_run.Paths(folder)
    log = stderr()
    steps = Steps(log)
    sizes = {"--train-per-class": train_per_class, "--test-per-class": test_per_class}
    try:
        with processes.Supervisor(env=environment(folder)) as supervisor:
            folder.mkdir(parents=True, exist_ok=True)
            if whole_loop:
                good = demo_loop.loop(supervisor, steps, paths)
            else:
                wanted = {key: value for key, value in sizes.items() if value is not None}
                _train(supervisor, steps, paths, wanted)
                good = _serve(supervisor, steps, paths)
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
    if whole_loop:
        demo_loop.tell_next(paths)
    else:
        _tell(paths)
    if not good:
        raise typer.Exit(EXIT_FAILED)


def _train(
    supervisor: processes.Supervisor, steps: Steps, paths: demo_run.Paths, sizes: dict[str, int]
) -> None:
    missing = demo_run.what_is_missing(paths, MODEL)
    if missing is None:
        versions = published_versions(paths.models, MODEL)
        steps.note(
            f"version {versions[-1]} and its data are there: nothing to make; "
            f"remove {paths.folder} for new ones"
        )
        return
    options = [part for key, value in sizes.items() for part in (key, str(value))]
    with steps.step(f"Data: a phantom data set in {paths.data}"):
        make_images(supervisor, paths.data, options)
    if missing is demo_run.Missing.IMAGES:
        return
    with steps.step(f"Training: a version of {MODEL} for {paths.models}"):
        train_first(supervisor, paths)


def _serve(supervisor: processes.Supervisor, steps: Steps, paths: demo_run.Paths) -> bool:
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
            if shows := draw_evidence(client, held_out, served, paths.evidence):
                stdout().print(f"\n{paths.evidence}: {shows}", soft_wrap=True, markup=False)
            if not paths.dicom.exists():
                make_dicom(supervisor, held_out[0].path, paths.dicom)
            answer = client.classify(paths.dicom, version=version)
            stdout().print(
                f"{paths.dicom}: {answer.top.class_id} ({answer.top.probability:.1%}), a slice as DICOM",
                soft_wrap=True,
                markup=False,
            )
        with steps.step(f"Accuracy: all {len(held_out)} held-out images, streamed"):
            answered = show_summary(stdout(), steps.log, client, held_out, served)
    return answered


def _tell(paths: demo_run.Paths) -> None:
    name = own_name()
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
