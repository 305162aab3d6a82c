"""`neurogate demo`: data, training, servers and classified images, from nothing, in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from neurogate_client import Client, NeurogateError

from neurogate_cli.common import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, fail
from neurogate_cli.demo import folder as demo_run
from neurogate_cli.demo.loop import loop
from neurogate_cli.demo.report import draw_evidence, show_samples, show_summary
from neurogate_cli.demo.steps import MODEL, Steps, environment, first_version, log_files, print_next
from neurogate_cli.local_stack import processes
from neurogate_cli.local_stack.servers import NotServingError, Servers
from neurogate_cli.render.output import own_name, print_line, stderr, stdout


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
                good = loop(supervisor, steps, paths)
            else:
                first_version(
                    supervisor,
                    steps,
                    paths,
                    data=f"Data: a phantom data set in {paths.data}",
                    training=f"Training: a version of {MODEL} for {paths.models}",
                    sizes=[f"{option}={value}" for option, value in sizes.items() if value is not None],
                )
                good = _serve(supervisor, steps, paths)
    except processes.Interrupted as stop:
        print_line(log, "")
        print_line(log, f"stopped by {stop}; the next run goes on from here", "yellow")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except processes.ChildFailedError as error:
        for line in error.child.tail:
            print_line(log, f"  {line}", "dim")
        fail(f"{error} (its last lines are above)")
    except (
        processes.MissingProgramError,
        NotServingError,
        demo_run.DemoError,
        NeurogateError,
        OSError,
    ) as error:
        fail(str(error))
    if not good:
        raise typer.Exit(EXIT_FAILED)


def _serve(supervisor: processes.Supervisor, steps: Steps, paths: demo_run.Paths) -> bool:
    held_out = demo_run.held_out_images(paths)
    version = demo_run.published_version(paths)
    servers = Servers(
        repository=paths.models,
        model=MODEL,
        port=processes.free_port(),
        model_server_port=processes.free_port(),
    )
    with log_files(paths.logs) as on_line, Client(servers.target) as client:
        with steps.step("Servers: model server and gateway on free ports of 127.0.0.1"):
            servers.start(supervisor, on_line)
            servers.wait_until_ready(supervisor, client)
            served = client.get_model_version(version)
        with steps.step("Answers: some held-out images of every class"):
            console = stdout()
            show_samples(console, client, held_out, version)
            console.print()
            if shows := draw_evidence(client, held_out, served, paths.evidence):
                print_line(console, f"{paths.evidence}: {shows}")
            if not paths.dicom.exists():
                # What it says of the file is said below.
                trainer = processes.program("neurogate-trainer")
                command = [trainer, "data", "dicom", str(held_out[0].path), str(paths.dicom)]
                supervisor.run("neurogate-trainer data dicom", command, on_line=on_line)
            answer = client.classify(paths.dicom, version=version).top
            print_line(
                console, f"{paths.dicom}: {answer.class_id} ({answer.probability:.1%}), a slice as DICOM"
            )
        with steps.step(f"Accuracy: all {len(held_out)} held-out images, streamed"):
            answered = show_summary(stdout(), steps.log, client, held_out, served)
    name, report = own_name(), paths.run / "report.html"
    print_next(
        [
            f"{name} up --repository {paths.models}",
            f"{name} classify {paths.data / 'Testing' / 'glioma'}      (from another terminal)",
            *([f"and look at {report}, the report of the training"] if report.exists() else []),
        ]
    )
    return answered
