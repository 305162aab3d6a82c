"""What the commands share: their options, the connection to the gateway, and how failures end."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from neurogate_client import errors
from neurogate_client.client import Client
from neurogate_client.images import DEFAULT_MAX_IMAGE_BYTES
from rich.text import Text

from .render.output import own_name, print_line, printable, stderr

EXIT_FAILED = 1
"""Something has no answer, or is not healthy."""
EXIT_USAGE = 2
"""The command was used wrongly."""
EXIT_UNREACHABLE = 3
"""No gateway could be asked: nothing there, not ready, overloaded, or too slow."""
EXIT_INTERRUPTED = 130
"""Ended by Ctrl-C."""

TARGET = "localhost:50051"
MAX_IMAGE_BYTES = DEFAULT_MAX_IMAGE_BYTES
STDIN = "-"

Target = Annotated[
    str,
    typer.Option(
        "--target", "-t", envvar="NEUROGATE_TARGET", metavar="HOST:PORT", help="Where the gateway is."
    ),
]
Tls = Annotated[
    bool | None,
    typer.Option(
        "--tls/--plaintext",
        envvar="NEUROGATE_TLS",
        help="Encrypt or not; has to be said for a gateway on another machine.",
        show_default=False,
    ),
]
ModelVersion = Annotated[
    int | None,
    typer.Option(
        "--model-version", min=1, metavar="N", help="Version that is to answer.", show_default=False
    ),
]
Label = Annotated[
    str | None,
    typer.Option("--label", help="Or its label: stable (the default), latest, …", show_default=False),
]
Frame = Annotated[
    int | None,
    typer.Option(
        "--frame",
        min=1,
        metavar="N",
        help="Which frame of DICOM files that have several, from 1.",
        show_default=False,
    ),
]
MaxImageBytes = Annotated[
    int,
    typer.Option(
        "--max-image-bytes",
        envvar="NEUROGATE_MAX_IMAGE_BYTES",
        min=1,
        max=2**30,
        metavar="N",
        help="Largest image to send; as the gateway's setting of that name.",
    ),
]
Timeout = Annotated[float, typer.Option("--timeout", min=0.001, metavar="SECONDS", help="Patience.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
JsonLines = Annotated[bool, typer.Option("--json", help="As JSON; what is followed, one event a line.")]
Reason = Annotated[
    str, typer.Option("--reason", "-m", metavar="TEXT", help="Why, for the record.", show_default=False)
]
PredictionId = Annotated[str, typer.Argument(metavar="PREDICTION_ID", help="Of the answer that was given.")]


class LeftOutTally:
    """What was left out of folders: how many files by reason, and one of each."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._examples: dict[str, Path] = {}

    def __call__(self, path: Path, why: str) -> None:
        """Counts one."""
        self.counts[why] += 1
        self._examples.setdefault(why, path)

    def report(self) -> None:
        """One line for each reason, on stderr."""
        for why, count in self.counts.most_common():
            print_line(stderr(), f"left out {count:,}: {why}, e.g. {self._examples[why]}", "yellow")


def read_stdin(limit: int) -> bytes:
    """An image from stdin. One byte more than the limit shows that there is too much."""
    return sys.stdin.buffer.read(limit + 1)


def one_selector(model_version: int | None, label: str | None) -> None:
    """Ends the command where both a version and a label are asked for."""
    if model_version is not None and label is not None:
        fail("--model-version and --label exclude each other", EXIT_USAGE)


def fail(message: str, status: int = EXIT_FAILED) -> NoReturn:
    """Says on stderr what went wrong and ends the command."""
    lines = "\n".join(printable(line) for line in message.split("\n"))
    print_line(stderr(), Text.assemble(("error:", "bold red"), " ", lines))
    raise typer.Exit(status)


@contextlib.contextmanager
def connected(
    target: str, tls: bool | None, timeout: float, max_image_bytes: int = MAX_IMAGE_BYTES
) -> Iterator[Client]:
    """A client; failures of whole calls inside of the block end the command with their exit status."""
    try:
        client = Client(target, tls=tls, timeout=timeout, max_image_bytes=max_image_bytes)
    except ValueError as error:
        fail(str(error).replace("tls=True", "--tls").replace("tls=False", "--plaintext"), EXIT_USAGE)
    try:
        with client:
            yield client
    except errors.GatewayUnreachableError as error:
        fail(f"{error.message}\nIs it running? `{own_name()} up` starts one here.", EXIT_UNREACHABLE)
    except errors.NeurogateError as error:
        wait = f"; try again in {error.retry_after:g} s" if error.retry_after is not None else ""
        later = (errors.UnavailableError, errors.OverloadedError, errors.DeadlineExceededError)
        status = EXIT_UNREACHABLE if isinstance(error, later) else EXIT_FAILED
        fail(f"{error.message} ({error.reason or error.code.name}){wait}", status)
    except ValueError as error:
        fail(str(error), EXIT_USAGE)
