"""Release, gate, guards and shadow as pictures of text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from neurogate.v1 import manifest_pb2
from neurogate_client import (
    GateReport,
    GuardState,
    ModelServer,
    Release,
    ReleaseChange,
    ShadowAgreement,
    enum_name,
)
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from .output import Column, cell, facts, fitting, heading, moment, plain, signed

_LABEL_ORDER = ("stable", "canary", "candidate", "shadow", "previous")
_BAR_CELLS = 12


def labels_line(release: Release) -> Text:
    """All labels with their versions, in one line."""
    line = Text()
    for label in sorted(release.labels, key=_rank):
        share = f" {release.canary_percent:g}%" if label == "canary" else ""
        line.append(f"{label} ", "cyan").append(f"{release.labels[label]}{share}   ", "bold")
    return line.append(f"mode {enum_name(release, 'mode').lower()}", "dim")


def _rank(label: str) -> tuple[int, str]:
    return (_LABEL_ORDER.index(label) if label in _LABEL_ORDER else len(_LABEL_ORDER), label)


def foreign_servers(servers: Iterable[ModelServer]) -> list[Text]:
    """A line for each model server that is not the gateway's own."""
    return [
        cell(
            f"model server {each.address} is somebody else's, and is left alone: {each.foreign_reason}", "red"
        )
        for each in servers
        if each.foreign_reason
    ]


def release_view(console: Console, release: Release, changes: Sequence[ReleaseChange]) -> RenderableType:
    """Everything about the release on one page."""
    parts: list[RenderableType] = [labels_line(release)]
    if release.guards:
        parts += [heading("Live guards"), guards_table(release.guards)]
    if release.HasField("shadow"):
        parts += [heading("Shadow"), shadow_view(release.shadow)]
    if changes:
        columns = [
            Column("#", [str(each.sequence) for each in changes], right=True),
            Column("time (UTC)", [moment(each.time) for each in changes], rank=2),
            Column("what", [_what(each) for each in changes]),
            Column("labels", [_moves(each) for each in changes]),
            Column("why", [each.reason for each in changes], rank=1),
            Column("who", [each.actor for each in changes], rank=3),
        ]
        parts += [heading("Last changes"), fitting(console, columns)]
    return Group(*parts)


def guards_table(guards: Iterable[GuardState]) -> Table:
    """What each guard sees, and how near it is to its limit."""
    table = plain("guard", "version", "", "value", "limit", "breaches", "images", right={"version", "value"})
    for each in guards:
        share = min(each.value / each.limit, 1.0) if each.limit > 0 else float(each.value > 0)
        filled = round(share * _BAR_CELLS)
        style = "red" if each.breaches else "yellow" if share > 0.8 else "green"
        table.add_row(
            cell(each.name),
            str(each.version),
            Text("█" * filled, style).append("░" * (_BAR_CELLS - filled), "dim"),
            _figure(each.value),
            _figure(each.limit),
            cell(f"{each.breaches} of {each.breaches_to_fire}", "red" if each.breaches else ""),
            str(each.images),
        )
    return table


def shadow_view(shadow: ShadowAgreement) -> RenderableType:
    """The agreement matrix: stable's class in rows, the shadow's in columns."""
    size, total = len(shadow.class_ids), sum(shadow.counts)
    compared = total > 0 and len(shadow.counts) == size * size
    agreement = f"{sum(shadow.counts[:: size + 1]) / total:.1%}" if compared else "nothing compared yet"
    known = facts(
        ("stable", f"version {shadow.stable_version}"),
        ("shadow", f"version {shadow.shadow_version}"),
        ("agreement", agreement),
        ("probability shift", f"{shadow.mean_probability_shift:.4f} on average"),
        ("copies", f"{shadow.compared} compared, {shadow.dropped} dropped, {shadow.failed} failed"),
    )
    if not compared:
        return known
    rows = [shadow.counts[row * size : (row + 1) * size] for row in range(size)]
    return Group(known, Text(), matrix(shadow.class_ids, rows, "stable ↓  shadow →"))


def matrix(class_ids: Sequence[str], counts: Sequence[Sequence[int]], corner: str) -> Table:
    """Counts by two classes; what lies off the diagonal stands out."""
    table = plain(corner, *class_ids, right=set(class_ids))
    for row, class_id in enumerate(class_ids):
        table.add_row(
            cell(class_id),
            *(
                Text(str(count), "green" if row == column else "bold red" if count else "dim")
                for column, count in enumerate(counts[row])
            ),
        )
    return table


def _what(change: ReleaseChange) -> Text:
    action = enum_name(change, "action")
    text = cell(action, "red" if action == "GUARD" else "")
    return text.append(" forced", "yellow") if change.forced else text


def _moves(change: ReleaseChange) -> str:
    before, after = change.labels_before, change.labels_after
    moved = [name for name in sorted({*before, *after}, key=_rank) if before.get(name) != after.get(name)]
    shown = [f"{name} {before.get(name, '-')}→{after.get(name, '-')}" for name in moved]
    if "canary" in after:
        shown.append(f"{change.canary_percent:g}%")
    return ", ".join(shown)


def _figure(value: float) -> str:
    """Shares and milliseconds alike, with no exponent."""
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def gate_view(report: GateReport) -> RenderableType:
    """The gate's verdict with every rule and both measurements."""
    against = f" against version {report.stable_version}" if report.stable_version else ""
    verdict = ("accepted", "bold green") if report.accepted else ("refused", "bold red")
    table = plain("", "rule", "found", "wanted", "", right={"found", "wanted"})
    for each in report.findings:
        table.add_row(
            Text("✓", "green") if each.passed else Text("✗", "red"),
            cell(each.rule),
            _figure(each.value),
            _figure(each.limit),
            cell(each.message, "dim" if each.passed else "red"),
        )
    # The last column is words, and may take more lines.
    table.columns[-1].no_wrap = False
    table.columns[-1].overflow = "fold"
    title = Text.assemble(f"gate: version {report.version}{against} ", verdict)
    parts: list[RenderableType] = [title, table]
    if report.HasField("candidate"):
        sides = [(f"version {report.version}", report.candidate)]
        if report.HasField("stable"):
            sides.insert(0, (f"version {report.stable_version}", report.stable))
        parts += [
            heading(f"Measured through the gateway on {report.candidate.support} sealed images"),
            metrics_table(sides),
        ]
    return Group(*parts)


def metrics_table(sides: Sequence[tuple[str, manifest_pb2.EvaluationMetrics]]) -> Table:
    """Measurements side by side; of two, also the difference."""
    names = [name for name, _ in sides]
    two = len(sides) == 2
    table = plain("", *names, *(["difference"] if two else []), right={*names, "difference"})

    def row(name: str, values: Sequence[float], form: str, better: int = 1) -> None:
        difference = [signed(values[1] - values[0], form, better)] if two else []
        table.add_row(cell(name), *(f"{value:{form}}" for value in values), *difference)

    metrics = [each for _, each in sides]
    row("accuracy", [each.accuracy for each in metrics], ".1%")
    table.add_row(
        Text("95% interval", "dim"),
        *(Text(f"{each.accuracy_ci_low:.1%} to {each.accuracy_ci_high:.1%}", "dim") for each in metrics),
    )
    row("macro F1", [each.macro_f1 for each in metrics], ".3f")
    row("calibration error", [each.ece for each in metrics], ".3f", -1)
    recalls = [{each.class_id: each.recall for each in side.per_class} for side in metrics]
    for class_id in recalls[0]:
        if all(class_id in each for each in recalls):
            row(f"recall {class_id}", [each[class_id] for each in recalls], ".1%")
    return table
