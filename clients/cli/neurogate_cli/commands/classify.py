"""`neurogate classify`: any number of images, streamed, as a table, JSON lines or CSV."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from neurogate_client._channel import DEFAULT_MAX_IMAGE_BYTES
from neurogate_client.errors import ImageUnreadableError
from neurogate_client.images import Frame, Image, LeftOut, folder_images, framed
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from neurogate_cli.common import (
    DEFAULT_TARGET,
    EXIT_FAILED,
    EXIT_USAGE,
    FrameOption,
    LabelOption,
    LeftOutTally,
    MaxImageBytesOption,
    ModelVersionOption,
    TargetOption,
    TimeoutOption,
    TlsOption,
    connected,
    fail,
    stderr,
    stdout,
)
from neurogate_cli.render.predictions import Csv, JsonLines, Table

FEW = 8
"""Up to so many images are answered before a progress bar would be read."""

STDIN = "-"

Show = Callable[[str | Text], None]


def classify(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH…", help="Images, folders (with all their sub-folders), or - for stdin."),
    ],
    *,
    target: TargetOption = DEFAULT_TARGET,
    tls: TlsOption = None,
    model_version: ModelVersionOption = None,
    label: LabelOption = None,
    top_k: Annotated[
        int | None,
        typer.Option(
            "--top-k",
            min=1,
            metavar="K",
            help="Classes per image. By default the first in the table, all in JSON.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV with a header.")] = False,
    frame: FrameOption = None,
    max_image_bytes: MaxImageBytesOption = DEFAULT_MAX_IMAGE_BYTES,
    timeout: TimeoutOption = 60.0,
) -> None:
    """Classify images, in the order given and by one version.

    An image that cannot be classified is reported in its place; the others go on, and the status is 1.
    """
    if as_json and as_csv:
        fail("--json and --csv exclude each other", EXIT_USAGE)
    if model_version is not None and label is not None:
        fail("--model-version and --label exclude each other", EXIT_USAGE)
    if paths.count(STDIN) > 1:
        fail("stdin (-) can be read only once", EXIT_USAGE)
    left_out = LeftOutTally()
    count, longest = _survey(paths, left_out)
    left_out.tell()
    if count == 0:
        fail(f"no images in {', '.join(paths)}")
    console = stdout()
    form = JsonLines() if as_json else Csv() if as_csv else Table(console, top_k or 1, longest)
    failed = 0
    with (
        connected(target, tls, timeout, max_image_bytes) as client,
        _printer(console, count) as (show, step),
        contextlib.closing(
            client.stream_classify(
                _frames(_images(paths, max_image_bytes), frame),
                version=model_version,
                label=label,
                top_k=top_k or 0,
                idle_timeout=timeout,
            )
        ) as results,
    ):
        for number, result in enumerate(results):
            for line in [*(form.header() if number == 0 else []), *form.lines(result)]:
                show(line)
            failed += result.classification is None
            step()
    if failed:
        stderr().print(f"{failed} of {count} images have no answer", style="red")
        raise typer.Exit(EXIT_FAILED)


def _frames(images: Iterable[tuple[str, Image]], number: int | None) -> Iterator[tuple[str, Image]]:
    for key, image in images:
        yield key, Frame(framed(image)[0], number) if number else image


def _images(paths: Iterable[str], limit: int) -> Iterator[tuple[str, Image]]:
    for given in paths:
        if given == STDIN:
            # One byte more than the limit shows that there is too much, without reading it all.
            yield STDIN, sys.stdin.buffer.read(limit + 1)
        elif Path(given).is_dir():
            yield from _folder(given)
        else:
            yield given, given


def _folder(given: str, left_out: LeftOut | None = None) -> Iterator[tuple[str, Image]]:
    try:
        for key, image in folder_images(given, left_out=left_out):
            yield str(Path(given) / key), image
    except OSError as error:
        raise ImageUnreadableError(
            f"cannot read the folder {error.filename}: {error.strerror}", reason="IMAGE_UNREADABLE"
        ) from error


def _survey(paths: Iterable[str], left_out: LeftOut) -> tuple[int, int]:
    """Number of images and length of the longest name, found without holding the names."""
    count = longest = 0
    try:
        for given in paths:
            if given != STDIN and Path(given).is_dir():
                for name, _ in _folder(given, left_out):
                    count, longest = count + 1, max(longest, cell_len(name))
            else:
                count, longest = count + 1, max(longest, cell_len(given))
    except ImageUnreadableError as error:
        fail(error.message)
    return count, longest


@contextlib.contextmanager
def _printer(console: Console, count: int) -> Iterator[tuple[Show, Callable[[], object]]]:
    """How lines are shown, and what to call after each image. A bar is drawn only where somebody sees it."""

    def show(line: str | Text) -> None:
        if isinstance(line, Text):
            console.print(line, soft_wrap=True)
        else:
            console.out(line, highlight=False)

    errors = stderr()
    if count <= FEW or not errors.is_terminal:
        yield show, lambda: None
        return
    # Where results and bar share a terminal, one console has to draw both.
    bar = Progress(
        TextColumn("classifying"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console if console.is_terminal else errors,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    with bar:
        task = bar.add_task("classifying", total=count)
        yield show, lambda: bar.advance(task)
