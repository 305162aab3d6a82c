"""Where output goes and what it is made of: consoles, text, tables, progress bars, JSON."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from neurogate.v1 import manifest_pb2
from neurogate_client.types import enum_name
from neurogate_core.command import PLAIN
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

VERDICT_STYLES = {
    "CONFIDENT": "green",
    "ABSTAIN": "yellow",
    "OUT_OF_DISTRIBUTION": "magenta",
    "UNKNOWN": "dim",
}

_FILE_WIDTH = 180
_ANY_WIDTH = 10_000


def stderr() -> Console:
    """Where everything goes that is no result."""
    return Console(stderr=True, highlight=False)


def stdout() -> Console:
    """Where results go. Names may hold bytes that are no text; they must not end the output."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors=PLAIN)
    # A file is as wide as its tables; only terminals make them narrow.
    wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _FILE_WIDTH
    return Console(highlight=False, width=wide)


def own_name() -> str:
    """How to call this command again: its name where the shell finds it, and else its path."""
    found = shutil.which("neurogate")
    called = Path(sys.argv[0])
    if called.name != "neurogate" or (found is not None and called.exists() and called.samefile(found)):
        return "neurogate"
    return str(called)


def print_line(console: Console, line: str | Text, style: str = "") -> None:
    """Prints one line, taken literally and never wrapped."""
    console.print(cell(line, style) if isinstance(line, str) else line, soft_wrap=True)


def printable(text: str) -> str:
    """A name as it may be shown: control characters, which could drive the terminal, as escapes."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape", "backslashreplace").decode()
        for each in text
    )


def cell(text: str, style: str = "") -> Text:
    """Text for a table, taken literally."""
    return Text(printable(text), style=style)


@dataclasses.dataclass(frozen=True, slots=True)
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


def facts(*pairs: tuple[str, str]) -> Table:
    """Names and values, one pair a line."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(name, cell(value))
    return table


def heading(text: str) -> Text:
    """A heading with an empty line in front."""
    return Text(f"\n{text}", style="bold")


def progress(what: str, console: Console, *, enabled: bool = True) -> Progress:
    """A bar that counts images; drawn on terminals only."""
    return Progress(
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not (enabled and console.is_terminal),
        redirect_stdout=False,
        redirect_stderr=False,
    )


def interval(metrics: manifest_pb2.EvaluationMetrics) -> str:
    """An accuracy with its interval, for people."""
    low, high = metrics.accuracy_ci_low, metrics.accuracy_ci_high
    return f"{metrics.accuracy:.1%} (95% interval {low:.1%} to {high:.1%})"


def moment(time: Timestamp, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    """A time (UTC) for people; empty where it is unset or beyond the calendar."""
    try:
        return f"{time.ToDatetime():{form}}" if time.ByteSize() else ""
    except (ValueError, OverflowError):
        return ""


def duration(seconds: float) -> str:
    """A duration for people."""
    whole = round(max(seconds, 0))
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def signed(value: float, form: str = ".1%", better: int = 1) -> Text:
    """A difference; better is green, worse is red. `better` is -1 where less is better."""
    shown = f"{value:+{form}}"
    colour = "green" if value * better > 0 else "red"
    return Text(shown, style="dim" if not shown.strip("+-0.%") else colour)


def print_json(console: Console, value: object, *, indent: int | None = 2) -> None:
    """Prints a result, or a list of them, as JSON."""
    console.out(json.dumps(_document(value), indent=indent), highlight=False)


def _document(value: object) -> Any:  # noqa: ANN401 - whatever JSON has
    """A result as JSON has it: names as in the contract, times as ISO 8601, pictures left out."""
    if isinstance(value, Message):
        return _message(value)
    if isinstance(value, Mapping):
        return {str(name): _document(each) for name, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [_document(each) for each in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _message(value: Message) -> Any:  # noqa: ANN401 - a text, a number or an object
    if isinstance(value, Timestamp):
        return value.ToJsonString()
    if isinstance(value, Duration):
        return value.seconds + value.nanos / 1e9
    if value.DESCRIPTOR.file is manifest_pb2.DESCRIPTOR:
        return _manifest(value)
    found: dict[str, Any] = {}
    for field in value.DESCRIPTOR.fields:
        if field.type == FieldDescriptor.TYPE_BYTES or field.GetOptions().deprecated:
            continue
        if field.has_presence and not value.HasField(field.name):
            # Of several that exclude each other, the others are not there; anything else is nothing.
            if field.containing_oneof is None:
                found[field.name] = None
        elif field.enum_type is not None:
            found[field.name] = enum_name(value, field.name)
        else:
            found[field.name] = _document(getattr(value, field.name))
    return found


def _manifest(value: Message) -> dict[str, Any]:
    """A message of `manifest.proto`, which has the JSON of protobuf."""
    found = MessageToDict(value, preserving_proto_field_name=True)
    for golden in found.get("goldens", ()):
        # Encoded pictures are of no use in JSON for people and scripts; their digests stay.
        golden.pop("image", None)
    return found
