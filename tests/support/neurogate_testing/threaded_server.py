"""A model server with so many threads, as a gateway's calls see it; without a network, for virtual time.

It takes `threads - 1` calls at a time and refuses the others after the way there and back. Calls share its
cores, and a thread is free a moment after its answer has arrived.
"""

from __future__ import annotations

import asyncio
import random

from neurogate_gateway.backends.tfserving import ServerFullError

_WAY_SECONDS = 0.0003


class ThreadedServer:
    """The server; `random` makes every run the same."""

    def __init__(
        self, threads: int, *, seconds: float = 0.02, cores: int = 2, late: float = 0.001, seed: int = 1
    ) -> None:
        self.free = threads - 1
        self.seconds = seconds
        self.cores = cores
        self.late = late
        self.running = 0
        self.refusals = 0
        self._random = random.Random(seed)

    async def call(self) -> None:
        """One call, to its answer."""
        await asyncio.sleep(_WAY_SECONDS * self._random.uniform(0.5, 2))
        if not self.free:
            self.refusals += 1
            await asyncio.sleep(_WAY_SECONDS)
            raise ServerFullError("Server Threadpool Exhausted")
        self.free -= 1
        self.running += 1
        try:
            # How long depends on who else runs when it begins, which is near enough.
            share = max(1.0, self.running / self.cores)
            await asyncio.sleep(self.seconds * share * self._random.uniform(0.8, 1.2))
        finally:
            self.running -= 1
            late = self.late * self._random.uniform(0, 2)
            asyncio.get_running_loop().call_later(late, self.release)
        await asyncio.sleep(_WAY_SECONDS)

    def hold(self, threads: int) -> int:
        """Another client takes so many threads, or as many as there are; returns how many."""
        taken = min(threads, self.free)
        self.free -= taken
        return taken

    def release(self, threads: int = 1) -> None:
        self.free += threads
