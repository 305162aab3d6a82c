"""Structured logs: one JSON object a line on stderr.

Every line has `time`, `level` and `event`; lines about a call have its `request_id`. Answered calls are
logged at level debug, refused ones at info, defects at error with the stack trace that callers never see.
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import dataclasses
import json
import logging
import sys
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, TextIO

from neurogate_gateway.errors import GatewayError, InternalError

_LOGGER: Final = logging.getLogger("neurogate_gateway")


@dataclasses.dataclass(slots=True)
class CallRecord:
    """What the log says of the call at hand; handlers fill it in."""

    method: str
    request_id: str = ""
    version: int = 0
    images: int = 0
    caller: Callable[[], str] = str
    """Looks the peer's identity up."""

    def identify(self) -> str:
        """The request_id for the log: the caller's, else one made now."""
        self.request_id = self.request_id or uuid.uuid4().hex
        return self.request_id


current_call: Final[contextvars.ContextVar[CallRecord]] = contextvars.ContextVar("current_call")


def call_record() -> CallRecord:
    """The record of the call at hand, or an unattached one outside of calls."""
    return current_call.get(None) or CallRecord("")


def log(level: int, event: str, *, error: BaseException | None = None, **fields: object) -> None:
    """Writes one line.

    Args:
        level: `logging`'s.
        event: What happened, in snake case.
        error: Its stack trace is added.
        fields: Values that JSON can hold.
    """
    if _LOGGER.isEnabledFor(level):
        _LOGGER.log(level, event, exc_info=error, extra={"fields": fields})


def internal_error(defect: Exception) -> InternalError:
    """The error that a caller gets for a defect: the request_id under which the log has the rest."""
    request_id = call_record().identify()
    log(logging.ERROR, "defect", error=defect, request_id=request_id)
    return InternalError(
        "an internal error occurred; the gateway's log has the details", metadata={"request_id": request_id}
    )


class RefusalLog:
    """Counts refusals and logs the counts once a second, so that logging does not add to an overload."""

    def __init__(self) -> None:
        self._counts: collections.Counter[str] = collections.Counter()
        self._timer: asyncio.TimerHandle | None = None

    def note(self, error: GatewayError) -> None:
        """Counts one refusal; the first after a quiet second is written at once."""
        self._counts[error.reason_name()] += 1
        if self._timer is None:
            self._write()

    def flush(self) -> None:
        """Writes what was counted since."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for reason, count in self._counts.items():
            log(logging.WARNING, "refusing", reason=reason, count=count)
        self._counts.clear()

    def _write(self) -> None:
        idle = not self._counts
        self._timer = None
        self.flush()
        if not idle:
            self._timer = asyncio.get_running_loop().call_later(1, self._write)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        if record.name != _LOGGER.name:
            line["logger"] = record.name
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["stack"] = self.formatException(record.exc_info)
        # ASCII alone: some of the control characters beyond it steer terminals.
        return json.dumps(line, default=str, ensure_ascii=True)


def configure_logging(level: str, stream: TextIO | None = None) -> None:
    """Sends all logging of the process, libraries included, to one stream as JSON lines."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    _LOGGER.setLevel(level.upper())
