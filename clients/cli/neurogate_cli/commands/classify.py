"""`neurogate classify`: any number of images, streamed, as a table, JSON lines or CSV."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from neurogate_client.errors import ImageUnreadableError
from neurogate_client.images import Frame, Image, LeftOut, folder_images, framed
from rich.cells import cell_len

from neurogate_cli import common
from neurogate_cli.render.output import print_line, progress, stderr, stdout
from neurogate_cli.render.predictions import Csv, JsonLines, Table

FEW = 8
"""Up to so many images are answered before a progress bar would be read."""


def classify(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH…", help="Images, folders (with all their sub-folders), or - for stdin."),
    ],
    *,
    target: common.Target = common.TARGET,
    tls: common.Tls = None,
    model_version: common.ModelVersion = None,
    label: common.Label = None,
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
    frame: common.Frame = None,
    max_image_bytes: common.MaxImageBytes = common.MAX_IMAGE_BYTES,
    timeout: common.Timeout = 60.0,
) -> None:
    """Classify images, in the order given and by one version.

    An image that cannot be classified is reported in its place; the others go on, and the status is 1.
    """
    if as_json and as_csv:
        common.fail("--json and --csv exclude each other", common.EXIT_USAGE)
    common.one_selector(model_version, label)
    if paths.count(common.STDIN) > 1:
        common.fail("stdin (-) can be read only once", common.EXIT_USAGE)
    left_out = common.LeftOutTally()
    count, longest = _survey(paths, left_out)
    left_out.report()
    if count == 0:
        common.fail(f"no images in {', '.join(paths)}")
    console, log = stdout(), stderr()
    form = JsonLines() if as_json else Csv() if as_csv else Table(console, top_k or 1, longest)
    # Where results and bar share a terminal, one console has to draw both.
    shared = console if log.is_terminal and console.is_terminal else log
    bar = progress("classifying", shared, enabled=count > FEW and log.is_terminal)
    failed = 0
    with (
        common.connected(target, tls, timeout, max_image_bytes) as client,
        bar,
        contextlib.closing(
            client.stream_classify(
                _images(paths, max_image_bytes, frame),
                version=model_version,
                label=label,
                top_k=top_k or 0,
                idle_timeout=timeout,
            )
        ) as results,
    ):
        task = bar.add_task("classifying", total=count)
        for number, result in enumerate(results):
            for line in [*(form.header() if number == 0 else []), *form.lines(result)]:
                if isinstance(line, str):
                    console.out(line, highlight=False)
                else:
                    print_line(console, line)
            failed += result.classification is None
            bar.advance(task)
    if failed:
        print_line(log, f"{failed} of {count} images have no answer", "red")
        raise typer.Exit(common.EXIT_FAILED)


def _images(paths: Iterable[str], limit: int, frame: int | None) -> Iterator[tuple[str, Image]]:
    for given in paths:
        pairs: Iterable[tuple[str, Image]] = [(given, given)]
        if given == common.STDIN:
            pairs = [(given, common.read_stdin(limit))]
        elif Path(given).is_dir():
            pairs = _folder(given)
        for key, image in pairs:
            yield key, Frame(framed(image)[0], frame) if frame else image


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
            folder = given != common.STDIN and Path(given).is_dir()
            for name in (key for key, _ in _folder(given, left_out)) if folder else [given]:
                count, longest = count + 1, max(longest, cell_len(name))
    except ImageUnreadableError as error:
        common.fail(error.message)
    return count, longest
