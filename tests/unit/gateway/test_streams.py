"""Bidirectional calls: what is read but not answered is bounded, and whatever was read is answered."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from typing import NamedTuple, cast

import pytest
from neurogate.v1 import error_pb2
from neurogate_gateway.errors import GatewayError
from neurogate_gateway.rpc.interceptor import Context
from neurogate_gateway.rpc.streams import BidirectionalCall, BidirectionalServer, Window
from neurogate_testing.refusals import refused


class Word(NamedTuple):
    data: bytes


class Message:
    """Words that are whole with it."""

    def __init__(self, *words: bytes) -> None:
        self.words = words


class Caller:
    """Sends messages, and takes answers."""

    def __init__(self, *messages: Message) -> None:
        self.unread = list(messages)
        self.answers: list[bytes] = []

    async def __aiter__(self) -> AsyncIterator[Message]:
        while self.unread:
            yield self.unread.pop(0)

    async def write(self, answer: bytes) -> None:
        self.answers.append(answer)


class Call(BidirectionalCall[Message, Word, bytes]):
    """Answers each word with itself; b"slow" waits for its gate, b"silent" has no answer."""

    def __init__(self, *, window: Window | None = None, ordered: bool = True, idle: float = 600.0) -> None:
        super().__init__(window or Window(8, 1000), ordered=ordered, idle=idle)
        self.gate = asyncio.Event()
        self.begun: list[bytes] = []

    def _take(self, message: Message) -> list[Word]:
        if b"bad" in message.words:
            raise GatewayError(error_pb2.ERROR_REASON_KEY_INVALID, "bad")
        return [Word(word) for word in message.words]

    def _rest(self) -> list[Word]:
        return [Word(b"rest")]

    async def _answer(self, item: Word) -> bytes | None:
        self.begun.append(item.data)
        if item.data.startswith(b"slow"):
            await self.gate.wait()
        return None if item.data == b"silent" else item.data


class Server(BidirectionalServer[Message, Word, bytes]):
    async def serve(self, call: Call, caller: Caller, first: list[Word] | None = None) -> None:
        await self._run(call, aiter(caller), cast("Context", caller), first or [])


async def settled() -> None:
    """Everything that can happen without anybody else has happened."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_items_come_first_from_messages_and_from_the_end() -> None:
    caller, first = (
        Caller(Message(b"a", b"b"), Message(), Message(b"silent"), Message(b"c")),
        [Word(b"first")],
    )
    await Server().serve(Call(), caller, first)
    assert caller.answers == [b"first", b"a", b"b", b"c", b"rest"]
    assert first == []


@pytest.mark.parametrize(
    ("window", "begun", "unread"), [(Window(2, 1000), 2, 3), (Window(8, 10), 2, 2), (Window(8, 1), 1, 3)]
)
async def test_what_is_read_and_not_answered_is_bounded(window: Window, begun: int, unread: int) -> None:
    call, caller = Call(window=window), Caller(*[Message(b"slow%d" % n) for n in range(5)])
    serving = asyncio.create_task(Server().serve(call, caller))
    await settled()
    assert (len(call.begun), len(caller.unread)) == (begun, unread)
    call.gate.set()
    await serving
    assert caller.answers == [*[b"slow%d" % n for n in range(5)], b"rest"]


async def test_a_message_is_not_kept_while_the_next_one_is_awaited() -> None:
    message, sent = Message(b"slow"), asyncio.Event()
    seen = weakref.ref(message)
    messages = [message]
    del message

    class Waiting(Caller):
        async def __aiter__(self) -> AsyncIterator[Message]:
            yield messages.pop()
            await sent.wait()

    call = Call()
    serving = asyncio.create_task(Server().serve(call, Waiting()))
    await settled()
    gc.collect()
    assert (call.begun, seen()) == ([b"slow"], None)
    sent.set()
    call.gate.set()
    await serving


async def test_a_stop_lets_calls_answer_what_they_have_read_and_refuses_others() -> None:
    server, call, caller = Server(), Call(window=Window(2, 1000)), Caller(*[Message(b"slow")] * 5)
    assert not Server().stop_reading()
    serving = asyncio.create_task(server.serve(call, caller))
    await settled()
    assert server.stop_reading()
    call.gate.set()
    with refused("SHUTTING_DOWN", match="send what has no answer to another one"):
        await serving
    assert caller.answers == [b"slow", b"slow"]
    # One that was about to begin when the gateway began to stop, too.
    with refused("SHUTTING_DOWN"):
        await server.serve(Call(), Caller(Message(b"a")))
    assert not server.stop_reading()
