"""`neurogate upload`: labelled images for the next version."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from neurogate_client import Frame, LabelledImage, labelled_images
from neurogate_client.images import framed

from neurogate_cli import common
from neurogate_cli.render.output import print_json, print_line, stderr, stdout
from neurogate_cli.render.uploads import Tally, send, show_upload

SPLITS = frozenset({"test", "testing", "train", "training", "val", "valid", "validation"})
"""Names of folders that hold class folders and are none, in lower case."""


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
            print_line(
                stderr(), f"stopped: {kept} images are kept; the same command goes on from here", "yellow"
            )
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
    left_out.report()
    if not images:
        common.fail(f"no images in class folders of {folder}")
    if splits := sorted({each.class_id for each in images if each.class_id.lower() in SPLITS}):
        common.fail(
            f"{folder} holds splits ({', '.join(splits)}) and no classes; give one: {folder / splits[-1]}",
            common.EXIT_USAGE,
        )
    return images
