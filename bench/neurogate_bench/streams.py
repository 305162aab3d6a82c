"""Generator's side of StreamClassify: several streams at once, each with a bounded number of pictures in
flight."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import grpc
from neurogate.v1 import classification_pb2

from neurogate_bench.calls import CHANNEL_OPTIONS, STREAM_CLASSIFY, Answer, answer_of
from neurogate_bench.tally import Tally

_Response = classification_pb2.StreamClassifyResponse


async def run(job: dict[str, Any], images: list[bytes], tally: Tally) -> Tally:
    """Streams for `seconds`, or until `count` pictures are sent, and then until the last answer.

    Each key must be answered exactly once: a second answer and a missing one are booked as wrong.
    """
    channel = grpc.aio.insecure_channel(job["target"], options=CHANNEL_OPTIONS)
    await asyncio.wait_for(channel.channel_ready(), 30)
    try:
        await asyncio.sleep(max(0.0, job["start_at"] - time.monotonic()))
        tally.begin()
        numbers = iter(range(job["count"])) if job.get("count") else _until(time.monotonic() + job["seconds"])
        await asyncio.gather(
            *(_stream(channel, job, images, numbers, tally) for _ in range(job["concurrency"]))
        )
        tally.end()
    finally:
        await channel.close()
    return tally


def _until(end: float) -> Iterator[int]:
    number = 0
    while time.monotonic() < end:
        yield number
        number += 1


async def _stream(
    channel: grpc.aio.Channel, job: dict[str, Any], images: list[bytes], numbers: Iterator[int], tally: Tally
) -> None:
    call = channel.stream_stream(
        STREAM_CLASSIFY,
        request_serializer=classification_pb2.StreamClassifyRequest.SerializeToString,
        response_deserializer=_Response.FromString,
    )(timeout=job.get("timeout", 600.0))
    window = asyncio.Semaphore(job["window"])
    sent: dict[str, tuple[int, float]] = {}
    answered: set[str] = set()

    async def write() -> None:
        config = classification_pb2.StreamClassifyConfig(allow_out_of_order=job.get("out_of_order", True))
        await call.write(classification_pb2.StreamClassifyRequest(config=config))
        for number in numbers:
            await window.acquire()
            key = str(number)
            sent[key] = (number, time.monotonic())
            image = images[number % len(images)]
            await call.write(classification_pb2.StreamClassifyRequest(key=key, image=image))
        await call.done_writing()

    async def read() -> None:
        while isinstance(response := await call.read(), _Response):
            key = response.key
            window.release()
            if key in answered or key not in sent:
                tally.wrong["answered twice"] += 1
                continue
            answered.add(key)
            number, since = sent[key]
            taken = time.monotonic() - since
            if response.HasField("error"):
                tally.refused(f"item status {response.error.code}", taken)
            else:
                answer: Answer = answer_of(response.classification, response.model.version)
                tally.answered(number, [answer], taken)

    writer = asyncio.create_task(write())
    try:
        await read()
        await writer
    except grpc.aio.AioRpcError as error:
        tally.refused(error.code().name, 0.0)
    finally:
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)
    if missing := len(sent) - len(answered):
        tally.wrong["never answered"] += missing
