"""`neurogate upload`: labelled images for the next version."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import typer
from neurogate_client import Client, Frame, LabelledImage, NeurogateError, UploadResult, labelled_images
from neurogate_client.images import framed, load_image
from rich.console import Console

from neurogate_cli import common
from neurogate_cli.render.output import cell, plain, print_json, progress, stderr, stdout, tell

SHOWN_REFUSALS = 20
SPLITS = frozenset({"test", "testing", "train", "training", "val", "valid", "validation"})
"""Names of folders that hold class folders and are none, in lower case."""
_PAGE = 500


@dataclass(slots=True)
class Tally:
    """What became of the images of an upload, by class.

    Attributes:
        kept: new ones.
        there: those that were there already.
        refused: those that were not taken, with the reason.
    """

    kept: Counter[str] = field(default_factory=Counter)
    there: Counter[str] = field(default_factory=Counter)
    refused: list[UploadResult] = field(default_factory=list)

    def add(self, result: UploadResult) -> None:
        """Counts one result."""
        if result.error is not None:
            self.refused.append(result)
        elif result.duplicate and not result.resent:
            self.there[result.class_id] += 1
        else:
            self.kept[result.class_id] += 1


def upload(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of class folders.")],
    *,
    target: common.Target = common.TARGET,
    tls: common.Tls = None,
    as_json: Annotated[bool, typer.Option("--json", help="The summary as JSON.")] = False,
    frame: common.Frame = None,
    max_image_bytes: common.MaxImageBytes = common.MAX_IMAGE_BYTES,
    timeout: common.Timeout = 60.0,
) -> None:
    """Send labelled images for retraining; the names of the folders in FOLDER are their classes.

    Files that are no images are left out and counted. What is there already is not sent again, so the same
    command goes on after an interruption. An image that is refused is reported, the others go on, and the
    status is 1.
    """
    left_out = common.LeftOutTally()
    images = _images(folder, left_out)
    if frame:
        images = [replace(image, image=Frame(framed(image.image)[0], frame)) for image in images]
    console, tally = stdout(), Tally()
    with common.connected(target, tls, timeout, max_image_bytes) as client:
        try:
            send(client, images, tally, limit=max_image_bytes, timeout=timeout)
        except KeyboardInterrupt:
            kept = tally.kept.total()
            tell(stderr(), f"stopped: {kept} images are kept; the same command goes on from here", "yellow")
            raise typer.Exit(common.EXIT_INTERRUPTED) from None
        totals = client.list_examples(page_size=1).total_by_class
    if as_json:
        summary = {
            "kept": tally.kept,
            "duplicates": tally.there,
            "refused": [
                {
                    "image": each.key,
                    "class_id": each.class_id,
                    "reason": each.error.reason,
                    "message": each.error.message,
                }
                for each in tally.refused
                if each.error is not None
            ],
            "left_out": left_out.counts,
            "total_by_class": totals,
        }
        print_json(console, summary)
    else:
        show_upload(console, tally, totals)
    if tally.refused:
        raise typer.Exit(common.EXIT_FAILED)


def _images(folder: Path, left_out: common.LeftOutTally) -> list[LabelledImage]:
    # Paths only; the images themselves are read as they are sent.
    try:
        images = list(labelled_images(folder, left_out=left_out))
    except ValueError as error:
        common.fail(str(error), common.EXIT_USAGE)
    except OSError as error:
        common.fail(f"cannot read the folder {error.filename}: {error.strerror}", common.EXIT_USAGE)
    left_out.tell()
    if not images:
        common.fail(f"no images in class folders of {folder}")
    if splits := sorted({each.class_id for each in images if each.class_id.lower() in SPLITS}):
        common.fail(
            f"{folder} holds splits ({', '.join(splits)}) and no classes; give one: {folder / splits[-1]}",
            common.EXIT_USAGE,
        )
    return images


def _known(client: Client) -> dict[str, str]:
    """Class by digest, of what was sent and of what is kept, of every example."""
    known: dict[str, str] = {}
    token = ""
    while True:
        page = client.list_examples(page_size=_PAGE, page_token=token)
        for each in page.examples:
            known[each.sent_sha256 or each.example_id] = known[each.example_id] = each.class_id
        token = page.next_page_token
        if not token:
            return known


def send(
    client: Client,
    images: list[LabelledImage],
    tally: Tally,
    *,
    limit: int = common.MAX_IMAGE_BYTES,
    timeout: float = 60.0,
) -> None:
    """Sends what is not there yet, with a progress bar where somebody sees it."""
    known = _known(client)
    with progress("uploading", stderr()) as bar:
        task = bar.add_task("uploading", total=len(images))

        def unknown() -> Iterator[LabelledImage]:
            for image in images:
                if known and known.get(_digest(image, limit)) == image.class_id:
                    tally.there[image.class_id] += 1
                    bar.advance(task)
                else:
                    yield image

        with contextlib.closing(client.upload_examples(unknown(), idle_timeout=timeout)) as results:
            for result in results:
                tally.add(result)
                bar.advance(task)


def _digest(image: LabelledImage, limit: int) -> str:
    # What cannot be read is sent, and refused with its reason.
    try:
        return hashlib.sha256(load_image(image.image, limit)).hexdigest()
    except NeurogateError:
        return ""


def show_upload(console: Console, tally: Tally, totals: Mapping[str, int]) -> None:
    """What became of the images, and how many of each class there are now."""
    refused = Counter(each.class_id for each in tally.refused)
    figures = ("new", "there already", "refused", "kept in all")
    table = plain("class", *figures, right=set(figures))
    for class_id in sorted({*tally.kept, *tally.there, *refused, *totals}):
        table.add_row(
            cell(class_id),
            cell(str(tally.kept[class_id]), "green" if tally.kept[class_id] else "dim"),
            cell(str(tally.there[class_id]), "dim"),
            cell(str(refused[class_id]), "red" if refused[class_id] else "dim"),
            str(totals.get(class_id, 0)),
        )
    console.print(table)
    log = stderr()
    for each in tally.refused[:SHOWN_REFUSALS]:
        if each.error is not None:
            tell(log, f"{each.key}: {each.error.reason}: {each.error.message}", "red")
    if len(tally.refused) > SHOWN_REFUSALS:
        tell(log, f"… and {len(tally.refused) - SHOWN_REFUSALS} more (--json lists all)", "red")
    if tally.kept:
        tell(console, f"`{common.own_name()} retrain` makes a version of them.", "dim")
