"""Log lines are JSON, hold no control characters, and count refusals."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from neurogate.v1 import error_pb2
from neurogate_gateway.errors import (
    GatewayError,
    OverloadedError,
)
from neurogate_gateway.observability.logging import (
    RefusalLog,
    configure_logging,
    log,
)


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root, own = logging.getLogger(), logging.getLogger("neurogate_gateway")
    before = (root.handlers[:], root.level, own.level)
    out = io.StringIO()
    configure_logging("info", out)
    yield out
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    own.setLevel(before[2])


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_log_lines_are_json_objects(stream: io.StringIO) -> None:
    log(logging.INFO, "something", number=1, text='quotes " and\nlines', thing=object)
    log(logging.DEBUG, "hidden")
    logging.getLogger("library").warning("hello %s", "there")
    [own, foreign] = lines(stream)
    assert (own["event"], own["level"], own["number"]) == ("something", "info", 1)
    assert own["text"] == 'quotes " and\nlines'
    assert (foreign["event"], foreign["logger"]) == ("hello there", "library")


def test_stack_traces_stay_on_one_line(stream: io.StringIO) -> None:
    log(logging.ERROR, "defect", error=ZeroDivisionError("x"))
    [line] = lines(stream)
    assert "ZeroDivisionError: x" in line["stack"]


def test_no_control_character_reaches_the_terminal(stream: io.StringIO) -> None:
    log(logging.INFO, "x", text="\x1b[2J \x9b31m \u2028")
    assert stream.getvalue().strip().isprintable()


async def test_refusals_are_counted_and_none_is_lost(stream: io.StringIO) -> None:
    refusals = RefusalLog()
    refusals.note(OverloadedError("full"))
    assert [(line["reason"], line["count"]) for line in lines(stream)] == [("OVERLOADED", 1)]
    for error in (
        OverloadedError("full"),
        OverloadedError("full"),
        GatewayError(error_pb2.ERROR_REASON_SHUTTING_DOWN, "bye"),
    ):
        refusals.note(error)
    assert len(lines(stream)) == 1
    refusals.flush()
    told = [(line["reason"], line["count"]) for line in lines(stream)[1:]]
    assert told == [("OVERLOADED", 2), ("SHUTTING_DOWN", 1)]
    refusals.flush()
    assert len(lines(stream)) == 3
