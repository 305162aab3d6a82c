"""StreamClassify: a window of images between reading and writing.

A reader takes messages off the stream, a task per image works, a writer sends answers. An image enters the
window when it is read and leaves it when its answer has been sent, which gRPC's flow control delays until the
caller reads. So a caller that does not read is not read either, and memory is bounded by the window, in
images and in bytes, however long the stream is.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from typing import Final

from neurogate.v1 import classification_pb2

from neurogate_gateway.admission import Admission, Deadline
from neurogate_gateway.answers import Answer, Choice, check_top_k, gone
from neurogate_gateway.backend import VersionUnloadedError
from neurogate_gateway.catalog import VersionLostError
from neurogate_gateway.classifier import Classifier
from neurogate_gateway.errors import (
    DeadlineTooShortError,
    GatewayError,
    KeyInvalidError,
    ModelVersionRetiredError,
    ShuttingDownError,
    StreamConfigNotFirstError,
)

from .requests import Context, deadline_of, take_request_id, take_routing_key
from .window import Window

_LONGEST_KEY: Final = 256

Requests = AsyncIterator[classification_pb2.StreamClassifyRequest]
Response = classification_pb2.StreamClassifyResponse


class StreamServer:
    """Serves streams, and can ask all of them to come to an end."""

    def __init__(
        self, classifier: Classifier, admission: Admission, *, window: int, window_bytes: int, idle: float
    ) -> None:
        self._classifier = classifier
        self._admission = admission
        self._window = window
        self._window_bytes = window_bytes
        self._idle = idle
        self._open: set[_Stream] = set()
        self._stopping = False

    async def serve(self, requests: Requests, context: Context) -> None:
        """Serves one stream to its end.

        Raises:
            GatewayError: Why the stream ends before its caller ended it.
        """
        with self._admission.bulk_call():
            deadline = deadline_of(context, math.inf)
            self._admission.check_deadline(deadline)
            try:
                async with asyncio.timeout(self._idle):
                    first = await anext(requests, None)
            except TimeoutError:
                raise _idle(self._idle) from None
            if first is None:
                return
            config = first.config
            request_id = take_request_id(config.request_id, field="config.request_id")
            key = take_routing_key(config.routing_key, request_id, field="config.routing_key")
            check_top_k(config.top_k)
            choice = await self._classifier.choose(config.model, config.top_k, deadline, key)
            stream = _Stream(
                self._classifier,
                choice,
                deadline,
                Window(self._window, self._window_bytes),
                ordered=not config.allow_out_of_order,
                idle=self._idle,
            )
            if self._stopping:
                raise _shutting_down()
            self._open.add(stream)
            try:
                await stream.run(first, requests, context)
            finally:
                self._open.discard(stream)

    def stop_reading(self) -> bool:
        """Makes every stream answer what it has read and then end, because the gateway is going away.

        Returns:
            Whether there was any.
        """
        self._stopping = True
        for stream in self._open:
            stream.end(_shutting_down())
        return bool(self._open)


def _shutting_down() -> ShuttingDownError:
    return ShuttingDownError("the gateway is shutting down; send what has no answer to another one")


def _idle(seconds: float) -> DeadlineTooShortError:
    return DeadlineTooShortError(
        f"no image came for {seconds:g} s while none had an answer to come; open another stream when one does"
    )


class _Stream:
    def __init__(
        self,
        classifier: Classifier,
        choice: Choice,
        deadline: Deadline,
        window: Window,
        *,
        ordered: bool,
        idle: float,
    ) -> None:
        self._classifier = classifier
        self._choice = choice
        self._reference = choice.reference
        self._deadline = deadline
        self._window = window
        self._ordered = ordered
        self._idle = idle
        self._used = time.monotonic()
        # Tasks in the order in which their answers are to be sent; None after the last message was read.
        self._due: asyncio.Queue[asyncio.Task[tuple[Response | None, int]] | None] = asyncio.Queue()
        self._begun = 0
        self._reader: asyncio.Task[None] | None = None
        self._error: GatewayError | None = None

    def end(self, error: GatewayError) -> None:
        """Stops reading; the stream ends with the error once everything that was read is answered."""
        self._error = self._error or error
        if self._reader is not None:
            self._reader.cancel()

    async def run(
        self, first: classification_pb2.StreamClassifyRequest, requests: Requests, context: Context
    ) -> None:
        async with asyncio.TaskGroup() as tasks:
            self._reader = tasks.create_task(self._read(first, requests, tasks))
            # Not in the reader itself, which may be cancelled before its first step.
            self._reader.add_done_callback(lambda _: self._due.put_nowait(None))
            watching = tasks.create_task(self._watch_idleness())
            try:
                await self._write(context)
            finally:
                watching.cancel()
        if self._error is not None:
            raise self._error

    async def _watch_idleness(self) -> None:
        """Ends a stream that does nothing: it holds one of the few places for batches and streams."""
        left = self._idle
        while left > 0:
            await asyncio.sleep(left)
            left = self._idle if self._window.held else self._used + self._idle - time.monotonic()
        self.end(_idle(self._idle))

    async def _read(
        self,
        first: classification_pb2.StreamClassifyRequest,
        requests: Requests,
        tasks: asyncio.TaskGroup,
    ) -> None:
        try:
            image = first.image
            if image or not first.HasField("config"):
                await self._begin(first.key, image, tasks)
            del first, image
            while True:
                await self._window.opening()
                message = await anext(requests, None)
                if message is None:
                    return
                if message.HasField("config"):
                    raise StreamConfigNotFirstError(
                        "only the first message of a stream may carry a config", field="config"
                    )
                # Read once: each access to the field copies all of the image.
                key, image = message.key, message.image
                del message
                await self._begin(key, image, tasks)
                del image
        except GatewayError as error:
            self._error = self._error or error

    async def _begin(self, key: str, image: bytes, tasks: asyncio.TaskGroup) -> None:
        await self._window.enter(len(image))
        self._begun += 1
        task = tasks.create_task(self._answer(key, image))
        if self._ordered:
            self._due.put_nowait(task)
        else:
            task.add_done_callback(self._due.put_nowait)

    async def _answer(self, key: str, image: bytes) -> tuple[Response | None, int]:
        """The answer to one message, None where the stream cannot give one, and the image's size."""
        size = len(image)
        answer: Answer | GatewayError
        try:
            if len(key) > _LONGEST_KEY:
                answer = _key_too_long(key)
                key = key[:_LONGEST_KEY]
            else:
                answer = await self._classifier.classify_for(self._choice, image, self._deadline)
        except VersionUnloadedError:
            self.end(self._retired())
            return None, size
        except VersionLostError as lost:
            self.end(lost)
            return None, size
        if isinstance(answer, GatewayError):
            return Response(key=key, model=self._reference, error=answer.to_status()), size
        return Response(key=key, model=self._reference, classification=answer.classification), size

    def _retired(self) -> GatewayError:
        version = self._choice.version
        if not self._choice.label:
            return gone(version)
        return ModelVersionRetiredError(
            f"version {version.number} of model {version.model}, with which the stream began, was unloaded; "
            "send what has no answer in a new stream",
            resource=("model_version", f"{version.model}/{version.number}"),
        )

    async def _write(self, context: Context) -> None:
        answered = 0
        total = None
        while total is None or answered < total:
            task = await self._due.get()
            if task is None:
                total = self._begun
                continue
            response, size = await task
            if response is not None:
                await context.write(response)
            self._window.leave(size)
            self._used = time.monotonic()
            answered += 1


def _key_too_long(key: str) -> KeyInvalidError:
    return KeyInvalidError(f"the key has {len(key)} characters, the limit is {_LONGEST_KEY}", field="key")
