"""Figures as Markdown tables."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from neurogate_bench.stats import Figure


def number(value: float) -> str:
    """Three significant digits, and all digits of what is a count."""
    if math.isnan(value):
        return "n/a"
    if value == 0 or (float(value).is_integer() and abs(value) >= 100):
        return f"{value:,.0f}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def cell(figure: Figure) -> str:
    """The median, with the extremes where several runs differ."""
    if len(figure["runs"]) < 2 or figure["min"] == figure["max"]:
        return number(figure["median"])
    return f"{number(figure['median'])} ({number(figure['min'])} to {number(figure['max'])})"


def pivot(figures: Sequence[Figure]) -> str:
    """A row per series and a column per metric; with a single series a row per metric, which reads better.

    Series that share no metric with the first get a table of their own.
    """
    blocks: list[tuple[list[str], list[str]]] = []
    metrics_of: dict[str, list[str]] = {}
    for figure in figures:
        metrics_of.setdefault(figure["series"], []).append(figure["metric"])
    for series, metrics in metrics_of.items():
        for names, columns in blocks:
            if set(metrics) & set(columns):
                names.append(series)
                columns.extend(metric for metric in metrics if metric not in columns)
                break
        else:
            blocks.append(([series], list(metrics)))
    known = {(figure["series"], figure["metric"]): figure for figure in figures}
    return "\n\n".join(_block(known, names, columns) for names, columns in blocks)


def anchor(title: str) -> str:
    """The name that Markdown renderers give a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _block(known: dict[tuple[str, str], Figure], names: list[str], columns: list[str]) -> str:
    if len(names) == 1 and len(columns) > 1:
        lines = [f"| {names[0]} | |", "|---|---|"]
        for metric in columns:
            figure = known[names[0], metric]
            unit = f" {figure['unit']}" if figure["unit"] else ""
            lines.append(f"| {metric} | {cell(figure)}{unit} |")
        return "\n".join(lines)
    units = {metric: figure["unit"] for (_, metric), figure in known.items()}
    heads = [f"{metric}, {units[metric]}" if units[metric] else metric for metric in columns]
    lines = [f"| | {' | '.join(heads)} |", f"|---|{'---|' * len(columns)}"]
    for name in names:
        cells = [cell(known[name, metric]) if (name, metric) in known else "" for metric in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
