"""Results of `neurogate classify` as they come: a table, JSON lines, CSV. Nothing is held until the end."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from typing import Any

from neurogate_client.types import Classification, Result, Score
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from .output import VERDICT_STYLES, printable

_BAR_CELLS = 10
_FIXED = (("answer", 17), ("probability", _BAR_CELLS + 7), ("verdict", 19), ("version", 7), ("ms", 7))
_GAP = "  "
_CSV = (
    "image", "class_id", "probability", "verdict", "ood_score", "model", "version", "label",
    "prediction_id", "milliseconds", "error_code", "error_reason", "error_message",
)  # fmt: skip


class JsonLines:
    """One JSON object a line; durations in milliseconds."""

    def header(self) -> list[str | Text]:
        """Nothing: every line stands for itself."""
        return []

    def lines(self, result: Result[str]) -> list[str | Text]:
        """One line. Names with bytes that are no text come out as JSON's own escapes."""
        document: dict[str, Any] = {"image": result.key}
        answer, error = result.classification, result.error
        if answer is not None:
            timings = dataclasses.asdict(answer.timings)
            document |= {
                "class_id": answer.top.class_id,
                "probability": round(answer.top.probability, 6),
                "verdict": answer.verdict.value,
                "scores": [
                    {**dataclasses.asdict(each), "probability": round(each.probability, 6)}
                    for each in answer.scores
                ],
                "ood_score": round(answer.ood_score, 6),
                "model": dataclasses.asdict(answer.model),
                "prediction_id": answer.prediction_id,
                "timings_ms": {name: milliseconds(seconds) for name, seconds in timings.items()},
            }
        elif error is not None:
            document["error"] = {
                "code": error.code.name,
                "reason": error.reason,
                "message": error.message,
                "metadata": error.metadata,
            }
        return [json.dumps(document)]


class Csv:
    """CSV with a header; an image without an answer has only its name and the last three columns."""

    def header(self) -> list[str | Text]:
        """The columns' names."""
        return [_csv_line(*_CSV)]

    def lines(self, result: Result[str]) -> list[str | Text]:
        """One row."""
        answer, error = result.classification, result.error
        failure = (error.code.name, error.reason, error.message) if error else ("", "", "")
        if answer is None:
            return [_csv_line(result.key, *[""] * 9, *failure)]
        shown = (answer.top.class_id, f"{answer.top.probability:.6f}", answer.verdict.value)
        model = (answer.model.name, answer.model.version, answer.model.label)
        ends = (answer.prediction_id, milliseconds(answer.timings.total))
        return [_csv_line(result.key, *shown, f"{answer.ood_score:.6f}", *model, *ends, *failure)]


def _csv_line(*values: object) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(values)
    return line.getvalue()


class Table:
    """Aligned columns, one row a result and one more for each further class asked for."""

    def __init__(self, console: Console, classes: int, longest_name: int) -> None:
        taken = sum(width for _, width in _FIXED) + len(_GAP) * len(_FIXED)
        # A terminal cuts names so that rows stay rows; a file gets them whole.
        room = max(16, console.width - taken - 1) if console.is_terminal else longest_name
        self._width = max(5, min(longest_name, room))
        self._classes = classes
        self._full = "━" if console.encoding.startswith("utf") else "="
        # Only colour tells the two parts of a full line from each other.
        self._empty = self._full if console.color_system else " "

    def header(self) -> list[str | Text]:
        """The columns' names."""
        names = [set_cell_size("image", self._width), *(set_cell_size(name, width) for name, width in _FIXED)]
        return [Text(_GAP.join(names).rstrip(), style="bold")]

    def lines(self, result: Result[str]) -> list[str | Text]:
        """The row, and one for each further class."""
        name = Text(self._name(result.key))
        if result.classification is None:
            error = result.error
            reason = f"{error.reason or error.code.name}: {error.message}" if error else "no answer"
            return [Text.assemble(name, _GAP, (printable(reason), "red"))]
        answer = result.classification
        first, *others = answer.scores[: self._classes]
        rows: list[str | Text] = [Text.assemble(name, _GAP, *self._score(first), *self._rest(answer))]
        rows.extend(Text.assemble(" " * self._width, _GAP, *self._score(each)) for each in others)
        return rows

    def _name(self, key: str) -> str:
        shown = printable(key)
        while cell_len(shown) > self._width:
            shown = "…" + shown[2:]
        return set_cell_size(shown, self._width)

    def _score(self, score: Score) -> list[str | tuple[str, str]]:
        filled = round(score.probability * _BAR_CELLS)
        return [
            set_cell_size(printable(score.display_name or score.class_id), _FIXED[0][1]),
            _GAP,
            (self._full * filled, "cyan"),
            (self._empty * (_BAR_CELLS - filled), "bright_black"),
            f"{score.probability:7.1%}",
        ]

    @staticmethod
    def _rest(answer: Classification) -> list[str | tuple[str, str]]:
        verdict = (set_cell_size(answer.verdict.value, 19), VERDICT_STYLES[answer.verdict])
        figures = f"{_GAP}{answer.model.version:7d}{_GAP}{milliseconds(answer.timings.total):7.1f}"
        return [_GAP, verdict, figures]


def milliseconds(seconds: float) -> float:
    """Seconds as milliseconds, to the microsecond."""
    return round(seconds * 1000, 3)
