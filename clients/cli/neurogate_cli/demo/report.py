"""What the demo shows of the held-out images: some of them one by one, all of them counted."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from neurogate_client import Client, ModelVersion, Verdict
from rich.console import Console
from rich.table import Table
from rich.text import Text

from neurogate_cli.render.output import VERDICT_STYLES, cell, interval, plain, print_line, progress, signed
from neurogate_cli.render.predictions import milliseconds

from .folder import HeldOut

SAMPLES_PER_CLASS = 3

_OTHER_COLUMNS = 68
"""Cells that the columns beside the image's name take."""


def show_samples(console: Console, client: Client, images: list[HeldOut], version: int) -> None:
    """Classifies the first few images of every class one by one and shows the answers."""
    figures = ("probability", "version", "ms")
    table = plain("image", "truth", "answer", "probability", "verdict", "version", "ms", right=set(figures))
    table.padding = (0, 1, 0, 0)
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


def draw_evidence(client: Client, images: list[HeldOut], served: ModelVersion, picture: Path) -> str:
    """Draws the evidence for the first sample with a lesion that is answered rightly and with confidence.

    Returns:
        What the picture shows, for people; empty where no sample is answered so, and there is no picture.
    """
    measured = served.manifest.localisation.per_class
    lesions = {each.class_id for each in measured if each.HasField("pointing")}
    for image in _samples(images):
        if lesions and image.class_id not in lesions:
            continue
        result = client.explain(image.path, version=served.version)
        answer = result.classification
        if answer.top.class_id == image.class_id and answer.verdict is Verdict.CONFIDENT:
            picture.write_bytes(result.overlay_png)
            return (
                f"the evidence for {answer.top.class_id} ({answer.top.probability:.1%}) in {image.path.name}"
            )
    return ""


@dataclass(slots=True)
class Measured:
    """What one version made of the held-out images.

    Attributes:
        seen: images by class.
        right: those with the right answer.
        verdicts: verdicts by class.
        trusted: images with the verdict CONFIDENT.
        trusted_right: those of them with the right answer.
        failed: images without an answer.
        version: the version that answered; 0 before the first answer.
    """

    seen: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[tuple[str, Verdict]] = field(default_factory=Counter)
    trusted: int = 0
    trusted_right: int = 0
    failed: int = 0
    version: int = 0

    @property
    def accuracy(self) -> float:
        """Share of right answers, 0 to 1."""
        return self.right.total() / max(self.seen.total(), 1)


def measure(log: Console, client: Client, images: list[HeldOut], version: int | None) -> Measured:
    """Streams every image through the gateway; without a version, "stable" answers."""
    found = Measured()
    results = client.stream_classify(((image, image.path) for image in images), version=version, top_k=1)
    with contextlib.closing(results), progress("streaming", log) as bar:
        for result in bar.track(results, total=len(images)):
            class_id = result.key.class_id
            found.seen[class_id] += 1
            if result.classification is None:
                found.failed += 1
                print_line(log, f"{result.key.name}: {result.error}", "red")
                continue
            answer = result.classification
            hit = answer.top.class_id == class_id
            found.version = answer.model.version
            found.right[class_id] += hit
            found.verdicts[class_id, answer.verdict] += 1
            if answer.verdict is Verdict.CONFIDENT:
                found.trusted += 1
                found.trusted_right += hit
    return found


def show_summary(
    console: Console, log: Console, client: Client, images: list[HeldOut], served: ModelVersion
) -> bool:
    """Streams every image through the gateway, shows counts and accuracy; False when one has no answer."""
    found = measure(log, client, images, served.version)
    console.print(_counts(found))
    total, right = found.seen.total(), found.right.total()
    lines = [f"\naccuracy through the gateway: {found.accuracy:.1%} ({right} of {total} images)"]
    manifest = served.manifest
    if manifest.HasField("metrics"):
        lines.append(
            f"accuracy in the manifest:     {interval(manifest.metrics)} on {manifest.metrics.support} images"
        )
    if found.trusted:
        lines.append(
            f"where the verdict is CONFIDENT: {found.trusted_right / found.trusted:.1%} "
            f"({found.trusted_right} of {found.trusted})"
        )
    if manifest.localisation.HasField("pointing"):
        measured = manifest.localisation
        lines.append(
            f"evidence: points at the lesion in {measured.pointing.value:.1%} of {measured.support} right "
            f"answers (the brightest spot: {measured.brightest_spot.value:.1%})"
        )
    console.print("\n".join(lines), soft_wrap=True)
    return found.failed == 0


def show_before_and_after(console: Console, before: Measured, after: Measured) -> None:
    """Two versions on the same images: the right answers of each class, and what was gained."""
    names = (f"version {before.version}", f"version {after.version}")
    table = plain("class", "images", *names, "gained", right={"images", *names, "gained"})
    for class_id in sorted(before.seen):
        shares = [each.right[class_id] / max(each.seen[class_id], 1) for each in (before, after)]
        table.add_row(
            cell(class_id),
            str(before.seen[class_id]),
            *(f"{share:.1%}" for share in shares),
            signed(shares[1] - shares[0]),
        )
    table.add_row(
        Text("all", "bold"),
        str(before.seen.total()),
        *(Text(f"{each.accuracy:.1%}", "bold") for each in (before, after)),
        signed(after.accuracy - before.accuracy),
    )
    console.print(table)


def _counts(found: Measured) -> Table:
    shown = (Verdict.CONFIDENT, Verdict.ABSTAIN, Verdict.OUT_OF_DISTRIBUTION)
    figures = ("images", "right", "share", *(each.value for each in shown))
    table = plain("class", *figures, right=set(figures))
    for class_id in sorted(found.seen):
        table.add_row(
            cell(class_id),
            str(found.seen[class_id]),
            str(found.right[class_id]),
            f"{found.right[class_id] / found.seen[class_id]:.1%}",
            *(str(found.verdicts[class_id, each]) for each in shown),
        )
    return table
