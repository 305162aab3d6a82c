"""The events of a retraining as a stream: what there is, then what comes, until the last.

One poller looks for all watchers, with one query for all the retrainings that they watch. A watcher for whom
there is nothing new asks the database nothing, and those at the same place share what is read for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Iterator
from typing import Final

from neurogate.v1 import error_pb2, training_pb2

from neurogate_gateway.errors import GatewayError
from neurogate_gateway.observability.logging import internal_error
from neurogate_gateway.store.run import Head
from neurogate_gateway.store.store import Store

_PAGE: Final = 200
_POLL_SECONDS: Final = 1.0
"""For changes by other gateways; the notifier tells of this process's own at once."""

_Page = list[training_pb2.RetrainingEvent]


@dataclasses.dataclass(slots=True)
class _Watched:
    """What the poller knows of one retraining.

    Attributes:
        head: As it was seen last.
        error: Why it could not be looked at; it is not looked at any more then.
        changed: Set, and replaced, when either is another one.
        reads: Pages under way that were asked for since the head is what it is, by the sequence number before
            them.
        watchers: How many watch it.
    """

    head: Head
    error: GatewayError | None = None
    changed: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    reads: dict[int, asyncio.Future[_Page]] = dataclasses.field(default_factory=dict)
    watchers: int = 0

    def wake(self) -> None:
        """Has the watchers look again."""
        self.reads = {}
        self.changed.set()
        self.changed = asyncio.Event()


class RetrainingWatch:
    """Streams events, each watcher at its own pace: what it has not read yet waits in the database."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._watched: dict[str, _Watched] = {}
        self._polling: asyncio.Task[None] | None = None
        self._closed = False

    def close(self) -> None:
        """Ends all streams, because the gateway is going away."""
        self._closed = True
        for watched in self._watched.values():
            watched.wake()

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
        with self._watch(run_id, Head(run.last_sequence, run.state.ended)) as watched:
            while True:
                changed, behind = watched.changed, after < watched.head.sequence
                if behind:
                    for event in await self._page(run_id, watched, after):
                        yield event
                        after = event.sequence
                elif watched.head.ended:
                    return
                if watched.error is not None:
                    raise watched.error
                if self._closed:
                    raise GatewayError(
                        error_pb2.ERROR_REASON_SHUTTING_DOWN,
                        "the gateway is shutting down; watch on at another one",
                    )
                if not behind:
                    await changed.wait()

    @contextlib.contextmanager
    def _watch(self, run_id: str, head: Head) -> Iterator[_Watched]:
        """What the poller knows of a retraining, which it looks at for as long as this lasts."""
        watched = self._watched.get(run_id)
        if watched is None or watched.error is not None:
            watched = self._watched[run_id] = _Watched(head)
        elif head > watched.head:
            watched.head = head
            watched.wake()
        watched.watchers += 1
        if self._polling is None:
            self._polling = asyncio.create_task(self._poll())
        try:
            yield watched
        finally:
            watched.watchers -= 1
            if not watched.watchers and self._watched.get(run_id) is watched:
                del self._watched[run_id]
            if not self._watched and self._polling is not None:
                self._polling.cancel()
                self._polling = None

    async def _page(self, run_id: str, watched: _Watched, after: int) -> _Page:
        """The events behind a sequence number, read once for all who are there."""
        reads = watched.reads
        if after not in reads:
            work = self._store.run(self._store.runs.events_after, run_id, after, _PAGE)
            reads[after] = asyncio.ensure_future(work)
            reads[after].add_done_callback(lambda _: reads.pop(after))
        # Others may wait for it too.
        return await asyncio.shield(reads[after])

    async def _poll(self) -> None:
        with self._store.notifier.waiter() as wait:
            while True:
                asked = dict(self._watched)
                heads: dict[str, Head] = {}
                error: GatewayError | None = None
                try:
                    heads = await self._store.run(self._store.runs.heads, list(asked))
                except GatewayError as refused:
                    error = refused
                except Exception as defect:  # noqa: BLE001 - watchers must not wait for ever
                    error = internal_error(defect)
                for run_id, watched in asked.items():
                    head = max(watched.head, heads.get(run_id, watched.head))
                    if error is not None or head != watched.head:
                        watched.head, watched.error = head, error
                        watched.wake()
                await wait(_POLL_SECONDS)
