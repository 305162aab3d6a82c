"""`neurogate evaluate` and `neurogate compare`: how good a version is, and where two differ."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from neurogate_client import Classification, Client, ModelVersion, folder_images
from rich.console import Console
from rich.text import Text

from neurogate_cli import common
from neurogate_cli.render.output import (
    Column,
    fitting,
    heading,
    print_json,
    print_line,
    progress,
    stderr,
    stdout,
)
from neurogate_cli.render.release import gate_view, matrix, metrics_table

SHOWN_DISAGREEMENTS = 20


def evaluate(
    version: Annotated[int, typer.Argument(metavar="VERSION", min=1, help="Version to measure.")],
    *,
    target: common.Target = common.TARGET,
    tls: common.Tls = None,
    as_json: common.Json = False,
    timeout: common.Timeout = 600.0,
) -> None:
    """Measure a version on the sealed images, and show what the gate makes of it; 1 if it refuses."""
    console, log = stdout(), stderr()
    waiting = (
        log.status(f"measuring version {version} on the sealed images")
        if log.is_terminal
        else contextlib.nullcontext()
    )
    with common.connected(target, tls, timeout) as client, waiting:
        report = client.evaluate_model_version(version, timeout=timeout)
    if as_json:
        print_json(console, report)
    else:
        console.print(gate_view(report))
    if not report.accepted:
        raise typer.Exit(common.EXIT_FAILED)


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
    target: common.Target = common.TARGET,
    tls: common.Tls = None,
    as_json: common.Json = False,
    timeout: common.Timeout = 60.0,
) -> None:
    """Show two versions side by side: their test metrics, and on a folder of images where they differ."""
    count = 0
    if folder is not None:
        if not folder.is_dir():
            common.fail(f"{folder} is no folder", common.EXIT_USAGE)
        left_out = common.LeftOutTally()
        count = sum(1 for _ in folder_images(folder, left_out=left_out))
        left_out.report()
        if not count:
            common.fail(f"no images in {folder}")
    console = stdout()
    agreement = None
    with common.connected(target, tls, timeout) as client:
        sides = [client.get_model_version(number) for number in (first, second)]
        if folder is not None:
            agreement = _agreement(client, folder, (first, second), count, timeout)
    if as_json:
        print_json(console, {"versions": sides, "agreement": _document(agreement) if agreement else None})
    else:
        _show_metrics(console, sides)
        if agreement is not None:
            _show_agreement(console, agreement, first, second, show_all)
    if agreement is not None and agreement.failed:
        raise typer.Exit(common.EXIT_FAILED)


def _agreement(
    client: Client, folder: Path, versions: tuple[int, int], count: int, timeout: float
) -> Agreement:
    found, log = Agreement(), stderr()
    with contextlib.ExitStack() as stack:
        streams = [
            stack.enter_context(
                contextlib.closing(
                    client.stream_classify(folder_images(folder), version=number, idle_timeout=timeout)
                )
            )
            for number in versions
        ]
        bar = stack.enter_context(progress("classifying by both", log))
        for one, other in bar.track(zip(*streams, strict=True), total=count):
            if one.classification is None or other.classification is None:
                found.failed += 1
                print_line(log, f"{one.key}: {one.error or other.error}", "red")
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
    manifests = [each.manifest for each in sides]
    if not all(each.HasField("metrics") for each in manifests):
        print_line(console, "At least one manifest has no metrics to compare.", "yellow")
        return
    console.print(Text("Test metrics of the manifests", "bold"))
    console.print(metrics_table([(f"version {each.version}", each.manifest.metrics) for each in sides]))
    supports = [each.metrics.support for each in manifests]
    if supports[0] != supports[1]:
        console.print(
            f"Measured on different images ({supports[0]} and {supports[1]}): figures of different tests do "
            "not compare. `neurogate evaluate` measures both on the same ones.",
            style="yellow",
            markup=False,
        )
    elif manifests[0].lineage.dataset_digest != manifests[1].lineage.dataset_digest:
        print_line(console, "The versions learned from different data.", "dim")


def _show_agreement(console: Console, found: Agreement, first: int, second: int, show_all: bool) -> None:
    compared = found.pairs.total()
    console.print(heading(f"Agreement on {compared} images"))
    if not compared:
        return
    print_line(console, f"the same class for {found.same} of {compared} ({found.same / compared:.1%})")
    if found.labelled:
        shares = [
            f"version {number} {right} ({right / found.labelled:.1%})"
            for number, right in zip((first, second), found.right, strict=True)
        ]
        print_line(console, f"right by the folders' names: {', '.join(shares)} of {found.labelled}")
    names = sorted({name for pair in found.pairs for name in pair})
    counts = [[found.pairs[row, column] for column in names] for row in names]
    console.print()
    console.print(matrix(names, counts, f"{first} ↓  {second} →"))
    shown = found.disagreements if show_all else found.disagreements[:SHOWN_DISAGREEMENTS]
    if not shown:
        return
    console.print(heading("Where they differ"))
    columns = [
        Column("image", [name for name, _, _ in shown]),
        Column(f"version {first}", [_answer(each) for _, each, _ in shown]),
        Column(f"version {second}", [_answer(each) for _, _, each in shown]),
    ]
    console.print(fitting(console, columns))
    if len(shown) < len(found.disagreements):
        print_line(console, f"… and {len(found.disagreements) - len(shown)} more (--all)", "dim")


def _answer(answer: Classification) -> str:
    return f"{answer.top.class_id} {answer.top.probability:.1%}"


def _document(found: Agreement) -> dict[str, Any]:
    def top(answer: Classification) -> dict[str, object]:
        return {"class_id": answer.top.class_id, "probability": answer.top.probability}

    return {
        "compared": found.pairs.total(),
        "same": found.same,
        "failed": found.failed,
        "labelled": found.labelled,
        "right": found.right,
        "counts": [
            {"first": first, "second": second, "images": count}
            for (first, second), count in sorted(found.pairs.items())
        ],
        "disagreements": [
            {"image": name, "first": top(one), "second": top(other)}
            for name, one, other in found.disagreements
        ],
    }
