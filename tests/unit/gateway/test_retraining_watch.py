"""Watchers of one retraining share what any of them finds out."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection
from pathlib import Path

import pytest
from neurogate_gateway.retraining import watch
from neurogate_gateway.retraining.watch import RetrainingWatch
from neurogate_gateway.store.run import Head
from neurogate_gateway.store.store import Store
from neurogate_testing.stores import queue_run


async def test_who_comes_later_and_finds_more_wakes_those_who_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_POLL_SECONDS", 3600)
    here, elsewhere = (Store(tmp_path, "", max_store_bytes=2**20) for _ in range(2))
    run_id = queue_run(here).run_id
    polled, heads = threading.Event(), here.runs.heads

    def look(run_ids: Collection[str]) -> dict[str, Head]:
        found = heads(run_ids)
        polled.set()
        return found

    monkeypatch.setattr(here.runs, "heads", look)
    watching = RetrainingWatch(here)
    first = watching.events(run_id, 0)
    assert (await anext(first)).sequence == 1
    waiting = asyncio.create_task(anext(first))  # type: ignore[arg-type]
    assert await asyncio.to_thread(polled.wait, 10)
    # By another gateway, so that only a look at the database tells.
    elsewhere.runs.request_cancel(run_id, reason="", actor="me")
    late = [event async for event in watching.events(run_id, 1)]
    async with asyncio.timeout(10):
        assert [await waiting] == late
        assert [event async for event in first] == []
    here.close()
    elsewhere.close()
