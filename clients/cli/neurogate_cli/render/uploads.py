"""Labelled images sent with a bar, and what became of them."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from neurogate_client import Client, LabelledImage, NeurogateError, UploadResult
from neurogate_client.images import DEFAULT_MAX_IMAGE_BYTES, load_image
from rich.console import Console

from .output import cell, own_name, plain, print_line, progress, stderr

SHOWN_REFUSALS = 20
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
    limit: int = DEFAULT_MAX_IMAGE_BYTES,
    timeout: float = 60.0,
) -> None:
    """Sends what is not there yet, with a progress bar on terminals."""
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
            print_line(log, f"{each.key}: {each.error.reason}: {each.error.message}", "red")
    if len(tally.refused) > SHOWN_REFUSALS:
        print_line(log, f"… and {len(tally.refused) - SHOWN_REFUSALS} more (--json lists all)", "red")
    if tally.kept:
        print_line(console, f"`{own_name()} retrain` makes a version of them.", "dim")
