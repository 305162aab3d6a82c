"""The way of an image: a `Classify` passes eight modules, one after another, and returns to none of them.

The gateway here has no observers of predictions (metrics, journal, shadow, guards): those look on from beside
the way.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import neurogate_gateway
import pytest
from neurogate.v1 import classification_pb2, model_pb2
from neurogate_gateway.observability.logging import current_call
from neurogate_gateway.release.router import Routing
from neurogate_testing.fake_backend import sample_image
from neurogate_testing.gateway_harness import serving_gateway

PACKAGE = Path(neurogate_gateway.__file__).parent
AROUND = ("rpc/interceptor", "errors", "deadline", "observability/")
"""What surrounds every call and is no station of an image."""
WAY = [
    "rpc/classification",
    "inference/pipeline",
    "inference/admission",
    "release/router",
    "inference/preprocessing",
    "backends/pool",
    "backends/concurrency",
    "backends/tfserving",
]


class Entry(NamedTuple):
    """A function of `module` was called by `caller`, the next module down the stack; None for the loop."""

    caller: str | None
    module: str


class Recorder:
    """Notes every call that leads from one module of the gateway into another, in all threads.

    A coroutine or generator that is resumed is no call: its frame is known already. What the loop or a
    thread begins has no module of the gateway below it on the stack. Of the loop's thread only what belongs
    to a client's call counts, by its context; polls run beside it.
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.armed = False
        self._frames: set[FrameType] = set()
        self._loop_thread = threading.get_ident()

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or not self.armed or frame in self._frames:
            return
        if threading.get_ident() == self._loop_thread and current_call.get(None) is None:
            return
        module = _module_of(frame)
        if module is None:
            return
        self._frames.add(frame)
        below = frame.f_back
        while below is not None and _module_of(below) is None:
            below = below.f_back
        caller = _module_of(below) if below is not None else None
        if caller != module:
            self.entries.append(Entry(caller, module))


def _module_of(frame: FrameType) -> str | None:
    """The module that a function is written in; None where it is no station, or where @dataclass wrote it."""
    path = Path(frame.f_code.co_filename)
    if not path.is_relative_to(PACKAGE):
        return None
    module = str(path.relative_to(PACKAGE).with_suffix(""))
    return None if module.startswith(AROUND) else module


def stations(entries: list[Entry]) -> list[str]:
    """The modules in the order of their first entry.

    Raises:
        AssertionError: One that was left was entered again. A module is left when another one was entered
            that is not below it, which means called by it or by one that is below it. The loop and the
            threads only go on with what a module has begun, so do not enter it again.
    """
    order: list[str] = []
    parents: dict[str, str | None] = {}
    open_now: list[str] = []
    for caller, module in entries:
        if module not in parents:
            order.append(module)
            parents[module] = caller
        elif caller is None:
            continue
        else:
            assert module in open_now, f"{caller} returns to {module} after {open_now[-1]}: {entries}"
        open_now = [module]
        while (parent := parents[open_now[-1]]) is not None:
            open_now.append(parent)
    return order


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    made = Recorder()
    before = sys.getprofile()
    threading.setprofile(made)
    sys.setprofile(made)
    yield made
    sys.setprofile(before)
    threading.setprofile(None)


@pytest.mark.parametrize(
    ("selector", "routing"),
    [
        (model_pb2.ModelSelector(), None),
        (model_pb2.ModelSelector(version=1), None),
        (model_pb2.ModelSelector(), Routing({"stable": 1, "canary": 1}, canary_percent=50)),
    ],
    ids=["label", "number", "canary"],
)
async def test_an_image_passes_eight_modules_and_returns_to_none(
    recorder: Recorder, selector: model_pb2.ModelSelector, routing: Routing | None
) -> None:
    request = classification_pb2.ClassifyRequest(image=sample_image(), model=selector, request_id="r")
    async with serving_gateway(poll_interval_seconds=5) as (gateway, _):
        gateway.gateway.router.set_routing(routing)
        # What a version says about itself is worked out once, by the first image.
        await gateway.classification.Classify(request)
        recorder.armed = True
        response = await gateway.classification.Classify(request)
        recorder.armed = False
    assert response.model.version == 1
    assert stations(recorder.entries) == WAY


def test_a_return_is_found() -> None:
    below = [Entry(None, "a"), Entry("a", "b"), Entry("b", "c"), Entry("b", "c"), Entry("a", "b")]
    assert stations([*below, Entry(None, "b"), Entry("a", "d")]) == ["a", "b", "c", "d"]
    for returned in (Entry("a", "b"), Entry("d", "c")):
        with pytest.raises(AssertionError, match="returns to"):
            stations([*below, Entry("a", "d"), returned])
