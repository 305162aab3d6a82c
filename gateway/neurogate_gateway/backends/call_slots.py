"""The calls to one model server: how many are in flight, and who waits for a place among them.

A call holds its place from when it is sent until the server has answered, or its deadline has passed: the
server keeps a thread for it as long, whether or not anybody waits for the answer any more. So a call that was
sent is never cancelled. One that the server refuses has had no effect; it comes first again, after a pause.

One place is kept for what the gateway asks for itself. Callers' single images come before those of batches
and streams, and each kind is first come, first served.
"""

from __future__ import annotations

import asyncio
import bisect
import enum
import functools
import itertools
import logging
import math
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from neurogate_gateway.observability.logging import log

from .backoff import Backoff
from .concurrency_limit import ConcurrencyLimit
from .tfserving import ServerFullError

_T = TypeVar("_T")
_TOO_FEW: Final = 3
"""Of so few places none is kept: the gateway's own calls take the next one instead."""
_LOOK_SECONDS: Final = 0.05
"""Between two looks at the limit while calls wait and nothing else happens."""
_LOG_SECONDS: Final = 60.0

LEAST_SECONDS: Final = 0.02
"""What a call needs to be sent: to one that begins to run at its deadline, the server knows no deadline."""

arrivals: Final = itertools.count()
"""Numbers by which those who wait stand in line."""


class CallKind(enum.IntEnum):
    """Whose call it is, in the order in which places are given."""

    OWN = 0
    SINGLE = 1
    BULK = 2


Turn = asyncio.Future["CallSlots | None"]
"""Resolved with where there is a place now, or with None when it has to be chosen anew."""
_Waiting = tuple[CallKind, int, Turn]


class CallSlots:
    """The calls to one model server."""

    def __init__(
        self, address: str, limit: ConcurrencyLimit, refused: Callable[[str], None] = lambda _: None
    ) -> None:
        """Nothing is in flight yet.

        Args:
            address: Of the server.
            limit: How many calls it may have.
            refused: Told the address whenever it has refused one.
        """
        self.address = address
        self.limit = limit
        self.shut = False
        """Whether the server refuses calls though none of this gateway is in flight there."""
        self._tell_refused = refused
        self._calls: set[asyncio.Task[Any]] = set()
        self._held = [0, 0, 0]
        self._own_was_last = False
        self._waiting: list[_Waiting] = []
        self._waited_until: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._pauses = Backoff()
        self._refused_at = self._logged_at = -math.inf
        self._logged = math.inf
        self._ended_one = asyncio.Event()

    @property
    def in_flight(self) -> int:
        """Calls that were sent and not answered yet."""
        return len(self._calls)

    @property
    def waiting(self) -> int:
        """Calls that would take a place here; with several servers they may wait at others, too."""
        return len(self._waiting)

    def enter(self, kind: CallKind) -> bool:
        """Takes a place where one is free and nobody waits who comes first; `send` has to follow."""
        if self._waiting and self._waiting[0][0] <= kind:
            return False
        if not self._fits(kind) or self._pauses.left(_now()) > 0:
            return False
        self._take(kind)
        return True

    def leave(self, kind: CallKind) -> None:
        """Gives a place back, by which nothing was sent."""
        self._held[kind] -= 1
        self._ended_one.set()
        self._give()

    def send(
        self,
        kind: CallKind | None,
        call: Coroutine[Any, Any, _T],
        told: Callable[[asyncio.Task[_T]], None] | None = None,
    ) -> asyncio.Task[_T]:
        """Begins a call.

        Args:
            kind: Of the place that was taken for it, which is given back when it has ended; None for none.
            call: The call.
            told: Called when it has ended.

        Returns:
            What must not be cancelled: who does not want to wait any longer leaves it alone.
        """
        task = asyncio.get_running_loop().create_task(call)
        self._calls.add(task)
        task.add_done_callback(functools.partial(self._ended, kind, _now(), told))
        return task

    def line_up(self, waiting: _Waiting) -> None:
        """Has a turn resolved when there is a place for it."""
        bisect.insort(self._waiting, waiting)
        self._give()

    def step_out(self, waiting: _Waiting) -> None:
        """Undoes `line_up`, where the turn has not come here."""
        index = bisect.bisect_left(self._waiting, waiting[:2], key=lambda entry: entry[:2])
        if index < len(self._waiting) and self._waiting[index] is waiting:
            del self._waiting[index]
        if not self._waiting:
            self._waited_until = None

    def send_away(self) -> None:
        """Has everyone who waits choose a server anew."""
        waiting, self._waiting = self._waiting, []
        for _, _, turn in waiting:
            if not turn.done():
                turn.set_result(None)

    async def idle(self) -> None:
        """Waits until no place is taken."""
        while any(self._held):
            self._ended_one.clear()
            await self._ended_one.wait()

    async def close(self) -> None:
        """Ends what is in flight; after the connection was closed."""
        for call in self._calls:
            call.cancel()
        if self._calls:
            await asyncio.wait(self._calls)

    def _ended(
        self,
        kind: CallKind | None,
        sent_at: float,
        told: Callable[[asyncio.Task[Any]], None] | None,
        task: asyncio.Task[Any],
    ) -> None:
        if told is not None:
            told(task)
        self._calls.discard(task)
        self._ended_one.set()
        if not task.cancelled() and isinstance(task.exception(), ServerFullError):
            self._refused(sent_at)
        else:
            now = _now()
            self.shut = False
            observe_latency = None if kind is None else now - sent_at
            self._pauses.answered(now, observe_latency, single=self.limit.value == 1)
        if kind is not None:
            self._held[kind] -= 1
        self._give()

    def _refused(self, sent_at: float) -> None:
        now, others = _now(), len(self._calls)
        self.shut = not others
        again = sent_at < self._refused_at
        others = self._pauses.refused(now, sent_at, others, again=again)
        if again:
            self.limit.correct(others)
        else:
            self._refused_at = now
            before = self.limit.value
            self.limit.fall(others)
            if self.limit.value < before:
                self._tell_fall(now, others)
        self._tell_refused(self.address)

    def _tell_fall(self, now: float, others: int) -> None:
        if others < self._logged or now - self._logged_at >= _LOG_SECONDS:
            self._logged, self._logged_at = others, now
            limit = self.limit.value
            log(logging.INFO, "backend_limit_fell", backend=self.address, limit=limit, in_flight=others)

    def _fits(self, kind: CallKind) -> bool:
        own, limit = self._held[CallKind.OWN], self.limit.value
        images = self._held[CallKind.SINGLE] + self._held[CallKind.BULK]
        if own + images >= limit:
            return False
        if kind is CallKind.OWN:
            # More than the one that is kept only while no image of a caller waits.
            return own < 1 or (own + images < limit - 1 and not self._callers_wait())
        return limit <= _TOO_FEW or images < limit - 1

    def _callers_wait(self) -> bool:
        return bool(self._waiting) and self._waiting[-1][0] is not CallKind.OWN

    def _take(self, kind: CallKind) -> None:
        self._held[kind] += 1
        self._own_was_last = kind is CallKind.OWN

    def _give(self) -> None:
        """Gives what is free to those who are first in line."""
        if not self._waiting:
            self._waited_until = None
            return
        now = _now()
        left = self._pauses.left(now)
        if left <= 0:
            if self._waited_until is not None:
                self.limit.waited(min(now - self._waited_until, 2 * _LOOK_SECONDS))
            while (index := self._next()) is not None:
                kind, _, turn = self._waiting.pop(index)
                if not turn.done():
                    self._take(kind)
                    turn.set_result(self)
        self._waited_until = now if self._waiting and left <= 0 else None
        if self._waiting:
            self._look_after(left if left > 0 else _LOOK_SECONDS)

    def _look_after(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if self._timer.when() <= loop.time() + seconds:
                return
            self._timer.cancel()
        self._timer = loop.call_later(seconds, self._look)

    def _next(self) -> int | None:
        """Where in the line the one is who may have a place now."""
        if not self._waiting:
            return None
        images = bisect.bisect_left(self._waiting, (CallKind.SINGLE,), key=lambda entry: entry[:1])
        image = images if images < len(self._waiting) and self._fits(CallKind.SINGLE) else None
        # With a single place its own calls and the callers' take turns.
        own_first = images > 0 and self._fits(CallKind.OWN) and not (self._own_was_last and image is not None)
        return 0 if own_first else image

    def _look(self) -> None:
        self._timer = None
        self._give()


async def turn_at(
    places: Sequence[CallSlots], kind: CallKind, arrival: int, *, seconds: float
) -> CallSlots | None:
    """Waits for a place at one of several servers.

    Returns:
        Where it was taken; None when the servers have to be chosen anew.

    Raises:
        TimeoutError: There was none in time.
    """
    if seconds <= 0:
        raise TimeoutError
    turn: Turn = asyncio.get_running_loop().create_future()
    waiting = (kind, arrival, turn)
    try:
        async with asyncio.timeout(seconds):
            for each in places:
                each.line_up(waiting)
            return await turn
    except (asyncio.CancelledError, TimeoutError):
        if turn.done() and not turn.cancelled():
            # The place came in the same moment.
            taken = turn.result()
            if taken is not None:
                taken.leave(kind)
        raise
    finally:
        for each in places:
            each.step_out(waiting)


def _now() -> float:
    return asyncio.get_running_loop().time()
