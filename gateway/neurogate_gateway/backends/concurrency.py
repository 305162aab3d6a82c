"""The calls to one model server: how many are in flight, who waits for a slot, and how many slots there are.

A call holds its slot from when it is sent until the server has answered, or its deadline has passed: the
server keeps a thread for it as long, whether or not anybody waits for the answer any more. So a call that was
sent is never cancelled. One that the server refuses has had no effect; it comes first again, after a pause.

One slot is kept for what the gateway asks for itself. Callers' single images come before those of batches and
streams, and each kind is first come, first served.
"""

from __future__ import annotations

import asyncio
import bisect
import enum
import itertools
import logging
import math
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from neurogate_gateway.errors import BackendUnavailableError, DeadlineTooShortError
from neurogate_gateway.observability.logging import log

from .tfserving import OVERLOAD_RETRY_SECONDS, ServerFullError

START: Final = 3
"""The first limit: what a server on one core takes by its default of four threads, one of which listens."""
_SHARE: Final = 0.8
"""Of what was in flight at a refusal: where the curve is level, with large limits."""
_STEEPNESS: Final = 4.0
_PLATEAU_SECONDS: Final = 0.5
"""Until the limit is back at the level; half as much again, and it is tried one higher."""

_FIRST_PAUSE_SECONDS: Final = 0.002
_LONGEST_PAUSE_SECONDS: Final = 0.05
_LATE_SECONDS: Final = 0.005
"""For which the thread of a call may still be taken after its answer has come."""
_RECENT_SECONDS: Final = 2.0
"""For which a refusal or an answer says something about the present."""
_YIELD: Final = 0.5
_YIELD_CROWDED: Final = 2.0
"""Of the time that a call takes: for how long the only thread is left to others; and if they surely wait."""

_TOO_FEW: Final = 3
"""Of so few slots none is kept: the gateway's own calls take the next one instead."""
_LOOK_SECONDS: Final = 0.05
"""Between two looks at the limit while calls wait and nothing else happens."""
_LOG_SECONDS: Final = 60.0

MIN_SECONDS: Final = 0.02
"""What a call needs to be sent: to one that begins to run at its deadline, the server knows no deadline."""

arrivals: Final = itertools.count()
"""Numbers by which those who wait stand in line."""


class ConcurrencyLimit:
    """How many calls one model server may have at a time, found from what it refuses; `value` is at least 1.

    TensorFlow Serving takes a fixed number of calls at a time and refuses the next at once, without a queue.
    Nothing tells that number, and other clients use part of it. So the limit halves when a call is refused
    and rises again while calls wait, by the curve that TCP takes (CUBIC, RFC 9438): fast to just below where
    it was refused, slowly past that, then faster and faster. By a constant step it would take too long to
    come back once another client has gone; by a constant factor it would be refused all the time.

    A refusal comes within milliseconds however long a prediction takes, so the curve goes by time and not by
    answers. Past the level it is the same for every gateway that shares the server, while a fall costs those
    more who have more, and so their shares become even.
    """

    def __init__(self, *, max_value: int = 65, fixed: int = 0) -> None:
        """Begins low.

        Args:
            max_value: It never rises above that.
            fixed: What it always is; 0 for one that is found.
        """
        self._max_value = max_value
        self._fixed = fixed
        self._level = float(min(START, max_value))
        self._low = self._level
        self._waited = _PLATEAU_SECONDS
        self.value = fixed or int(self._level)

    def fall(self, others: int) -> None:
        """A call was refused while so many others were in flight from here."""
        self._level = _below(others)
        self._low = max(1.0, others / 2)
        self._waited = 0.0
        self._set()

    def correct(self, others: int) -> None:
        """Another call of the burst that made the limit fall was refused: there was room for fewer still."""
        self._level = min(self._level, _below(others))
        self._low = min(self._low, max(1.0, others / 2))
        self._set()

    def waited(self, seconds: float) -> None:
        """Calls have waited for so long, and none was refused."""
        self._waited += seconds
        self._set()

    def _set(self) -> None:
        if self._fixed:
            return
        past = self._waited / _PLATEAU_SECONDS - 1
        steepness = self._level - self._low if past < 0 else _STEEPNESS
        self.value = min(max(1, round(self._level + steepness * past**3)), self._max_value)


def _below(others: int) -> float:
    return max(1.0, min(others - 1, others * _SHARE))


class _Backoff:
    """When the next call may go to a model server that has refused one.

    After a refusal there is a short pause, which doubles while nothing but refusals come back. Where a server
    seems to have a single thread for this gateway, there is one after answers too: whoever always sent the
    next call with the answer would never let others have that thread, who find it free only by chance.

    Attributes:
        until: By the loop's clock, the moment from which a call may be sent.
    """

    def __init__(self) -> None:
        self.until = -math.inf
        self._seconds = 0.0
        self._turn_seconds = _LONGEST_PAUSE_SECONDS
        self._answered_at = self._alone_at = self._crowded_at = -math.inf

    def answered(self, now: float, seconds: float | None, *, single: bool) -> None:
        """A call was answered after so many seconds (None: no prediction); `single`: the limit is 1."""
        self._answered_at, self._seconds = now, 0.0
        if seconds is None:
            return
        self._turn_seconds = min(max(seconds, 2 * _FIRST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
        if single and now - self._alone_at < _RECENT_SECONDS:
            crowded = now - self._crowded_at < _RECENT_SECONDS
            self._pause(now, (_YIELD_CROWDED if crowded else _YIELD) * self._turn_seconds)

    def refused(self, now: float, sent_at: float, others: int, *, again: bool) -> int:
        """A call was refused.

        Args:
            now: The moment.
            sent_at: When it was sent.
            others: How many other calls are in flight.
            again: Whether it is one more of a burst that was sent before its first refusal.

        Returns:
            How many others held a thread: the one that was answered last may not have given its back.
        """
        late = sent_at - self._answered_at < _LATE_SECONDS
        if not others and (self._seconds or not late):
            self._crowded_at = now
        others += late
        if others <= 1:
            self._alone_at = now
        if not again:
            # To try less often than a call takes would be to miss one's turn.
            recent = now - self._answered_at < _RECENT_SECONDS
            longest = self._turn_seconds if recent else _LONGEST_PAUSE_SECONDS
            self._seconds = min(max(2 * self._seconds, _FIRST_PAUSE_SECONDS), longest)
            self._pause(now, self._seconds)
        return others

    def _pause(self, now: float, seconds: float) -> None:
        # Of different lengths, so that several gateways do not come back at the same moment.
        self.until = now + seconds * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


class CallKind(enum.IntEnum):
    """Whose call it is, in the order in which slots are given."""

    OWN = 0
    SINGLE = 1
    BULK = 2


class InFlightCall:
    """A call that was sent and has not ended.

    Attributes:
        kind: Of the slot that it holds; None for none.
        version: The version that an image was sent to; 0 for other calls.
        sent_at: By the loop's clock.
        answer: What the server answered. To cancel it, or to abandon the call, leaves the call alone.
    """

    __slots__ = ("answer", "kind", "sent_at", "task", "version")

    def __init__(self, kind: CallKind | None, version: int, loop: asyncio.AbstractEventLoop) -> None:
        self.kind = kind
        self.version = version
        self.sent_at = loop.time()
        self.answer: asyncio.Future[Any] = loop.create_future()
        self.task: asyncio.Task[None] | None = None

    def abandon(self) -> None:
        """Ends the waiting for the answer, so that the caller may ask another server; the call goes on."""
        if not self.answer.done():
            self.answer.set_exception(BackendUnavailableError("the model server stopped answering"))


Turn = asyncio.Future["CallSlots | None"]
"""Resolved with where there is a slot now, or with None when it has to be chosen anew."""
_Waiting = tuple[CallKind, int, Turn]


class CallSlots:
    """The calls to one model server."""

    def __init__(
        self, address: str, limit: ConcurrencyLimit, on_refusal: Callable[[str], None] = lambda _: None
    ) -> None:
        """Nothing is in flight yet.

        Args:
            address: Of the server.
            limit: How many calls it may have.
            on_refusal: Called with the address whenever the server has refused a call.
        """
        self.address = address
        self.limit = limit
        self.shut = False
        """Whether the server refuses calls though none of this gateway is in flight there."""
        self.calls: set[InFlightCall] = set()
        self._on_refusal = on_refusal
        self._held = [0, 0, 0]
        self._own_was_last = False
        self._waiting: list[_Waiting] = []
        self._waited_until: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._backoff = _Backoff()
        self._refused_at = self._logged_at = -math.inf
        self._logged = math.inf
        self._slot_freed = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Calls that would take a slot here; with several servers they may wait at others, too."""
        return len(self._waiting)

    def enter(self, kind: CallKind) -> bool:
        """Takes a slot where one is free and nobody waits who comes first; `send` has to follow."""
        if self._waiting and self._waiting[0][0] <= kind:
            return False
        if not self._fits(kind) or self._backoff.until > _now():
            return False
        self._take(kind)
        return True

    def leave(self, kind: CallKind) -> None:
        """Gives a slot back, by which nothing was sent."""
        self._held[kind] -= 1
        self._slot_freed.set()
        self._give()

    def send(
        self, kind: CallKind | None, call: Callable[[], Coroutine[Any, Any, Any]], version: int = 0
    ) -> InFlightCall:
        """Begins a call.

        Args:
            kind: Of the slot that was taken for it, which is given back when it has ended; None for none.
            call: Makes it.
            version: The version that an image is sent to.
        """
        loop = asyncio.get_running_loop()
        sent = InFlightCall(kind, version, loop)
        self.calls.add(sent)
        sent.task = loop.create_task(self._run(sent, call))
        return sent

    def line_up(self, waiting: _Waiting) -> None:
        """Has a turn resolved when there is a slot for it."""
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
        """Waits until no slot is taken."""
        while any(self._held):
            self._slot_freed.clear()
            await self._slot_freed.wait()

    async def close(self) -> None:
        """Ends what is in flight; after the connection was closed."""
        tasks = []
        for call in self.calls:
            # Here, since a task that has not begun would never do it.
            call.abandon()
            if call.task is not None:
                call.task.cancel()
                tasks.append(call.task)
        if tasks:
            await asyncio.wait(tasks)

    async def _run(self, sent: InFlightCall, call: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        error: BaseException | None = None
        result = None
        try:
            result = await call()
        except Exception as caught:  # noqa: BLE001 - whatever it is, it is the caller's
            error = caught
        finally:
            self.calls.discard(sent)
            if sent.kind is not None:
                self._held[sent.kind] -= 1
            self._slot_freed.set()
            if isinstance(error, ServerFullError):
                self._refused(sent.sent_at)
            else:
                now = _now()
                self.shut = False
                seconds = None if sent.kind is None else now - sent.sent_at
                self._backoff.answered(now, seconds, single=self.limit.value == 1)
        if not sent.answer.done():
            if error is None:
                sent.answer.set_result(result)
            else:
                sent.answer.set_exception(error)
        self._give()

    def _refused(self, sent_at: float) -> None:
        now, others = _now(), len(self.calls)
        self.shut = not others
        again = sent_at < self._refused_at
        others = self._backoff.refused(now, sent_at, others, again=again)
        if again:
            self.limit.correct(others)
        else:
            self._refused_at = now
            before = self.limit.value
            self.limit.fall(others)
            if self.limit.value < before and (others < self._logged or now - self._logged_at >= _LOG_SECONDS):
                self._logged, self._logged_at = others, now
                limit = self.limit.value
                log(logging.INFO, "backend_limit_fell", backend=self.address, limit=limit, in_flight=others)
        self._on_refusal(self.address)

    def _fits(self, kind: CallKind) -> bool:
        own, limit = self._held[CallKind.OWN], self.limit.value
        images = self._held[CallKind.SINGLE] + self._held[CallKind.BULK]
        if own + images >= limit:
            return False
        if kind is CallKind.OWN:
            # More than the one that is kept only while no image of a caller waits.
            callers_wait = bool(self._waiting) and self._waiting[-1][0] is not CallKind.OWN
            return own < 1 or (own + images < limit - 1 and not callers_wait)
        return limit <= _TOO_FEW or images < limit - 1

    def _take(self, kind: CallKind) -> None:
        self._held[kind] += 1
        self._own_was_last = kind is CallKind.OWN

    def _give(self) -> None:
        """Gives what is free to those who are first in line."""
        if not self._waiting:
            self._waited_until = None
            return
        now = _now()
        left = self._backoff.until - now
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
        """Where in the line the one is who may have a slot now."""
        if not self._waiting:
            return None
        images = bisect.bisect_left(self._waiting, (CallKind.SINGLE,), key=lambda entry: entry[:1])
        image = images if images < len(self._waiting) and self._fits(CallKind.SINGLE) else None
        # With a single slot its own calls and the callers' take turns.
        own_first = images > 0 and self._fits(CallKind.OWN) and not (self._own_was_last and image is not None)
        return 0 if own_first else image

    def _look(self) -> None:
        self._timer = None
        self._give()


async def take_slot(
    servers: Sequence[CallSlots], kind: CallKind, arrival: int, *, seconds: float
) -> CallSlots | None:
    """Takes a slot at the first of several servers that has one; `send` has to follow.

    Returns:
        Where it was taken; None when the servers have to be chosen anew.

    Raises:
        ServerFullError: There was none in time, and none of the servers takes any call.
        DeadlineTooShortError: There was none in time.
    """
    if seconds > 0:
        for each in servers:
            if each.enter(kind):
                return each
        try:
            async with asyncio.timeout(seconds):
                return await _turn(servers, kind, arrival)
        except TimeoutError:
            pass
    if all(each.shut for each in servers):
        raise ServerFullError(
            "the model server is busy with the calls of others", retry_after=OVERLOAD_RETRY_SECONDS
        )
    raise DeadlineTooShortError("the deadline is too near for the model server")


async def _turn(servers: Sequence[CallSlots], kind: CallKind, arrival: int) -> CallSlots | None:
    turn: Turn = asyncio.get_running_loop().create_future()
    waiting = (kind, arrival, turn)
    try:
        for each in servers:
            each.line_up(waiting)
        return await turn
    except asyncio.CancelledError:
        if turn.done() and not turn.cancelled():
            # The slot came in the same moment.
            taken = turn.result()
            if taken is not None:
                taken.leave(kind)
        raise
    finally:
        for each in servers:
            each.step_out(waiting)


def _now() -> float:
    return asyncio.get_running_loop().time()
