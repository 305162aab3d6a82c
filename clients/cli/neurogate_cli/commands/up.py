"""`neurogate up`: the embedded model server and a gateway on this machine, until Ctrl-C."""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from neurogate_client import Client
from rich.console import Console
from rich.text import Text

from neurogate_cli.common import EXIT_INTERRUPTED, EXIT_USAGE, fail
from neurogate_cli.local_stack import processes
from neurogate_cli.local_stack.servers import (
    EVALUATION,
    GATEWAY,
    MANUAL,
    MODEL_SERVER,
    RELEASE_MODES,
    NotServingError,
    Servers,
    published_versions,
)
from neurogate_cli.render.output import own_name, print_line, printable, stderr, stdout

PREFIX_STYLES = {MODEL_SERVER: "magenta", GATEWAY: "cyan"}


def up(
    *,
    repository: Annotated[
        Path, typer.Option("--repository", "-r", metavar="FOLDER", help="Model repository.")
    ] = Path("demo/models"),
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="Model in the repository.")
    ] = "brain_tumor",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port of the gateway.")] = 50051,
    model_server_port: Annotated[
        int, typer.Option("--model-server-port", min=1, max=65535, help="Port of the model server.")
    ] = 8500,
    model_server_command: Annotated[
        str | None,
        typer.Option(
            "--model-server-command",
            metavar="COMMAND",
            help="What starts the model server, such as tensorflow_model_server; default: the embedded one.",
            show_default=False,
        ),
    ] = None,
    release_mode: Annotated[
        str,
        typer.Option(
            "--release-mode",
            metavar="MODE",
            help="How versions become stable: latest, manual (you promote) or gated (the gate does).",
        ),
    ] = MANUAL,
    records: Annotated[
        Path | None,
        typer.Option(
            "--records",
            metavar="FOLDER",
            help="Examples and retrainings; default: records beside the repository.",
            show_default=False,
        ),
    ] = None,
    base_run: Annotated[
        Path | None,
        typer.Option(
            "--base-run",
            metavar="FOLDER",
            help="Run that retrainings build on; default: run beside the repository, where there is one.",
            show_default=False,
        ),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option("--policy", metavar="TOML", help="What gate and guards ask for.", show_default=False),
    ] = None,
) -> None:
    """Start a model server and a gateway on this machine, and stop both with one Ctrl-C.

    Exit status: 0 when both were stopped in order, 130 when a second Ctrl-C killed them, 1 when one of them
    ended by itself, so that the other was stopped.
    """
    if release_mode not in RELEASE_MODES:
        fail(f"--release-mode {release_mode}: there are {', '.join(RELEASE_MODES)}", EXIT_USAGE)
    if base_run is not None and not _readable(base_run / EVALUATION):
        fail(
            f"{base_run} is no run folder with a list of sealed images ({EVALUATION}) that can be read",
            EXIT_USAGE,
        )
    if policy is not None and not _readable(policy):
        fail(f"there is no policy file {policy} that can be read", EXIT_USAGE)
    command = shlex.split(model_server_command or "")
    if command and shutil.which(command[0]) is None:
        fail(f"--model-server-command: there is no program {command[0]}", EXIT_USAGE)
    if port == model_server_port:
        fail(f"gateway and model server cannot share port {port}", EXIT_USAGE)
    try:
        versions = published_versions(repository, model)
    except (processes.MissingProgramError, NotServingError) as error:
        fail(str(error), EXIT_USAGE)
    if not versions:
        fail(
            f"there is no version of {model} in {repository}; make one with `{own_name()} demo` or "
            "`neurogate-trainer train`, or name another folder with --repository",
            EXIT_USAGE,
        )
    for number, option in ((port, "--port"), (model_server_port, "--model-server-port")):
        if not processes.port_is_free(number):
            fail(f"port {number} is taken; choose another with {option}", EXIT_USAGE)
    log = stderr()
    beside = repository.absolute().parent
    if base_run is None:
        base_run = _run_beside(beside, log)
    sealed = (base_run or beside / "run") / EVALUATION
    servers = Servers(
        repository=repository,
        model=model,
        port=port,
        model_server_port=model_server_port,
        release_mode=release_mode,
        records=records or beside / "records",
        evaluation=sealed if _readable(sealed) else None,
        base_run=base_run,
        policy=policy,
        model_server_command=tuple(command),
    )
    _serve(servers, log)


def _serve(servers: Servers, log: Console) -> None:
    supervisor = processes.Supervisor()
    try:
        with supervisor:
            servers.start(supervisor, prefixed(log))
            with Client(servers.target) as client:
                _tell(servers, servers.wait_until_ready(supervisor, client))
            while True:
                supervisor.check()
                time.sleep(0.2)
    except processes.Interrupted:
        if supervisor.hurried:
            fail("what had not stopped yet was killed by another signal", EXIT_INTERRUPTED)
        print_line(log, "stopped", "dim")
    except processes.ChildFailedError as error:
        fail(f"{error}; everything was stopped")
    except (processes.MissingProgramError, NotServingError, OSError) as error:
        fail(str(error))


def _run_beside(folder: Path, log: Console) -> Path | None:
    """The run that the demo leaves beside its repository, where retrainings can build on it."""
    run = folder / "run"
    if not _readable(run / EVALUATION):
        locked = os.path.lexists(run) and not os.access(run, os.X_OK)
        if locked or os.path.lexists(run / EVALUATION):
            print_line(log, f"no retraining and no gate here: {run} cannot be read", "yellow")
        return None
    try:
        processes.program("neurogate-trainer")
    except processes.MissingProgramError as error:
        print_line(log, f"no retraining here: {error}", "yellow")
        return None
    return run


def _readable(path: Path) -> bool:
    # Unlike Path.is_file, these say no where the folder cannot be looked into.
    return os.path.isfile(path) and os.access(path, os.R_OK)  # noqa: PTH113


def prefixed(log: Console) -> Callable[[str, str], None]:
    """Writes lines with the name of who wrote them in front."""
    width = max(map(len, PREFIX_STYLES))

    def write(name: str, line: str) -> None:
        print_line(log, Text.assemble((f"{name:{width}} │ ", PREFIX_STYLES.get(name, "")), printable(line)))

    return write


def _tell(servers: Servers, version: int) -> None:
    option = "" if servers.port == 50051 else f" --target {servers.target}"
    name = own_name()
    stdout().print(
        f"\nReady: {servers.model} version {version} at {servers.target} (model server: port "
        f"{servers.model_server_port}). From another terminal:\n\n"
        f"    {name} classify{option} PATH…\n"
        f"    {name} versions{option} --watch\n"
        f"    {name} upload{option} FOLDER && {name} retrain{option}\n\n"
        f'    from neurogate_client import Client\n    Client("{servers.target}").classify("slice.jpg")\n\n'
        "Ctrl-C stops both.\n",
        soft_wrap=True,
        markup=False,
    )
