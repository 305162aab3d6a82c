"""What the commands share: where the gateway is, how failures end, how names are shown."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from neurogate.command import PLAIN
from neurogate_client import errors
from neurogate_client._channel import DEFAULT_MAX_IMAGE_BYTES
from neurogate_client.client import Client
from neurogate_client.results import Verdict
from neurogate_client.results_models import VersionState
from rich.console import Console
from rich.text import Text

EXIT_FAILED = 1
"""Something has no answer, or is not healthy."""
EXIT_USAGE = 2
"""The command was used wrongly."""
EXIT_UNREACHABLE = 3
"""No gateway could be asked: nothing there, not ready, overloaded, or too slow."""
EXIT_INTERRUPTED = 130
"""Ended by Ctrl-C."""

TargetOption = Annotated[
    str,
    typer.Option(
        "--target", "-t", envvar="NEUROGATE_TARGET", metavar="HOST:PORT", help="Where the gateway is."
    ),
]
TlsOption = Annotated[
    bool | None,
    typer.Option(
        "--tls/--plaintext",
        envvar="NEUROGATE_TLS",
        help="Encrypt or not; has to be said for a gateway on another machine.",
        show_default=False,
    ),
]
ModelVersionOption = Annotated[
    int | None,
    typer.Option(
        "--model-version", min=1, metavar="N", help="Version that is to answer.", show_default=False
    ),
]
LabelOption = Annotated[
    str | None,
    typer.Option("--label", help="Or its label: stable (the default), latest, …", show_default=False),
]
FrameOption = Annotated[
    int | None,
    typer.Option(
        "--frame",
        min=1,
        metavar="N",
        help="Which frame of DICOM files that have several, from 1.",
        show_default=False,
    ),
]

MaxImageBytesOption = Annotated[
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
TimeoutOption = Annotated[float, typer.Option("--timeout", min=0.001, metavar="SECONDS", help="Patience.")]

DEFAULT_TARGET = "localhost:50051"

_FILE_WIDTH = 180

VERDICT_STYLES = {
    Verdict.CONFIDENT: "green",
    Verdict.ABSTAIN: "yellow",
    Verdict.OUT_OF_DISTRIBUTION: "magenta",
    Verdict.UNKNOWN: "dim",
}
STATE_STYLES = {VersionState.READY: "green", VersionState.REJECTED: "red", VersionState.RETIRED: "dim"}


def stderr() -> Console:
    """Where everything goes that is no result."""
    return Console(stderr=True, highlight=False)


def stdout() -> Console:
    """Where results go. Names may hold bytes that are no text; they must not end the output."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors=PLAIN)
    # A file is as wide as its tables; only terminals make them narrow.
    wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _FILE_WIDTH
    return Console(highlight=False, width=wide)


def printable(text: str) -> str:
    """A name as it may be shown: control characters, which could drive the terminal, as escapes."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape", "backslashreplace").decode()
        for each in text
    )


def cell(text: str, style: str = "") -> Text:
    """Text for a table, taken literally."""
    return Text(printable(text), style=style)


class LeftOutTally:
    """What was left out of folders: how many files by reason, and one of each."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._examples: dict[str, Path] = {}

    def __call__(self, path: Path, why: str) -> None:
        """Counts one."""
        self.counts[why] += 1
        self._examples.setdefault(why, path)

    def tell(self) -> None:
        """One line for each reason, on stderr."""
        for why, count in self.counts.most_common():
            line = f"left out {count:,}: {why}, e.g. {self._examples[why]}"
            stderr().print(cell(line, "yellow"), soft_wrap=True)


def own_name() -> str:
    """How to call this command again: its name where the shell finds it, and else its path."""
    found = shutil.which("neurogate")
    called = Path(sys.argv[0])
    if called.name != "neurogate" or (found is not None and called.exists() and called.samefile(found)):
        return "neurogate"
    return str(called)


def fail(message: str, status: int = EXIT_FAILED) -> NoReturn:
    """Says on stderr what went wrong and ends the command."""
    lines = "\n".join(printable(line) for line in message.split("\n"))
    stderr().print(Text.assemble(("error:", "bold red"), " ", lines), soft_wrap=True)
    raise typer.Exit(status)


@contextlib.contextmanager
def connected(
    target: str, tls: bool | None, timeout: float, max_image_bytes: int = DEFAULT_MAX_IMAGE_BYTES
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
    except (errors.UnavailableError, errors.OverloadedError, errors.DeadlineExceededError) as error:
        fail(_with_reason(error), EXIT_UNREACHABLE)
    except errors.NeurogateError as error:
        fail(_with_reason(error))
    except ValueError as error:
        fail(str(error), EXIT_USAGE)


def _with_reason(error: errors.NeurogateError) -> str:
    wait = f"; try again in {error.retry_after:g} s" if error.retry_after is not None else ""
    return f"{error.message} ({error.reason or error.code.name}){wait}"
