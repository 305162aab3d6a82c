"""The calls to a model server: who gets a slot, how many there are, and that refused calls are not lost.

In virtual time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, cast

import pytest
from neurogate_gateway.backends.concurrency import (
    START,
    CallKind,
    CallSlots,
    ConcurrencyLimit,
    arrivals,
    take_slot,
)
from neurogate_gateway.backends.control_calls import ControlCalls
from neurogate_gateway.backends.tfserving import ReloadRefusedError, ServerFullError, TensorFlowServing
from neurogate_gateway.errors import BackendUnavailableError, DeadlineTooShortError
from neurogate_testing.threaded_server import ThreadedServer
from neurogate_testing.virtual_time import run, virtual

OWN, SINGLE, BULK = CallKind


@pytest.fixture(autouse=True)
def same_pauses() -> None:
    """Every run is the same, to the last pause."""
    random.seed(1)


class Gateway:
    """A gateway's calls to one server: `ask` is what the gateway does for an image."""

    def __init__(self, server: ThreadedServer, limit: ConcurrencyLimit | None = None) -> None:
        self.server = server
        self.refused: list[str] = []
        self.slots = CallSlots("a:1", limit or ConcurrencyLimit(), self.refused.append)
        self.answered = 0

    async def ask(self, kind: CallKind = SINGLE) -> None:
        arrival = next(arrivals)
        while True:
            if not await take_slot([self.slots], kind, arrival, seconds=30):
                continue
            with contextlib.suppress(ServerFullError):
                await self.slots.send(kind, self.server.call).answer
                self.answered += 1
                return

    @contextlib.asynccontextmanager
    async def loops(self, count: int) -> AsyncIterator[None]:
        """So many callers that ask again at once."""

        async def loop() -> None:
            while True:
                await self.ask()

        tasks = [asyncio.create_task(loop()) for _ in range(count)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await self.slots.idle()


def slots(limit: int) -> CallSlots:
    return CallSlots("a:1", ConcurrencyLimit(fixed=limit))


async def turn(where: CallSlots | Sequence[CallSlots], kind: CallKind) -> asyncio.Task[CallSlots | None]:
    """Somebody who waits, and waits already when this returns."""
    servers = [where] if isinstance(where, CallSlots) else where
    waiting = asyncio.create_task(take_slot(servers, kind, next(arrivals), seconds=1000))
    await asyncio.sleep(0)
    return waiting


async def order(where: CallSlots, waiting: dict[str, asyncio.Task[CallSlots | None]]) -> list[str]:
    """In which order they get the one slot there is."""
    kinds = {"own": OWN, "single": SINGLE, "bulk": BULK}
    got = []
    while waiting:
        await asyncio.sleep(0)
        [name] = [name for name, task in waiting.items() if task.done()]
        got.append(name)
        del waiting[name]
        where.leave(kinds[name.rstrip("12")])
    return got


@pytest.mark.parametrize("threads", [2, 3, 4, 8, 64])
@pytest.mark.parametrize("callers", [1, 64])
@virtual
async def test_every_call_is_answered_whatever_the_server_takes(threads: int, callers: int) -> None:
    gateway = Gateway(ThreadedServer(threads))
    await asyncio.gather(*(gateway.ask() for _ in range(callers)))
    async with gateway.loops(callers):
        await asyncio.sleep(5)
    assert gateway.answered > callers
    assert (len(gateway.slots.calls), gateway.slots.waiting, gateway.server.running) == (0, 0, 0)
    assert len(gateway.refused) == gateway.server.refusals


@pytest.mark.parametrize(("threads", "share"), [(8, 0.95), (16, 0.95), (64, 0.95)])
def test_the_limit_costs_next_to_nothing(threads: int, share: float) -> None:
    async def answers(threads: int) -> int:
        gateway = Gateway(ThreadedServer(threads))
        async with gateway.loops(32):
            await asyncio.sleep(15)
        return gateway.answered

    assert run(answers(threads)) >= share * run(answers(128))


@virtual
async def test_few_calls_are_refused_once_the_limit_is_found() -> None:
    gateway = Gateway(ThreadedServer(16))
    async with gateway.loops(32):
        await asyncio.sleep(5)
        refused, answered = len(gateway.refused), gateway.answered
        await asyncio.sleep(30)
    assert len(gateway.refused) - refused < 0.03 * (gateway.answered - answered)


@pytest.mark.parametrize(("threads", "seconds"), [(8, 0.02), (16, 0.02), (16, 0.5), (64, 0.5)])
def test_the_limit_is_back_within_two_seconds_of_another_client_going(threads: int, seconds: float) -> None:
    async def main() -> None:
        gateway = Gateway(ThreadedServer(threads, seconds=seconds, cores=64))
        async with gateway.loops(64):
            await asyncio.sleep(10)
            before = await most_of(gateway, 2)
            held = 0
            while held < threads // 2:
                held += gateway.server.hold(threads // 2 - held)
                await asyncio.sleep(0.001)
            await asyncio.sleep(5)
            assert await most_of(gateway, 2) <= (threads - 1 - held) + 1
            gateway.server.release(held)
            assert await most_of(gateway, 2) >= before - 1

    async def most_of(gateway: Gateway, seconds: float) -> int:
        values = []
        for _ in range(round(seconds * 50)):
            await asyncio.sleep(0.02)
            values.append(gateway.slots.limit.value)
        return max(values)

    run(main())


@pytest.mark.parametrize(
    ("threads", "seconds", "gateways"),
    [
        *((threads, 0.02, 3) for threads in (2, 4, 8, 16, 64)),
        *((threads, 0.3, 3) for threads in (2, 4)),
        *(pytest.param(threads, 0.005, 3, marks=pytest.mark.slow) for threads in (2, 4)),
        (2, 0.3, 2),
    ],
)
@virtual
async def test_gateways_share_a_server(threads: int, seconds: float, gateways: int) -> None:
    server = ThreadedServer(threads, seconds=seconds)
    several = [Gateway(server) for _ in range(gateways)]
    async with contextlib.AsyncExitStack() as stack:
        for gateway in several:
            await stack.enter_async_context(gateway.loops(64))
            # They do not begin together, so the first has everything at first.
            await asyncio.sleep(2)
        before = [gateway.answered for gateway in several]
        await asyncio.sleep(30)
        shares = [gateway.answered - count for gateway, count in zip(several, before, strict=True)]
    assert max(shares) <= 1.5 * min(shares), shares


@virtual
async def test_a_full_server_is_tried_with_pauses_and_not_by_every_call() -> None:
    server = ThreadedServer(8)
    server.hold(7)
    gateway = Gateway(server)
    waiting = [asyncio.create_task(gateway.ask()) for _ in range(64)]
    await asyncio.sleep(5)
    assert gateway.slots.shut
    # Pauses of 25 to 50 ms, after a few that are shorter.
    assert 100 <= server.refusals <= 220
    server.release(7)
    await asyncio.gather(*waiting)
    assert not gateway.slots.shut


@virtual
async def test_own_calls_come_first_then_singles_then_bulk_each_first_come_first_served() -> None:
    where = slots(1)
    assert where.enter(BULK)
    names = ["bulk1", "single1", "bulk2", "own1", "single2", "own2"]
    kinds = {"bulk": BULK, "single": SINGLE, "own": OWN}
    waiting = {name: await turn(where, kinds[name.rstrip("12")]) for name in names}
    assert not where.enter(SINGLE)
    assert where.waiting == 6
    where.leave(BULK)
    # Of a single slot the gateway's own calls have no more than every other turn.
    assert await order(where, waiting) == ["own1", "single1", "own2", "single2", "bulk1", "bulk2"]
    assert where._held == [0, 0, 0]


@virtual
async def test_one_slot_is_kept_for_the_gateways_own_calls() -> None:
    where = slots(5)
    assert [where.enter(BULK) for _ in range(6)] == [True] * 4 + [False] * 2
    assert where.enter(OWN)
    assert not where.enter(OWN)
    # With room to spare there may be more of them, but not while a caller waits.
    where.leave(BULK)
    where.leave(BULK)
    assert where.enter(OWN)
    where.leave(OWN)
    waiting = [await turn(where, BULK) for _ in range(3)]
    assert not where.enter(OWN)
    where.leave(BULK)
    assert await waiting[0] is await waiting[1] is await waiting[2] is where


@virtual
async def test_who_is_cancelled_while_waiting_takes_nothing_along() -> None:
    where = slots(1)
    assert where.enter(SINGLE)
    first, second, third = [await turn(where, SINGLE) for _ in range(3)]
    first.cancel()
    await asyncio.wait([first])
    assert where.waiting == 2
    # The slot comes in the same moment as the cancellation.
    where.leave(SINGLE)
    second.cancel()
    assert await third is where
    where.leave(SINGLE)
    assert (where.waiting, where._held) == (0, [0, 0, 0])


@virtual
async def test_who_has_no_time_left_is_told_and_leaves() -> None:
    where = slots(1)
    assert where.enter(SINGLE)
    for seconds in (-1, 0, 0.5):
        with pytest.raises(DeadlineTooShortError):
            await take_slot([where], SINGLE, next(arrivals), seconds=seconds)
    assert where.waiting == 0


@virtual
async def test_a_slot_that_was_not_used_keeps_nobody_who_waits_for_the_last_one() -> None:
    where = slots(1)
    assert where.enter(SINGLE)
    idle = asyncio.create_task(where.idle())
    await asyncio.sleep(0)
    where.leave(SINGLE)
    async with asyncio.timeout(1):
        await idle


def test_a_fall_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        gateway = Gateway(ThreadedServer(16))
        async with gateway.loops(32):
            await asyncio.sleep(50)
        assert len(gateway.refused) > 10

    caplog.set_level(logging.INFO, "neurogate_gateway")
    run(main())
    assert 1 <= caplog.messages.count("backend_limit_fell") <= 5


class Asked:
    """A backend whose methods are answered, refused or hang as the server says."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call
        self.reloads = 0

    async def versions(self, model: str, *, seconds: float) -> list[Any]:
        await self.call()
        return []

    async def describe(self, model: str, version: int, *, seconds: float) -> bytes:
        await self.call()
        return b"manifest"

    async def reload(self, config: object) -> None:
        self.reloads += 1
        await self.call()


def own_calls(call: Callable[[], Any], limit: int = 4) -> tuple[ControlCalls, CallSlots, Asked]:
    asked, where = Asked(call), slots(limit)
    return ControlCalls(cast("TensorFlowServing", asked), where), where, asked


@virtual
async def test_own_calls_that_are_refused_are_sent_again() -> None:
    server = ThreadedServer(2)
    server.hold(1)
    own, _, asked = own_calls(server.call)
    calls = [
        asyncio.create_task(own.versions("m", seconds=5)),
        asyncio.create_task(own.describe("m", 1, seconds=5)),
        asyncio.create_task(own.reload(cast("Any", None), seconds=5)),
    ]
    await asyncio.sleep(1)
    assert server.refusals > 3
    server.release(1)
    assert await asyncio.gather(*calls) == [[], b"manifest", None]
    assert asked.reloads > 1


@virtual
async def test_own_calls_that_are_refused_all_the_time_say_so() -> None:
    server = ThreadedServer(2)
    server.hold(1)
    own, where, _ = own_calls(server.call)
    for call in (own.versions("m", seconds=1), own.describe("m", 1, seconds=1)):
        with pytest.raises(ServerFullError):
            await call
    assert (where.waiting, where._held) == (0, [0, 0, 0])


@virtual
async def test_a_poll_needs_no_slot_and_the_others_wait_for_theirs() -> None:
    server = ThreadedServer(8)
    own, where, _ = own_calls(server.call, limit=1)
    assert where.enter(SINGLE)
    assert await own.versions("m", seconds=1) == []
    with pytest.raises(DeadlineTooShortError):
        await own.describe("m", 1, seconds=1)


@virtual
async def test_one_configuration_at_a_time_and_none_behind_one_that_hangs() -> None:
    answers = asyncio.Event()
    own, where, asked = own_calls(answers.wait)
    config = cast("Any", None)
    with pytest.raises(DeadlineTooShortError):
        await own.reload(config, seconds=1)
    for _ in range(3):
        with pytest.raises(ReloadRefusedError, match="before"):
            await own.reload(config, seconds=1)
    # It holds a thread of the server, and no slot of those who can still be served.
    assert (asked.reloads, len(where.calls), where._held) == (1, 1, [0, 0, 0])
    answers.set()
    await asyncio.sleep(1)
    await own.reload(config, seconds=1)
    assert asked.reloads == 2


@virtual
async def test_a_configuration_that_fails_leaves_the_way_free() -> None:
    async def fail() -> None:
        raise BackendUnavailableError("gone")

    own, where, asked = own_calls(fail)
    for _ in range(2):
        with pytest.raises(BackendUnavailableError):
            await own.reload(cast("Any", None), seconds=1)
    assert (asked.reloads, len(where.calls)) == (2, 0)


def wait(limit: ConcurrencyLimit, seconds: float) -> list[int]:
    """What the limit is while calls wait, every hundredth of a second."""
    values = []
    for _ in range(round(seconds * 100)):
        limit.waited(0.01)
        values.append(limit.value)
    return values


def test_the_limit_rises_only_while_calls_wait_and_no_higher_than_it_may() -> None:
    limit = ConcurrencyLimit(max_value=20)
    assert limit.value == START == 3
    values = wait(limit, 3)
    assert values == sorted(values)
    assert values[-1] == 20
    assert ConcurrencyLimit(max_value=2).value == 2


def test_a_refusal_halves_the_limit() -> None:
    limit = ConcurrencyLimit()
    wait(limit, 5)
    limit.fall(others=40)
    assert limit.value == 20


def test_the_limit_stays_below_where_it_was_refused_for_a_while_and_is_higher_within_two_seconds() -> None:
    limit = ConcurrencyLimit()
    limit.fall(others=31)
    values = wait(limit, 2)
    assert max(values[:60]) < 31
    assert values[50] >= 24
    assert values[-1] >= 62


@pytest.mark.parametrize("others", [0, 1, 2])
def test_the_limit_never_falls_below_one_and_comes_back_from_there(others: int) -> None:
    limit = ConcurrencyLimit()
    limit.fall(others)
    assert limit.value == 1
    assert wait(limit, 2)[-1] >= 6


def test_a_burst_makes_the_limit_fall_once_and_to_where_there_was_room() -> None:
    limit = ConcurrencyLimit()
    wait(limit, 5)
    limit.fall(others=12)
    assert limit.value == 6
    for others in (11, 10, 9):
        limit.correct(others)
    assert limit.value >= 4
    assert max(wait(limit, 0.5)) <= 8


def test_a_fixed_limit_is_what_it_was_set_to() -> None:
    limit = ConcurrencyLimit(fixed=7)
    limit.fall(others=2)
    limit.correct(others=1)
    assert (limit.value, wait(limit, 3)[-1]) == (7, 7)
