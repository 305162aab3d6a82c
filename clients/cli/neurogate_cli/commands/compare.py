"""`neurogate evaluate` and `neurogate compare`: how good a version is, and where two differ."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from neurogate_client.client import Client
from neurogate_client.images import folder_images
from neurogate_client.results import Classification
from neurogate_client.results_models import ModelVersion
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from neurogate_cli.common import (
    DEFAULT_TARGET,
    EXIT_FAILED,
    EXIT_USAGE,
    LeftOutTally,
    TargetOption,
    TimeoutOption,
    TlsOption,
    cell,
    connected,
    fail,
    stderr,
    stdout,
)
from neurogate_cli.render.json import dumped
from neurogate_cli.render.release import gate_view, matrix, metrics_table
from neurogate_cli.render.tables import Column, fitting, heading

SHOWN_DISAGREEMENTS = 20


def evaluate(
    version: Annotated[int, typer.Argument(metavar="VERSION", min=1, help="Version to measure.")],
    *,
    target: TargetOption = DEFAULT_TARGET,
    tls: TlsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    timeout: TimeoutOption = 600.0,
) -> None:
    """Measure a version on the sealed images, and show what the gate makes of it; 1 if it refuses."""
    console, log = stdout(), stderr()
    waiting = (
        log.status(f"measuring version {version} on the sealed images")
        if log.is_terminal
        else contextlib.nullcontext()
    )
    with connected(target, tls, timeout) as client, waiting:
        report = client.evaluate_model_version(version, timeout=timeout)
    if as_json:
        console.out(dumped(report), highlight=False)
    else:
        console.print(gate_view(report))
    if not report.accepted:
        raise typer.Exit(EXIT_FAILED)


@dataclass(slots=True)
class Agreement:
    """What two versions said of the same images.

    Attributes:
        pairs: images by the classes that the first and the second version gave.
        disagreements: images with different classes, with both answers.
        failed: images that one of them has no answer to.
        labelled: images whose folder is named as a class.
        right: of those, how many the first and the second version got right.
    """

    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    disagreements: list[tuple[str, Classification, Classification]] = field(default_factory=list)
    failed: int = 0
    labelled: int = 0
    right: list[int] = field(default_factory=lambda: [0, 0])

    @property
    def compared(self) -> int:
        """Images that both have an answer to."""
        return self.pairs.total()

    @property
    def same(self) -> int:
        """Images with the same class from both."""
        return sum(count for (first, second), count in self.pairs.items() if first == second)


def compare(
    first: Annotated[int, typer.Argument(metavar="A", min=1, help="One version.")],
    second: Annotated[int, typer.Argument(metavar="B", min=1, help="The other one.")],
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="FOLDER", help="Images that both are to classify.", show_default=False),
    ] = None,
    *,
    show_all: Annotated[bool, typer.Option("--all", help="List every disagreement.")] = False,
    target: TargetOption = DEFAULT_TARGET,
    tls: TlsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    timeout: TimeoutOption = 60.0,
) -> None:
    """Show two versions side by side: their test metrics, and on a folder of images where they differ."""
    count = 0
    if folder is not None:
        if not folder.is_dir():
            fail(f"{folder} is no folder", EXIT_USAGE)
        left_out = LeftOutTally()
        count = sum(1 for _ in folder_images(folder, left_out=left_out))
        left_out.tell()
        if not count:
            fail(f"no images in {folder}")
    console = stdout()
    agreement = None
    with connected(target, tls, timeout) as client:
        sides = [client.get_model_version(number) for number in (first, second)]
        if folder is not None:
            agreement = _agreement(client, folder, (first, second), count, timeout)
    if as_json:
        console.out(dumped(_document(sides, agreement)), highlight=False)
    else:
        _show_metrics(console, sides)
        if agreement is not None:
            _show_agreement(console, agreement, first, second, show_all)
    if agreement is not None and agreement.failed:
        raise typer.Exit(EXIT_FAILED)


def _agreement(
    client: Client, folder: Path, versions: tuple[int, int], count: int, timeout: float
) -> Agreement:
    found = Agreement()
    log = stderr()
    bar = Progress(
        TextColumn("classifying by both"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=log,
        transient=True,
        disable=not log.is_terminal,
    )
    with contextlib.ExitStack() as stack:
        streams = [
            stack.enter_context(
                contextlib.closing(
                    client.stream_classify(folder_images(folder), version=number, idle_timeout=timeout)
                )
            )
            for number in versions
        ]
        stack.enter_context(bar)
        for one, other in bar.track(zip(*streams, strict=True), total=count):
            if one.classification is None or other.classification is None:
                found.failed += 1
                error = one.error or other.error
                log.print(cell(f"{one.key}: {error}", "red"), soft_wrap=True)
                continue
            answers = (one.classification, other.classification)
            classes = (answers[0].top.class_id, answers[1].top.class_id)
            found.pairs[classes] += 1
            truth = one.key.parts[-2] if len(one.key.parts) > 1 else folder.resolve().name
            if truth in {each.class_id for each in answers[0].scores}:
                found.labelled += 1
                for side, class_id in enumerate(classes):
                    found.right[side] += class_id == truth
            if classes[0] != classes[1]:
                found.disagreements.append((str(one.key), *answers))
    return found


def _show_metrics(console: Console, sides: list[ModelVersion]) -> None:
    measured = [
        (f"version {each.version}", each.manifest.metrics)
        for each in sides
        if each.manifest is not None and each.manifest.HasField("metrics")
    ]
    if len(measured) < 2:
        console.print("At least one manifest has no metrics to compare.", style="yellow")
        return
    console.print(Text("Test metrics of the manifests", "bold"))
    console.print(metrics_table(measured))
    data = [each.manifest.lineage.dataset_digest for each in sides if each.manifest is not None]
    supports = [metrics.support for _, metrics in measured]
    if supports[0] != supports[1]:
        console.print(
            f"Measured on different images ({supports[0]} and {supports[1]}): figures of different tests do "
            "not compare. `neurogate evaluate` measures both on the same ones.",
            style="yellow",
            markup=False,
        )
    elif data[0] != data[1]:
        console.print("The versions learned from different data.", style="dim")


def _show_agreement(console: Console, found: Agreement, first: int, second: int, show_all: bool) -> None:
    console.print(heading(f"Agreement on {found.compared} images"))
    if not found.compared:
        return
    console.print(f"the same class for {found.same} of {found.compared} ({found.same / found.compared:.1%})")
    if found.labelled:
        shares = [
            f"version {number} {right} ({right / found.labelled:.1%})"
            for number, right in zip((first, second), found.right, strict=True)
        ]
        console.print(f"right by the folders' names: {', '.join(shares)} of {found.labelled}")
    names = sorted({name for pair in found.pairs for name in pair})
    counts = [[found.pairs[row, column] for column in names] for row in names]
    console.print()
    console.print(matrix(names, counts, f"{first} ↓  {second} →"))
    shown = found.disagreements if show_all else found.disagreements[:SHOWN_DISAGREEMENTS]
    if not shown:
        return
    console.print(heading("Where they differ"))
    console.print(
        fitting(
            console,
            [
                Column("image", [name for name, _, _ in shown]),
                Column(f"version {first}", [_answer(each) for _, each, _ in shown]),
                Column(f"version {second}", [_answer(each) for _, _, each in shown]),
            ],
        )
    )
    if len(shown) < len(found.disagreements):
        console.print(f"… and {len(found.disagreements) - len(shown)} more (--all)", style="dim")


def _answer(answer: Classification) -> str:
    return f"{answer.top.class_id} {answer.top.probability:.1%}"


def _document(sides: list[ModelVersion], found: Agreement | None) -> dict[str, object]:
    result: dict[str, object] = {"versions": sides, "agreement": None}
    if found is not None:
        result["agreement"] = {
            "compared": found.compared,
            "same": found.same,
            "failed": found.failed,
            "labelled": found.labelled,
            "right": found.right,
            "counts": [
                {"first": first, "second": second, "images": count}
                for (first, second), count in sorted(found.pairs.items())
            ],
            "disagreements": [
                {
                    "image": name,
                    "first": {"class_id": one.top.class_id, "probability": one.top.probability},
                    "second": {"class_id": other.top.class_id, "probability": other.top.probability},
                }
                for name, one, other in found.disagreements
            ],
        }
    return result
