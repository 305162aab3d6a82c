"""UploadExamples: a window of items between reading and acknowledging.

As in StreamClassify a caller that does not read its answers is not read either, and memory is bounded by the
window. Answers come in the order of the items, each once its example is on disk.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from typing import Final

from neurogate.v1 import training_pb2

from neurogate_gateway.admission import Admission
from neurogate_gateway.catalog import Catalog
from neurogate_gateway.errors import DeadlineTooShortError, GatewayError, ShuttingDownError
from neurogate_gateway.proof import ServedVersion
from neurogate_gateway.telemetry import call_record, internal_error
from neurogate_gateway.training.stable import stable_version
from neurogate_gateway.training.uploads import Assembler, Item, Uploads

from .requests import Context, deadline_of
from .window import Window

_WINDOW_ITEMS: Final = 64
"""Enough for a commit to be shared by many, and no more than one commit takes."""

Requests = AsyncIterator[training_pb2.UploadExamplesRequest]
Response = training_pb2.UploadExamplesResponse


class UploadServer:
    """Serves uploads, and can ask all of them to come to an end."""

    def __init__(
        self,
        uploads: Uploads,
        catalog: Catalog,
        admission: Admission,
        *,
        max_image_bytes: int,
        window_bytes: int,
        idle: float,
    ) -> None:
        self._uploads = uploads
        self._catalog = catalog
        self._admission = admission
        self._max_image_bytes = max_image_bytes
        self._window_bytes = window_bytes
        self._idle = idle
        self._open: set[_Upload] = set()
        self._stopping = False

    async def serve(self, requests: Requests, context: Context) -> None:
        """Serves one upload to its end.

        Raises:
            GatewayError: Why it ends before its caller ended it; what was acknowledged is kept.
        """
        with self._admission.bulk_call():
            if self._stopping:
                raise _shutting_down()
            version = await stable_version(self._catalog, deadline_of(context, math.inf))
            upload = _Upload(
                self._uploads,
                version,
                Assembler(self._max_image_bytes),
                Window(_WINDOW_ITEMS, self._window_bytes),
                idle=self._idle,
                actor=call_record().caller(),
            )
            self._open.add(upload)
            try:
                await upload.run(requests, context)
            finally:
                self._open.discard(upload)

    def stop_reading(self) -> bool:
        """Makes every upload acknowledge what it has read and then end, because the gateway is going away.

        Returns:
            Whether there was any.
        """
        self._stopping = True
        for upload in self._open:
            upload.end(_shutting_down())
        return bool(self._open)


def _shutting_down() -> ShuttingDownError:
    return ShuttingDownError("the gateway is shutting down; send what has no answer to another one")


class _Upload:
    def __init__(
        self,
        uploads: Uploads,
        version: ServedVersion,
        assembler: Assembler,
        window: Window,
        *,
        idle: float,
        actor: str,
    ) -> None:
        self._uploads = uploads
        self._version = version
        self._assembler = assembler
        self._window = window
        self._idle = idle
        self._actor = actor
        self._used = time.monotonic()
        # Tasks in the order of their items; None after the last message was read.
        self._due: asyncio.Queue[tuple[asyncio.Task[Response], int] | None] = asyncio.Queue()
        self._reader: asyncio.Task[None] | None = None
        self._error: GatewayError | None = None

    def end(self, error: GatewayError) -> None:
        """Stops reading; the upload ends with the error once everything that was read is answered."""
        self._error = self._error or error
        if self._reader is not None:
            self._reader.cancel()

    async def run(self, requests: Requests, context: Context) -> None:
        async with asyncio.TaskGroup() as tasks:
            self._reader = tasks.create_task(self._read(requests, tasks))
            # Not in the reader itself, which may be cancelled before its first step.
            self._reader.add_done_callback(lambda _: self._due.put_nowait(None))
            watching = tasks.create_task(self._watch_idleness())
            try:
                await self._acknowledge(context)
            finally:
                watching.cancel()
        if self._error is not None:
            raise self._error

    async def _watch_idleness(self) -> None:
        """Ends an upload that does nothing: it holds one of the few places for batches and streams."""
        left = self._idle
        while left > 0:
            await asyncio.sleep(left)
            left = self._idle if self._window.held else self._used + self._idle - time.monotonic()
        self.end(
            DeadlineTooShortError(
                f"no message came for {self._idle:g} s while no answer was due; upload the rest in a new call"
            )
        )

    async def _read(self, requests: Requests, tasks: asyncio.TaskGroup) -> None:
        try:
            while True:
                await self._window.opening()
                message = await anext(requests, None)
                self._used = time.monotonic()
                items = self._assembler.end() if message is None else self._assembler.feed(message)
                ended = message is None
                # Not kept while the next one is awaited.
                del message
                while items:
                    await self._begin(items.pop(0), tasks)
                if ended:
                    return
        except GatewayError as error:
            self._error = self._error or error

    async def _begin(self, item: Item, tasks: asyncio.TaskGroup) -> None:
        size = len(item.data)
        await self._window.enter(size)
        self._due.put_nowait((tasks.create_task(self._keep(item)), size))

    async def _keep(self, item: Item) -> Response:
        try:
            kept = await self._uploads.keep(item, self._version, self._actor)
        except GatewayError as error:
            return Response(key=item.key, error=error.to_status())
        except Exception as defect:  # noqa: BLE001 - a defect that one item meets must not end the others
            return Response(key=item.key, error=internal_error(defect).to_status())
        call_record().images += 1
        example = training_pb2.UploadedExample(example_id=kept.example_id, duplicate=kept.duplicate)
        return Response(key=item.key, example=example)

    async def _acknowledge(self, context: Context) -> None:
        while (due := await self._due.get()) is not None:
            task, size = due
            await context.write(await task)
            self._window.leave(size)
            self._used = time.monotonic()
