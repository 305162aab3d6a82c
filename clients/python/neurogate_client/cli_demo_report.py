"""What the demo shows of the held-out images: some of them one by one, all of them counted."""

from __future__ import annotations

import contextlib
from collections import Counter

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from neurogate_client.cli_common import VERDICT_STYLES, cell
from neurogate_client.cli_output import milliseconds
from neurogate_client.cli_tables import interval
from neurogate_client.client import Client
from neurogate_client.demo_run import HeldOut
from neurogate_client.results import Verdict
from neurogate_client.results_models import ModelVersion

SAMPLES_PER_CLASS = 3

_OTHER_COLUMNS = 68
"""Cells that the columns beside the image's name take."""


def show_samples(console: Console, client: Client, images: list[HeldOut], version: int) -> None:
    """Classifies the first few images of every class one by one and shows the answers."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for name in ("image", "truth", "answer", "probability", "verdict", "version", "ms"):
        table.add_column(
            name, justify="left" if name in {"image", "truth", "answer", "verdict"} else "right", no_wrap=True
        )
    # Where room is short, it is the names of the images that are cut, and at their less telling end.
    room = max(12, console.width - _OTHER_COLUMNS)
    for image in _samples(images):
        name = image.path.name
        answer = client.classify(image.path, version=version)
        right = answer.top.class_id == image.class_id
        table.add_row(
            cell(name if len(name) <= room else f"…{name[1 - room :]}"),
            cell(image.class_id),
            cell(answer.top.class_id, "green" if right else "red"),
            f"{answer.top.probability:.1%}",
            cell(answer.verdict.value, VERDICT_STYLES[answer.verdict]),
            str(answer.model.version),
            f"{milliseconds(answer.timings.total):.1f}",
        )
    console.print(table)


def _samples(images: list[HeldOut]) -> list[HeldOut]:
    taken: Counter[str] = Counter()
    chosen = []
    for image in sorted(images, key=lambda each: (each.class_id, each.name)):
        taken[image.class_id] += 1
        if taken[image.class_id] <= SAMPLES_PER_CLASS:
            chosen.append(image)
    return chosen


def show_summary(
    console: Console,
    log: Console,
    client: Client,
    images: list[HeldOut],
    served: ModelVersion,
) -> bool:
    """Streams every image through the gateway, shows counts and accuracy; False when one has no answer."""
    seen: Counter[str] = Counter()
    right: Counter[str] = Counter()
    verdicts: Counter[tuple[str, Verdict]] = Counter()
    trusted = trusted_right = failed = 0
    bar = Progress(
        TextColumn("streaming"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=log,
        transient=True,
        disable=not log.is_terminal,
        redirect_stdout=False,
    )
    results = client.stream_classify(
        ((image, image.path) for image in images), version=served.version, top_k=1
    )
    with contextlib.closing(results), bar:
        for result in bar.track(results, total=len(images)):
            seen[result.key.class_id] += 1
            if result.classification is None:
                failed += 1
                log.print(Text(f"{result.key.name}: {result.error}", style="red"), soft_wrap=True)
                continue
            answer = result.classification
            hit = answer.top.class_id == result.key.class_id
            right[result.key.class_id] += hit
            verdicts[result.key.class_id, answer.verdict] += 1
            if answer.verdict is Verdict.CONFIDENT:
                trusted += 1
                trusted_right += hit
    console.print(_counts(seen, right, verdicts))
    total = sum(seen.values())
    lines = [
        f"\naccuracy through the gateway: {right.total() / total:.1%} ({right.total()} of {total} images)"
    ]
    manifest = served.manifest
    if manifest is not None and manifest.HasField("metrics"):
        lines.append(
            f"accuracy in the manifest:     {interval(manifest.metrics)} on {manifest.metrics.support} images"
        )
    if trusted:
        lines.append(
            f"where the verdict is CONFIDENT: {trusted_right / trusted:.1%} ({trusted_right} of {trusted})"
        )
    console.print("\n".join(lines), soft_wrap=True)
    return failed == 0


def _counts(seen: Counter[str], right: Counter[str], verdicts: Counter[tuple[str, Verdict]]) -> Table:
    shown = (Verdict.CONFIDENT, Verdict.ABSTAIN, Verdict.OUT_OF_DISTRIBUTION)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("class", "images", "right", "share", *(each.value for each in shown)):
        table.add_column(name, justify="left" if name == "class" else "right")
    for class_id in sorted(seen):
        table.add_row(
            cell(class_id),
            str(seen[class_id]),
            str(right[class_id]),
            f"{right[class_id] / seen[class_id]:.1%}",
            *(str(verdicts[class_id, each]) for each in shown),
        )
    return table
