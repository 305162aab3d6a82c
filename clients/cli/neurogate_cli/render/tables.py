"""Tables and figures as the commands show them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from neurogate.v1 import manifest_pb2
from rich.console import Console
from rich.table import Table
from rich.text import Text

from neurogate_cli.common import cell

_ANY_WIDTH = 10_000


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its cells from top to bottom, and when it may go.

    Attributes:
        name: heading.
        cells: the cells.
        right: whether they are aligned at the right, as numbers are.
        rank: where room is short, the columns of the highest rank are left out first; those of 0 never.
    """

    name: str
    cells: Sequence[str | Text]
    right: bool = False
    rank: int = 0


def fitting(console: Console, columns: Sequence[Column]) -> Table:
    """A table that is no wider than the console, as far as columns may be left out."""
    kept = [each for each in columns if each.cells]
    while True:
        table = plain(*(each.name for each in kept), right={each.name for each in kept if each.right})
        for row in zip(*(each.cells for each in kept), strict=True):
            table.add_row(*(each if isinstance(each, Text) else cell(each) for each in row))
        needed = console.measure(table, options=console.options.update_width(_ANY_WIDTH)).maximum
        least = max((each.rank for each in kept), default=0)
        if needed <= console.width or least == 0:
            return table
        last = max(index for index, each in enumerate(kept) if each.rank == least)
        del kept[last]


def plain(*names: str, right: set[str] | frozenset[str] = frozenset()) -> Table:
    """A table without lines."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name, justify="right" if name in right else "left", no_wrap=True)
    return table


def facts(*pairs: tuple[str, str | Text]) -> Table:
    """Names and values, one pair a line."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(name, value if isinstance(value, Text) else cell(value))
    return table


def heading(text: str) -> Text:
    """A heading with an empty line in front."""
    return Text(f"\n{text}", style="bold")


def interval(metrics: manifest_pb2.EvaluationMetrics) -> str:
    """An accuracy with its interval, for people."""
    low, high = metrics.accuracy_ci_low, metrics.accuracy_ci_high
    return f"{metrics.accuracy:.1%} (95% interval {low:.1%} to {high:.1%})"


def moment(time: dt.datetime | None) -> str:
    """A time (UTC) for people."""
    return f"{time:%Y-%m-%d %H:%M:%S}" if time is not None else ""


def duration(seconds: float) -> str:
    """A duration for people."""
    whole = round(max(seconds, 0))
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def signed(value: float, form: str = ".1%") -> Text:
    """A difference; better is green, worse is red."""
    shown = f"{value:+{form}}"
    return Text(shown, style="dim" if not shown.strip("+-0.%") else "green" if value > 0 else "red")
