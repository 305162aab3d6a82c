"""What is let in: by size, by time left, and by how much is in flight.

Two kinds of work share the slots. A single call takes a slot at once or is refused, so that callers learn
of overload in a millisecond. The images of batches and streams wait their turn, first come first served,
and together hold at most half of the slots, so that bulk work never shuts single calls out. DICOM files may
take seconds each: those of single calls hold at most a quarter. The number of batches and streams themselves
is limited too. Images that no caller waits for are let in only while there is little else to do. Watches hold
no slot, but their number has a limit of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final

from neurogate.v1 import error_pb2
from neurogate_core.preprocessing.dicom import is_dicom

from neurogate_gateway.deadline import Deadline
from neurogate_gateway.errors import (
    DeadlineTooShortError,
    GatewayError,
    OverloadedError,
)

_SHORTEST_RETRY: Final = 0.05
_LONGEST_RETRY: Final = 5.0
_LONG_RETRY_SECONDS: Final = 2.0
"""Batches, streams and watches last for seconds and more, and nobody knows how long."""


@dataclasses.dataclass(slots=True)
class Slot:
    """What one image holds while it is worked on."""

    worked_seconds: float = 0.0
    """Set by who holds it: the time that the image was worked on, waits for a version left out."""


class Limited:
    """What may be there a limited number of times, for seconds each."""

    def __init__(
        self, what: str, limit: int, retry_after: Callable[[], float] = lambda: _LONG_RETRY_SECONDS
    ) -> None:
        self.count = 0
        self._what = what
        self._limit = limit
        self._retry_after = retry_after

    def check(self) -> None:
        """Refuses one more where the limit is reached.

        Raises:
            OverloadedError: It is.
        """
        if self.count >= self._limit:
            raise OverloadedError(
                f"{self.count} {self._what}, which is the limit", retry_after=self._retry_after()
            )

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """One more, where `check` does not refuse it."""
        self.check()
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1


class Admission:
    """Counts what is in flight and says no in time."""

    def __init__(
        self,
        *,
        max_image_bytes: int,
        max_in_flight: int,
        max_bulk_calls: int,
        max_watches: int,
        min_deadline: float,
    ) -> None:
        self._max_image_bytes = max_image_bytes
        self._max_in_flight = max_in_flight
        self._max_bulk_images = max(1, max_in_flight // 2)
        self._max_low_priority = max(1, max_in_flight // 16)
        self._min_deadline = min_deadline
        self.in_flight = 0
        """Images that hold a slot."""
        self.bulk_calls = Limited("batches and streams are open", max_bulk_calls)
        self.watches = Limited("watches are open", max_watches)
        self._dicom_singles = Limited(
            "DICOM files of single calls are in flight", max(1, max_in_flight // 4), self._retry_seconds
        )
        self._bulk_images = 0
        self._low_priority = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._mean_seconds = 0.05

    def check_image(self, image: bytes, *, field: str = "image") -> None:
        """Refuses an image by its number of bytes alone.

        Raises:
            GatewayError (IMAGE_EMPTY): There are none.
            GatewayError (IMAGE_TOO_LARGE): There are too many.
        """
        if not image:
            raise GatewayError(error_pb2.ERROR_REASON_IMAGE_EMPTY, "the image has no bytes", field=field)
        if len(image) > self._max_image_bytes:
            raise GatewayError(
                error_pb2.ERROR_REASON_IMAGE_TOO_LARGE,
                f"the image has {len(image)} bytes, the limit is {self._max_image_bytes}",
                field=field,
                metadata={"size_bytes": str(len(image)), "max_image_bytes": str(self._max_image_bytes)},
            )

    def check_deadline(self, deadline: Deadline) -> None:
        """Refuses a call that cannot be answered in time.

        Raises:
            DeadlineTooShortError: Too little is left.
        """
        remaining = deadline.remaining()
        if remaining < self._min_deadline:
            raise DeadlineTooShortError(
                f"{max(0.0, remaining):.3f} s are left, at least {self._min_deadline:g} s are needed"
            )

    def check_single(self) -> None:
        """Refuses one more single call where all slots are taken.

        Raises:
            OverloadedError: They are.
        """
        if self.in_flight >= self._max_in_flight:
            raise OverloadedError(
                f"{self.in_flight} images are in flight, which is the limit",
                retry_after=self._retry_seconds(),
            )

    @contextlib.contextmanager
    def single(self, image: bytes, deadline: Deadline) -> Iterator[Slot]:
        """A slot for one single call.

        Raises:
            GatewayError: As `check_image` has it.
            DeadlineTooShortError: Too little time is left.
            OverloadedError: No slot is free.
        """
        self.check_image(image)
        self.check_deadline(deadline)
        self.check_single()
        with self._dicom_singles.held() if is_dicom(image) else contextlib.nullcontext():
            self.in_flight += 1
            slot = Slot()
            try:
                yield slot
            finally:
                self._leave(slot)

    @contextlib.asynccontextmanager
    async def bulk_image(self) -> AsyncIterator[Slot]:
        """A slot for one image of a batch or stream, when its turn comes."""
        if self._waiting or not self._bulk_fits():
            await self._turn()
        else:
            self._enter_bulk()
        slot = Slot()
        try:
            yield slot
        finally:
            self._bulk_images -= 1
            self._leave(slot)

    @contextlib.contextmanager
    def low_priority(self, image: bytes, *, pressing: bool = False) -> Iterator[Slot]:
        """Room for one image that no caller waits for; it takes no slot from those that one does.

        Args:
            image: Encoded.
            pressing: It has waited long enough, and is let in whatever there is to do.

        Raises:
            GatewayError: As `check_image` has it.
            OverloadedError: Callers keep a quarter of the slots busy, or enough such images are under way.
        """
        self.check_image(image)
        busy = self.in_flight * 4 > self._max_in_flight or self._low_priority >= self._max_low_priority
        if busy and not pressing:
            raise OverloadedError("callers come first", retry_after=_SHORTEST_RETRY)
        self._low_priority += 1
        try:
            yield Slot()
        finally:
            self._low_priority -= 1

    async def _turn(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                # The slot came in the same moment as the cancellation.
                self._bulk_images -= 1
                self.in_flight -= 1
            else:
                with contextlib.suppress(ValueError):
                    self._waiting.remove(turn)
            self._wake()
            raise

    def _retry_seconds(self) -> float:
        """By then the work that holds the slots now is done."""
        return min(max(self._mean_seconds, _SHORTEST_RETRY), _LONGEST_RETRY)

    def _bulk_fits(self) -> bool:
        return self.in_flight < self._max_in_flight and self._bulk_images < self._max_bulk_images

    def _enter_bulk(self) -> None:
        self.in_flight += 1
        self._bulk_images += 1

    def _leave(self, slot: Slot) -> None:
        self.in_flight -= 1
        if slot.worked_seconds:
            self._mean_seconds += (slot.worked_seconds - self._mean_seconds) / 32
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self._bulk_fits():
            turn = self._waiting.popleft()
            if not turn.done():
                self._enter_bulk()
                turn.set_result(None)
