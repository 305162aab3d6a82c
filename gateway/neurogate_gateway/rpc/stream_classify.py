"""StreamClassify: one version answers the images of one stream, from its beginning to its end."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

from neurogate.v1 import classification_pb2, error_pb2

from neurogate_gateway.backends.tfserving import VersionUnloadedError
from neurogate_gateway.deadline import Deadline
from neurogate_gateway.errors import (
    GatewayError,
    VersionLostError,
)
from neurogate_gateway.inference.admission import Admission
from neurogate_gateway.inference.pipeline import InferencePipeline, ResolvedVersion, check_top_k, gone
from neurogate_gateway.inference.preprocessing import Submitted

from .interceptor import Context, check_identifiers
from .streams import BidirectionalCall, BidirectionalServer, Window, idle_error

_MAX_KEY: Final = 256

Request = classification_pb2.StreamClassifyRequest
Response = classification_pb2.StreamClassifyResponse


class _Image(NamedTuple):
    """One image of a stream, encoded, and its caller's name for it."""

    key: str
    data: bytes
    frame: int


class StreamServer(BidirectionalServer[Request, _Image, Response]):
    """Serves streams."""

    def __init__(
        self,
        pipeline: InferencePipeline,
        admission: Admission,
        *,
        window: int,
        window_bytes: int,
        idle: float,
    ) -> None:
        super().__init__()
        self._pipeline = pipeline
        self._admission = admission
        self._window = window
        self._window_bytes = window_bytes
        self._idle = idle

    async def serve(self, requests: AsyncIterator[Request], context: Context) -> None:
        """Serves one stream to its end.

        Raises:
            GatewayError: Why the stream ends before its caller ended it.
        """
        with self._admission.bulk_calls.held():
            deadline = Deadline.of_call(context.time_remaining(), math.inf)
            self._admission.check_deadline(deadline)
            try:
                async with asyncio.timeout(self._idle):
                    first = await anext(requests, None)
            except TimeoutError:
                raise idle_error(self._idle) from None
            if first is None:
                return
            config = first.config
            check_identifiers(config, "config.")
            check_top_k(config.top_k)
            key = config.routing_key or config.request_id
            resolved = await self._pipeline.resolve(config.model, config.top_k, deadline, key)
            stream = _Stream(
                self._pipeline,
                resolved,
                deadline,
                Window(self._window, self._window_bytes),
                ordered=not config.allow_out_of_order,
                idle=self._idle,
            )
            image = _Image(first.key, first.image, first.frame)
            # The first message may carry a config alone.
            images = [image] if image.data or not first.HasField("config") else []
            # Not kept for as long as the stream lasts; the config would hold all of its message.
            del first, config, image
            await self._run(stream, requests, context, images)


class _Stream(BidirectionalCall[Request, _Image, Response]):
    def __init__(
        self,
        pipeline: InferencePipeline,
        resolved: ResolvedVersion,
        deadline: Deadline,
        window: Window,
        *,
        ordered: bool,
        idle: float,
    ) -> None:
        super().__init__(window, ordered=ordered, idle=idle)
        self._pipeline = pipeline
        self._resolved = resolved
        self._reference = resolved.reference
        self._deadline = deadline

    def _take(self, message: Request) -> list[_Image]:
        if message.HasField("config"):
            raise GatewayError(
                error_pb2.ERROR_REASON_STREAM_CONFIG_NOT_FIRST,
                "only the first message of a stream may carry a config",
                field="config",
            )
        # Read once: each access to the field copies all of the image.
        return [_Image(message.key, message.image, message.frame)]

    async def _answer(self, item: _Image) -> Response | None:
        key = item.key
        if len(key) > _MAX_KEY:
            error = GatewayError(
                error_pb2.ERROR_REASON_KEY_INVALID,
                f"the key has {len(key)} characters, the limit is {_MAX_KEY}",
                field="key",
            )
            return Response(key=key[:_MAX_KEY], model=self._reference, error=error.to_status())
        try:
            image = Submitted(item.data, item.frame)
            answer = await self._pipeline.classify_with(self._resolved, image, self._deadline)
        except VersionUnloadedError:
            self.end(self._retired())
            return None
        except VersionLostError as lost:
            self.end(lost)
            return None
        if isinstance(answer, GatewayError):
            return Response(key=key, model=self._reference, error=answer.to_status())
        return Response(key=key, model=self._reference, classification=answer.classification)

    def _retired(self) -> GatewayError:
        version = self._resolved.version
        if not self._resolved.label:
            return gone(version)
        return GatewayError(
            error_pb2.ERROR_REASON_MODEL_VERSION_RETIRED,
            f"version {version.number} of model {version.model}, with which the stream began, was unloaded; "
            "send what has no answer in a new stream",
            resource=("model_version", f"{version.model}/{version.number}"),
        )
