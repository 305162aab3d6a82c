from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from neurogate_client import aio, errors
from neurogate_testing.fake_gateway import FakeGateway


def images(count: int) -> Iterator[tuple[int, bytes]]:
    for number in range(count):
        yield number, b"glioma"


async def test_closing_the_asyncio_client_ends_its_streams_and_calls(gateway: FakeGateway) -> None:
    gateway.script.gate.clear()
    client = aio.Client(gateway.address)

    async def consume() -> None:
        async for _ in client.stream_classify(images(3)):
            pass

    task = asyncio.create_task(consume())
    assert await asyncio.to_thread(gateway.script.received.acquire, timeout=10)
    await client.close()
    with pytest.raises(errors.CallCancelledError):
        await task


async def test_an_asynchronous_source_and_a_cancelled_consumer(gateway: FakeGateway) -> None:
    async def source() -> Any:
        for number in itertools.count():
            yield number, b"glioma"

    async with aio.Client(gateway.address) as client:
        seen = 0

        async def consume() -> None:
            nonlocal seen
            async for _ in client.stream_classify(source()):
                seen += 1
                if seen == 5:
                    task.cancel()

        task = asyncio.create_task(consume())
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(gateway.script.cancelled.wait, 10)
        assert (await client.classify(b"notumor")).top.class_id == "notumor"


async def test_what_an_asynchronous_source_raises(gateway: FakeGateway) -> None:
    async def source(error: BaseException) -> Any:
        yield 0, b"glioma"
        raise error

    async with aio.Client(gateway.address) as client:
        for error in (OSError("gone"), asyncio.CancelledError()):
            results = client.stream_classify(source(error))
            assert (await anext(results)).key == 0
            with pytest.raises(type(error)):
                await anext(results)


async def test_a_plain_source_is_stepped_outside_of_the_event_loop(gateway: FakeGateway) -> None:
    threads: set[int] = set()

    def source() -> Iterator[tuple[int, bytes]]:
        threads.add(threading.get_ident())
        yield 0, b"glioma"

    async with aio.Client(gateway.address) as client:
        assert [each.key async for each in client.stream_classify(source())] == [0]
    assert threading.get_ident() not in threads


async def test_a_cancelled_unary_call_stays_cancelled(gateway: FakeGateway) -> None:
    gateway.script.hang = True
    async with aio.Client(gateway.address) as client:
        call = asyncio.create_task(client.classify(b"glioma"))
        assert await asyncio.to_thread(gateway.script.hanging.wait, 10)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await asyncio.to_thread(gateway.script.cancelled.wait, 10)


async def test_a_closed_asyncio_client_says_so(gateway: FakeGateway) -> None:
    gateway.script.hang = True
    client = aio.Client(gateway.address)
    running = [asyncio.create_task(each) for each in (client.health(), client.classify(b"glioma"))]
    await asyncio.sleep(0)
    await client.close()
    for task in running:
        with pytest.raises(errors.CallCancelledError, match="closed during the call"):
            await task
    for call in (client.classify(b"glioma"), client.health(), anext(client.stream_classify([("k", b"x")]))):
        with pytest.raises(errors.CallCancelledError, match="the client is closed"):
            await call


def test_a_client_that_was_made_outside_of_any_loop(gateway: FakeGateway) -> None:
    client = aio.Client(gateway.address)

    async def classify() -> str:
        return (await client.classify(b"glioma")).top.class_id

    # One loop after the other, as scripts and notebooks have them.
    assert [asyncio.run(classify()) for _ in range(2)] == ["glioma"] * 2
    asyncio.run(client.close())

    async def closed() -> None:
        with pytest.raises(errors.CallCancelledError):
            await client.classify(b"glioma")

    asyncio.run(closed())


async def test_a_second_loop_beside_the_first_is_told_why_not(gateway: FakeGateway) -> None:
    async with aio.Client(gateway.address) as client:
        await client.classify(b"glioma")
        with pytest.raises(RuntimeError, match="belongs to the event loop of its first call"):
            await asyncio.to_thread(asyncio.run, client.classify(b"glioma"))
        await client.classify(b"glioma")
