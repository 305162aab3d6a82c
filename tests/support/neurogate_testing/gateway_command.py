"""The command `neurogate-gateway` as a real process."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
from neurogate.v1 import classification_pb2_grpc

from .fake_backend import FakeBackend
from .processes import script


class Process:
    """The command, its log lines as objects, and a channel to it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self.address = ""

    async def until(self, event: str) -> dict[str, Any]:
        """The next log line of an event."""
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            self.lines.append(json.loads(line))
            if self.lines[-1]["event"] == event:
                return self.lines[-1]
        raise AssertionError(f"no event {event} in {self.lines}")

    async def end(self) -> int:
        """Reads the rest of the log and returns the exit status."""
        assert self.process.stderr is not None
        self.lines += [json.loads(line) for line in (await self.process.stderr.read()).splitlines()]
        return await self.process.wait()


@contextlib.asynccontextmanager
async def command(*arguments: str, **environment: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        script("neurogate-gateway"),
        *arguments,
        env={"PATH": "/usr/bin:/bin", **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Process(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@contextlib.asynccontextmanager
async def serving_command(backend: FakeBackend, *arguments: str) -> AsyncIterator[tuple[Process, Any]]:
    """The command in front of a backend whose version 1 it has proven, and a stub."""
    backend.add_version(1)
    options = ["--listen", "127.0.0.1:0", "--backend-address", backend.address, *arguments]
    async with command(*options) as process:
        process.address = (await process.until("listening"))["address"]
        await process.until("version_ready")
        async with grpc.aio.insecure_channel(process.address) as channel:
            yield process, classification_pb2_grpc.ClassificationServiceStub(channel)
