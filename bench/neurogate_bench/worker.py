"""The generator's process: takes jobs as JSON lines on standard input, answers each with a JSON line.

The interpreter that sends shares nothing with the one that supervises, and its CPU time is the generator's
alone.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import grpc

from neurogate_bench import calls, streams
from neurogate_bench.load import Booking


def make_call(job: dict[str, Any], images: list[bytes]) -> calls.Call:
    """The request kind that a job names.

    Raises:
        ValueError: no such kind.
    """
    target, timeout = job["target"], job.get("timeout", 30.0)
    match job["call"]:
        case "classify":
            return calls.Classify(target, images, timeout)
        case "batch":
            return calls.BatchClassify(target, images, timeout, job["batch"])
        case "predict":
            return calls.Predict(target, images, timeout, job)
        case "http":
            return calls.Http(target, images, timeout, path=job["path"], body=job["body"])
    raise ValueError(f"no call is named {job['call']!r}")


async def _one(call: calls.Call, number: int, since: float, booking: Booking) -> None:
    """Sends one request and books its answer; `since` is when it should have been sent."""
    try:
        answers = await call.send(number)
    except calls.RefusedError as refused:
        booking.refused(refused.name, time.monotonic() - since)
    except (OSError, EOFError, TimeoutError, grpc.aio.AioRpcError) as error:
        booking.refused(type(error).__name__, time.monotonic() - since)
    else:
        booking.answered(number, answers, time.monotonic() - since)


async def _closed(call: calls.Call, job: dict[str, Any], booking: Booking) -> None:
    """Keeps `concurrency` requests in flight: what the system can do."""
    # From now and not from the agreed start: a late start must not make a shorter run.
    end = time.monotonic() + job["seconds"]
    numbers = itertools.count()

    async def caller() -> None:
        while (sent := time.monotonic()) < end:
            await _one(call, next(numbers), sent, booking)

    await asyncio.gather(*(caller() for _ in range(job["concurrency"])))


async def _open(call: calls.Call, job: dict[str, Any], booking: Booking) -> None:
    """Sends by the clock whatever the answers do: what independent users see."""
    async with asyncio.TaskGroup() as group:
        for number, offset in enumerate(job["arrivals"]):
            due = job["start_at"] + offset
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            booking.load.lateness_ms.append(round(1000 * (time.monotonic() - due), 3))
            group.create_task(_one(call, number, due, booking))


def _read(path: str) -> bytes:
    """Before the job's start, while nothing else is to do on the loop."""
    return Path(path).read_bytes()


_OF_A_BURST = ("mode", "seconds", "start_at", "arrivals", "rate", "concurrency", "expected", "versions")
_open_calls: dict[str, calls.Call] = {}
"""Connections and prepared requests are kept between the bursts of a scenario, as a client keeps them."""


async def _kept_call(job: dict[str, Any], images: list[bytes]) -> calls.Call:
    """The call that a job wants, connected."""
    key = json.dumps({name: value for name, value in job.items() if name not in _OF_A_BURST})
    if key not in _open_calls:
        call = make_call(job, images)
        await call.open()
        _open_calls[key] = call
    return _open_calls[key]


async def perform(job: dict[str, Any]) -> dict[str, Any]:
    """Runs one job from its start to the last answer."""
    if job["mode"] == "release":
        while _open_calls:
            await _open_calls.popitem()[1].close()
        return {}
    images = [_read(path) for path in job["images"]]
    booking = Booking(job)
    if job["mode"] == "callers":
        await streams.run_callers(job, images, booking)
    elif job["call"] == "stream":
        await streams.run_streams(job, images, booking)
    else:
        call = await _kept_call(job, images)
        if job["mode"] == "ask":
            return {"answers": [(await call.send(number))[0] for number in range(len(images))]}
        await asyncio.sleep(max(0.0, job["start_at"] - time.monotonic()))
        booking.begin()
        await (_open if job["mode"] == "open" else _closed)(call, job, booking)
        booking.end()
    return booking.load.to_json()


async def main() -> None:
    """Serves jobs until standard input ends."""
    for line in iter(sys.stdin.readline, ""):
        try:
            reply = await perform(json.loads(line))
        except Exception as error:  # noqa: BLE001 - whatever it is, the supervisor must hear of it
            reply = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
