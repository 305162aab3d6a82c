"""Steady callers: each waits for its answer and sends again at its own beat, some by single calls, some in
streams."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
from neurogate.v1 import classification_pb2

from neurogate_bench import calls
from neurogate_bench.tally import Tally

_Request = classification_pb2.StreamClassifyRequest
_Response = classification_pb2.StreamClassifyResponse


class Beat:
    """A caller's own clock: due times at equal distances; what is overdue is sent at once and moves the
    rest."""

    def __init__(self, first: float, interval: float) -> None:
        self._due, self._interval = first, interval

    async def wait(self) -> None:
        """Until the next request is due."""
        await asyncio.sleep(max(0.0, self._due - time.monotonic()))
        self._due = max(self._due + self._interval, time.monotonic())


async def run(job: dict[str, Any], images: list[bytes], tally: Tally) -> Tally:
    """Lets `unary` and `streams` callers send `rate` pictures a second together, until `seconds` are over or
    `stop_file`, if one is named, is there. After `stream_seconds` a stream's caller opens another one.

    Streams whose answers name more than one version are booked as wrong.
    """
    call = calls.Classify(job["target"], images, job.get("timeout", 30.0))
    await call.open()
    channel = grpc.aio.insecure_channel(job["target"], options=calls.CHANNEL_OPTIONS)
    callers = job["unary"] + job["streams"]
    interval = callers / job["rate"]
    try:
        await asyncio.wait_for(channel.channel_ready(), 30)
        tally.begin()
        begun = time.monotonic()
        stop, end = Path(job.get("stop_file", os.devnull)), begun + job["seconds"]

        def goes_on() -> bool:
            return time.monotonic() < end and not stop.is_file()

        async def unary(number: int, beat: Beat) -> None:
            while goes_on():
                await beat.wait()
                sent = time.monotonic()
                try:
                    answers = await call.send(number)
                except calls.RefusedError as refused:
                    tally.refused(refused.name, time.monotonic() - sent)
                else:
                    tally.answered(number, answers, time.monotonic() - sent)
                number += callers

        async def streams(first: int, beat: Beat) -> None:
            numbers = itertools.count(first)

            def pictures() -> Iterator[tuple[int, bytes]]:
                over = time.monotonic() + job["stream_seconds"]
                while goes_on() and time.monotonic() < over:
                    number = next(numbers)
                    yield number, images[number % len(images)]

            while goes_on():
                await _stream(channel, pictures(), beat, tally)

        beats = [Beat(begun + number * interval / callers, interval) for number in range(callers)]
        kinds = [unary] * job["unary"] + [streams] * job["streams"]
        await asyncio.gather(*(kind(number, beats[number]) for number, kind in enumerate(kinds)))
        tally.end()
    finally:
        await call.close()
        await channel.close()
    return tally


async def _stream(
    channel: grpc.aio.Channel, pictures: Iterator[tuple[int, bytes]], beat: Beat, tally: Tally
) -> None:
    """One stream of these pictures, each with its number."""
    opened = time.monotonic()
    sent: dict[str, float] = {}
    versions: set[int] = set()

    async def requests() -> AsyncIterator[classification_pb2.StreamClassifyRequest]:
        for number, image in pictures:
            await beat.wait()
            sent[str(number)] = time.monotonic()
            yield _Request(key=str(number), image=image)

    method = channel.stream_stream(
        calls.STREAM_CLASSIFY,
        request_serializer=_Request.SerializeToString,
        response_deserializer=_Response.FromString,
    )
    answered = 0
    try:
        async for response in method(requests(), timeout=600):
            taken = time.monotonic() - sent[response.key]
            answered += 1
            if response.HasField("error"):
                tally.refused(f"item status {response.error.code}", taken)
                continue
            version = response.model.version
            versions.add(version)
            answer = calls.answer_of(response.classification, version)
            tally.answered(int(response.key), [answer], taken, opened=opened)
    except grpc.aio.AioRpcError as error:
        tally.refused(f"stream {error.code().name}", 0.0)
        return
    if len(versions) > 1:
        tally.wrong["stream of two versions"] += 1
    if answered != len(sent):
        tally.wrong["never answered"] += len(sent) - answered
