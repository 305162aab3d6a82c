"""The events of a retraining as a stream: what there is, then what comes, until the last."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from neurogate.v1 import training_pb2

from neurogate_gateway.errors import ShuttingDownError
from neurogate_gateway.records.opened import Records
from neurogate_gateway.training_errors import FilterInvalidError

_PAGE: Final = 200
_POLL_SECONDS: Final = 1.0
"""For changes by other gateways; those of this process are told at once."""


class Watching:
    """Streams events, each watcher at its own pace: what it has not read yet waits in the database."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._closed = False

    def close(self) -> None:
        """Ends all streams, because the gateway is going away."""
        self._closed = True
        self._records.changes.wake_all()

    async def events(self, run_id: str, after: int) -> AsyncIterator[training_pb2.RetrainingEvent]:
        """Events with larger sequence numbers than `after`, ending with the retraining.

        Raises:
            FilterInvalidError: `after` is negative.
            RetrainingNotFoundError: There is no such retraining.
            ShuttingDownError: The gateway is going away; another one goes on where this one stopped.
        """
        if after < 0:
            raise FilterInvalidError(
                f"after_sequence is {after}, expected 0 (all events) or more", field="after_sequence"
            )
        runs = self._records.runs
        with self._records.changes.waiter(run_id) as waiter:
            while True:
                run = await self._records.run(runs.get, run_id)
                page = await self._records.run(runs.events_after, run_id, after, _PAGE)
                for event in page:
                    yield event
                    after = event.sequence
                if run.state.ended and after >= run.last_sequence:
                    return
                if self._closed:
                    raise ShuttingDownError("the gateway is shutting down; watch on at another one")
                if not page:
                    await waiter.wait(_POLL_SECONDS)
