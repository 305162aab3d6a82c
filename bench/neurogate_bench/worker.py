"""One generator process: takes jobs as JSON lines on standard input, answers each with a JSON line.

A process of its own, so that the interpreter that sends shares nothing with the one that supervises, and its
CPU time
is the generator's and nobody else's.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import grpc

from neurogate_bench import callers, calls, streams
from neurogate_bench.tally import Expectation, Tally


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
        case "predict" | "predict_transform":
            return calls.Predict(
                target,
                images,
                timeout,
                side=job["side"],
                in_call=job["call"] == "predict_transform",
                model=job["model"],
                dtype=job.get("dtype", "uint8"),
                tensor=job.get("input", "images"),
            )
        case "http_bytes" | "http_json":
            return calls.Http(
                target, images, timeout, path=job["path"], body=job["call"].removeprefix("http_")
            )
    raise ValueError(f"no call is named {job['call']!r}")


async def _one(call: calls.Call, number: int, since: float, tally: Tally) -> None:
    """Sends one request and books its answer; `since` is when it should have been sent."""
    try:
        answers = await call.send(number)
    except calls.RefusedError as refused:
        tally.refused(refused.name, time.monotonic() - since)
        return
    except (OSError, EOFError, TimeoutError, grpc.aio.AioRpcError) as error:
        tally.refused(type(error).__name__, time.monotonic() - since)
        return
    tally.answered(number, answers, time.monotonic() - since)


async def _closed(call: calls.Call, job: dict[str, Any], tally: Tally) -> None:
    """Keeps `concurrency` requests in flight: what the system can do."""
    # From now and not from the agreed start: a late start must not make a shorter run.
    end = time.monotonic() + job["seconds"]
    numbers = iter(range(job.get("first", 0), sys.maxsize))

    async def caller() -> None:
        while (sent := time.monotonic()) < end:
            await _one(call, next(numbers), sent, tally)

    await asyncio.gather(*(caller() for _ in range(job["concurrency"])))


async def _open(call: calls.Call, job: dict[str, Any], tally: Tally) -> None:
    """Sends by the clock whatever the answers do: what independent users see."""
    tasks = set()
    for number, offset in enumerate(job["arrivals"]):
        due = job["start_at"] + offset
        if (wait := due - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        tally.late.append(time.monotonic() - due)
        task = asyncio.create_task(_one(call, number, due, tally))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    if tasks:
        await asyncio.wait(tasks)


def _read(path: str) -> bytes:
    """Before the job's start, while nothing else is to do on the loop."""
    return Path(path).read_bytes()


class Calls:
    """Keeps connections and prepared requests between the bursts of a scenario, as a client keeps them."""

    _IDENTITY = ("call", "target", "images", "batch", "side", "model", "dtype", "input", "path", "timeout")

    def __init__(self) -> None:
        self._open: dict[str, calls.Call] = {}

    async def get(self, job: dict[str, Any], images: list[bytes]) -> calls.Call:
        """The call that a job wants, connected."""
        key = json.dumps([job.get(name) for name in self._IDENTITY])
        if key not in self._open:
            call = make_call(job, images)
            await call.open()
            self._open[key] = call
        return self._open[key]

    async def release(self) -> None:
        """Ends all connections."""
        while self._open:
            await self._open.popitem()[1].close()


async def perform(job: dict[str, Any], kept: Calls) -> dict[str, Any]:
    """Runs one job from its common start to the last answer."""
    if job.get("mode") == "release":
        await kept.release()
        return {}
    images = [_read(path) for path in job["images"]]
    tally = Tally(Expectation.of(job))
    if job["call"] == "stream":
        return (await streams.run(job, images, tally)).reply()
    if job["call"] == "callers":
        return (await callers.run(job, images, tally)).reply()
    call = await kept.get(job, images)
    if job["mode"] == "ask":
        return {"answers": [(await call.send(number))[0] for number in range(len(images))]}
    await asyncio.sleep(max(0.0, job["start_at"] - time.monotonic()))
    tally.begin()
    await (_open if job["mode"] == "open" else _closed)(call, job, tally)
    tally.end()
    return tally.reply()


async def main() -> None:
    """Serves jobs until standard input ends."""
    kept = Calls()
    for line in iter(sys.stdin.readline, ""):
        try:
            reply = await perform(json.loads(line), kept)
        except Exception as error:  # noqa: BLE001 - whatever it is, the supervisor must hear of it
            reply = {"failed": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
