"""The generator's side of StreamClassify, and steady callers who use it beside single calls."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
from neurogate.v1 import classification_pb2

from neurogate_bench import calls
from neurogate_bench.load import Booking

_Request = classification_pb2.StreamClassifyRequest
_Response = classification_pb2.StreamClassifyResponse
Pictures = AsyncIterator[tuple[int, bytes]]


async def run_streams(job: dict[str, Any], images: list[bytes], booking: Booking) -> None:
    """Keeps `concurrency` streams open for `seconds`, or until `count` pictures are sent, and then until
    the last answer."""
    async with calls.connected(job["target"]) as channel:
        await asyncio.sleep(max(0.0, job["start_at"] - time.monotonic()))
        booking.begin()
        end = time.monotonic() + job.get("seconds", 0.0)
        count = job.get("count")
        numbers = iter(range(count or sys.maxsize))

        async def pictures() -> Pictures:
            while (count or time.monotonic() < end) and (number := next(numbers, None)) is not None:
                yield number, images[number % len(images)]

        await asyncio.gather(*(_stream(channel, job, pictures(), booking) for _ in range(job["concurrency"])))
        booking.end()


async def run_callers(job: dict[str, Any], images: list[bytes], booking: Booking) -> None:
    """Lets `unary` and `streams` callers send `rate` pictures a second together, each at its own beat,
    until `seconds` are over or `stop_file`, if one is named, is there. After `stream_seconds` a stream's
    caller opens another one."""
    call = calls.Classify(job["target"], images, job.get("timeout", 30.0))
    await call.open()
    callers = job["unary"] + job["streams"]
    interval = callers / job["rate"]
    async with calls.connected(job["target"]) as channel:
        booking.begin()
        begun = time.monotonic()
        stop, end = Path(job.get("stop_file", os.devnull)), begun + job["seconds"]

        def goes_on() -> bool:
            return time.monotonic() < end and not stop.is_file()

        async def unary(first: int, beat: AsyncIterator[None]) -> None:
            for number in itertools.count(first, callers):
                await anext(beat)
                if not goes_on():
                    return
                sent = time.monotonic()
                try:
                    answers = await call.send(number)
                except calls.RefusedError as refused:
                    booking.refused(refused.name, time.monotonic() - sent)
                else:
                    booking.answered(number, answers, time.monotonic() - sent)

        async def streams(first: int, beat: AsyncIterator[None]) -> None:
            numbers = itertools.count(first)

            async def pictures() -> Pictures:
                over = time.monotonic() + job["stream_seconds"]
                while goes_on() and time.monotonic() < over:
                    await anext(beat)
                    number = next(numbers)
                    yield number, images[number % len(images)]

            while goes_on():
                await _stream(channel, job, pictures(), booking)

        beats = [_beats(begun + number * interval / callers, interval) for number in range(callers)]
        kinds = [unary] * job["unary"] + [streams] * job["streams"]
        await asyncio.gather(*(kind(number, beats[number]) for number, kind in enumerate(kinds)))
        booking.end()
    await call.close()


async def _beats(due: float, interval: float) -> AsyncIterator[None]:
    """Yields at equal distances from `due` on; what is overdue is sent at once and moves the rest."""
    while True:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        yield
        due = max(due + interval, time.monotonic())


async def _stream(
    channel: grpc.aio.Channel, job: dict[str, Any], pictures: Pictures, booking: Booking
) -> None:
    """One stream with at most `window` pictures in flight. A second answer, a missing one and answers of two
    versions are booked as wrong."""
    call = channel.stream_stream(
        calls.STREAM_CLASSIFY,
        request_serializer=_Request.SerializeToString,
        response_deserializer=_Response.FromString,
    )(timeout=600)
    window = asyncio.Semaphore(job.get("window", 64))
    opened = time.monotonic()
    sent: dict[str, float] = {}
    versions: set[int] = set()
    wrong = booking.load.wrong

    async def write() -> None:
        config = classification_pb2.StreamClassifyConfig(allow_out_of_order=job.get("out_of_order", True))
        await call.write(_Request(config=config))
        async for number, image in pictures:
            await window.acquire()
            sent[str(number)] = time.monotonic()
            await call.write(_Request(key=str(number), image=image))
        await call.done_writing()

    writer = asyncio.create_task(write())
    try:
        while isinstance(response := await call.read(), _Response):
            window.release()
            since = sent.pop(response.key, None)
            if since is None:
                wrong["answered twice"] += 1
                continue
            taken = time.monotonic() - since
            if response.HasField("error"):
                booking.refused(f"item status {response.error.code}", taken)
                continue
            versions.add(response.model.version)
            answer = calls.answer_of(response.classification, response.model.version)
            booking.answered(int(response.key), [answer], taken, opened=opened)
        await writer
    except grpc.aio.AioRpcError as error:
        booking.refused(error.code().name, 0.0)
    finally:
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)
    if sent:
        wrong["never answered"] += len(sent)
    if len(versions) > 1:
        wrong["stream of two versions"] += 1
