"""The events of a retraining as a stream: what there is, then what comes, until the last.

One poller looks for all watchers, with one query for all the retrainings that they watch. A watcher for whom
there is nothing new asks the database nothing, and those at the same place share what is read for them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Final

from neurogate.v1 import error_pb2, training_pb2

from neurogate_gateway.errors import GatewayError
from neurogate_gateway.observability.logging import internal_error
from neurogate_gateway.store.run import Head
from neurogate_gateway.store.store import Store

_PAGE: Final = 200
_POLL_SECONDS: Final = 1.0
"""For changes by other gateways; the notifier reports this process's own at once."""

_Page = list[training_pb2.RetrainingEvent]


class _Signal(asyncio.Event):
    """Wakes watchers once; with an error where there is nothing to wait for any more."""

    error: GatewayError | None = None


class RetrainingWatch:
    """Streams events, each watcher at its own pace: what it has not read yet waits in the database."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._heads: dict[str, Head] = {}
        self._watchers: Counter[str] = Counter()
        self._reads: dict[tuple[str, int, int], asyncio.Future[_Page]] = {}
        self._signal = _Signal()
        self._polling: asyncio.Task[None] | None = None
        self._closed: GatewayError | None = None

    def close(self) -> None:
        """Ends all streams, because the gateway is going away."""
        self._closed = GatewayError(
            error_pb2.ERROR_REASON_SHUTTING_DOWN, "the gateway is shutting down; watch on at another one"
        )
        self._wake(self._closed)

    async def events(self, run_id: str, after: int) -> AsyncIterator[training_pb2.RetrainingEvent]:
        """Events with larger sequence numbers than `after`, ending with the retraining.

        Raises:
            GatewayError (FILTER_INVALID): `after` is negative.
            GatewayError (RETRAINING_NOT_FOUND): There is no such retraining.
            RecordsUnavailableError: The records cannot be read now.
            GatewayError (SHUTTING_DOWN): The gateway is going away; another one continues.
        """
        if after < 0:
            raise GatewayError(
                error_pb2.ERROR_REASON_FILTER_INVALID,
                f"after_sequence is {after}, expected 0 (all events) or more",
                field="after_sequence",
            )
        run = await self._store.run(self._store.runs.get, run_id)
        with self._watching(run_id, Head(run.last_sequence, run.state.ended)):
            while True:
                signal, head = self._signal, self._heads[run_id]
                if after < head.sequence:
                    for event in await self._page(run_id, head, after):
                        yield event
                        after = event.sequence
                elif head.ended:
                    return
                elif self._closed is None:
                    await signal.wait()
                    if signal.error is not None:
                        raise signal.error
                if self._closed is not None:
                    raise self._closed

    @contextlib.contextmanager
    def _watching(self, run_id: str, head: Head) -> Iterator[None]:
        """Has the poller look at a retraining for as long as this lasts."""
        self._watchers[run_id] += 1
        known = self._heads.setdefault(run_id, head)
        if head > known:
            # The poller finds nothing new behind it any more, so those who wait are woken here.
            self._heads[run_id] = head
            self._wake()
        if self._polling is None:
            self._polling = asyncio.create_task(self._poll())
        try:
            yield
        finally:
            self._watchers[run_id] -= 1
            if not self._watchers[run_id]:
                del self._watchers[run_id], self._heads[run_id]
            if not self._heads and self._polling is not None:
                self._polling.cancel()
                self._polling = None

    async def _page(self, run_id: str, head: Head, after: int) -> _Page:
        """The events behind a sequence number, read once for all who are there."""
        place = (run_id, head.sequence, after)
        if place not in self._reads:
            work = self._store.run(self._store.runs.events_after, run_id, after, _PAGE)
            self._reads[place] = asyncio.ensure_future(work)
            self._reads[place].add_done_callback(lambda _: self._reads.pop(place))
        # Others may wait for it too.
        return await asyncio.shield(self._reads[place])

    def _wake(self, error: GatewayError | None = None) -> None:
        signal, self._signal = self._signal, _Signal()
        signal.error = error
        signal.set()

    async def _poll(self) -> None:
        with self._store.notifier.waiter() as wait:
            while True:
                try:
                    found = await self._store.run(self._store.runs.heads, list(self._heads))
                except GatewayError as error:
                    self._wake(error)
                except Exception as defect:  # noqa: BLE001 - watchers must not wait for ever
                    self._wake(internal_error(defect))
                else:
                    newer = {run: head for run, head in found.items() if head > self._heads.get(run, head)}
                    if newer:
                        self._heads |= newer
                        self._wake()
                await wait(_POLL_SECONDS)
