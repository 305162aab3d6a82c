"""The trainer's event lines as events of the retraining: none lost, none twice.

The trainer numbers its lines, also over restarts, and the store takes a number once. So after a restart of
the gateway the file is read from its beginning, which also tells how fast the present phase has been.
"""

from __future__ import annotations

import contextlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from neurogate.v1 import training_pb2

_CHUNK_BYTES: Final = 2**18
_MAX_TEXT: Final = 8192
_MIN_STEPS: Final = 3
_MAX_NUMBER: Final = 2**63 - 1

Numbered = tuple[int, training_pb2.RetrainingEvent]


class End(NamedTuple):
    """What the trainer said last: "published" with a version, "failed" with a reason, or "stopped"."""

    outcome: str
    version: int
    reason: str


class TrainerEventReader:
    """Reads one file of events, from wherever it has come to.

    Attributes:
        end: What the trainer said last; None before it did.
        unreadable: Number of lines that were no events, or none that follows those before.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._number = 0
        self._pace_since: tuple[datetime, int] | None = None
        self.end: End | None = None
        self.unreadable = 0

    def read(self) -> list[Numbered]:
        """The next events, at most some hundred; empty when there are none now.

        A last line without its end is left for later: the trainer is writing it, or was killed then.
        """
        while lines := self._lines():
            if events := [event for line in lines for event in self._parse(line)]:
                return events
        return []

    def _lines(self) -> list[bytes]:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read(_CHUNK_BYTES)
                # A line longer than the chunk would otherwise never end.
                while b"\n" not in data and (more := file.read(_CHUNK_BYTES)):
                    data += more
        except FileNotFoundError:
            return []
        complete = data[: data.rfind(b"\n") + 1]
        self._offset += len(complete)
        return complete.splitlines()

    def _parse(self, line: bytes) -> list[Numbered]:
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, OverflowError):
            content = json.loads(line)
            moment = datetime.fromisoformat(content["time"])
            event = self._convert(content, moment)
            event.time.FromDatetime(moment)
            number = int(content["sequence"])
            if self._number < number <= _MAX_NUMBER:
                self._number = number
                return [(number, event)]
        self.unreadable += 1
        return []

    def _convert(self, content: dict[str, Any], moment: datetime) -> training_pb2.RetrainingEvent:
        match content["event"]:
            case "phase":
                self._pace_since = None
                phase = training_pb2.RetrainingPhase(
                    name=content["phase"], total=content["total"] or 0, unit=content["unit"]
                )
                return training_pb2.RetrainingEvent(phase=phase)
            case "progress":
                return training_pb2.RetrainingEvent(progress=self._progress(content, moment))
            case "message":
                return _line(content["level"], content["text"])
            case "end":
                # PostgreSQL holds no NUL.
                reason = content["reason"][:_MAX_TEXT].replace("\0", "\ufffd")
                end = End(content["outcome"], int(content["version"] or 0), reason)
                published = f"published version {end.version}" if end.version else ""
                text = ", ".join(part for part in (published, reason) if part)
                level = "error" if end.outcome == "failed" else "info"
                event = _line(level, f"{end.outcome}: {text}".rstrip(": "))
                self.end = end
                return event
        raise ValueError(content["event"])

    def _progress(self, content: dict[str, Any], moment: datetime) -> training_pb2.RetrainingProgress:
        progress = training_pb2.RetrainingProgress(
            phase=content["phase"],
            step=content["step"],
            total=content["total"] or 0,
            epoch=content["epoch"] or 0,
            # A figure that is no number is none.
            metrics={name: value for name, value in content["metrics"].items() if value is not None},
        )
        if self._pace_since is None:
            # What came before pays for what is compiled and opened, or was done by an earlier start.
            self._pace_since = (moment, progress.step)
        since, step = self._pace_since
        if progress.step - step >= _MIN_STEPS and progress.step <= progress.total:
            pace = (moment - since) / (progress.step - step)
            with contextlib.suppress(OverflowError):
                progress.remaining.FromTimedelta(pace * (progress.total - progress.step))
        return progress


def _line(level: str, text: str) -> training_pb2.RetrainingEvent:
    line = training_pb2.RetrainingLogLine(level=level, text=text[:_MAX_TEXT])
    return training_pb2.RetrainingEvent(log=line)
