"""ClassificationService's unary calls and the gateway's health, described for both clients."""

# Timeouts become deadlines of calls, which the gateway has to see.

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Final, cast

from google.protobuf import wrappers_pb2
from neurogate.v1 import classification_pb2 as pb

from . import _channel, _requests, _wire
from ._steps import Ask, Connection, Pause, Steps, Work, unary
from .errors import (
    DeadlineExceededError,
    ModelNotFoundError,
    ModelNotReadyError,
    NeurogateError,
    UnavailableError,
)
from .images import Encoded, Image, framed, load_image
from .results import Classification, Explanation, Health, HealthStatus, Result

_LOOK_SECONDS: Final = 5.0
"""For one health check of several."""


class ClassificationCalls(Connection):
    """Classify, BatchClassify, Explain, and `grpc.health.v1`."""

    @unary
    def classify(
        self,
        image: Image,
        *,
        version: int | None = None,
        label: str | None = None,
        model: str = "",
        top_k: int = 0,
        frame: int = 0,
        request_id: str = "",
        routing_key: str = "",
        timeout: float | None = None,
    ) -> Steps[Classification]:
        """Classifies one image.

        Args:
            image: encoded bytes, or the path of a file.
            version: number of the version that is to answer.
            label: or its label; neither means "stable", and "latest" the newest that is ready.
            model: model name, where a gateway has another than its own.
            top_k: number of scores wanted, highest first; 0 for all classes.
            frame: number of the frame of a DICOM file, from 1; 0 for the only one.
            request_id: identifier for the gateway's log, up to 128 printable ASCII characters.
            routing_key: keeps a caller on one version while traffic is split: the same key gets the same
                version. Empty means request_id, and where that is empty too, chance.
            timeout: seconds for this call, in place of the client's.
        """
        selector = _wire.selector(model, version, label)
        encoded, frame = framed(image, frame)
        request = pb.ClassifyRequest(
            image=(yield from _load(encoded, self._max_image_bytes)),
            frame=frame,
            model=selector,
            top_k=top_k,
            request_id=request_id,
            routing_key=routing_key,
        )
        response: pb.ClassifyResponse = yield Ask(lambda on: on.classification.Classify, request, timeout)
        return _wire.classification(
            response.classification, _wire.model_ref(response.model), response.request_id
        )

    @unary
    def batch_classify(
        self,
        images: Sequence[Image],
        *,
        version: int | None = None,
        label: str | None = None,
        model: str = "",
        top_k: int = 0,
        request_id: str = "",
        routing_key: str = "",
        timeout: float | None = None,
    ) -> Steps[list[Result[int]]]:
        """Classifies several images in one call, by one version. For many, `stream_classify` is better.

        An image may be a `Frame`. Returns one result per image, in order, its key the position. An image that
        has no answer has an error in its result; exceptions are for the call as a whole, and for an image too
        large or unreadable to be sent at all. Arguments as in `classify`.
        """
        request = pb.BatchClassifyRequest(
            model=_wire.selector(model, version, label),
            top_k=top_k,
            request_id=request_id,
            routing_key=routing_key,
        )
        yield Work(lambda: _requests.fill_batch(request, images, self._max_image_bytes))
        response: pb.BatchClassifyResponse = yield Ask(
            lambda on: on.classification.BatchClassify, request, timeout
        )
        return _requests.batch_results(request, response)

    @unary
    def explain(
        self,
        image: Image,
        *,
        class_id: str = "",
        color_map: str | None = None,
        alpha: float | None = None,
        max_side: int = 0,
        frame: int = 0,
        version: int | None = None,
        label: str | None = None,
        model: str = "",
        request_id: str = "",
        routing_key: str = "",
        timeout: float | None = None,
    ) -> Steps[Explanation]:
        """Shows where in an image the evidence for a class lies, with a picture of it.

        Args:
            image: encoded bytes, or the path of a file.
            class_id: the class to explain; empty for the most probable one.
            color_map: "jet" (default), "viridis" or "inferno".
            alpha: opacity of the map where it is strongest, 0 to 1; unset for 0.5.
            max_side: longer side of the picture in pixels, 64 to 2048; 0 for the image's own, but at most
                1024.
            frame: number of the frame of a DICOM file, from 1; 0 for the only one.
            version: number of the version that is to answer.
            label: or its label; neither means "stable".
            model: model name, where a gateway has another than its own.
            request_id: identifier for the gateway's log.
            routing_key: keeps a caller on one version while traffic is split; see `classify`.
            timeout: seconds for this call, in place of the client's.
        """
        selector = _wire.selector(model, version, label)
        overlay = _wire.overlay(color_map, alpha, max_side)
        encoded, frame = framed(image, frame)
        request = pb.ExplainRequest(
            image=(yield from _load(encoded, self._max_image_bytes)),
            frame=frame,
            model=selector,
            class_id=class_id,
            overlay=overlay,
            request_id=request_id,
            routing_key=routing_key,
        )
        return _wire.explanation((yield Ask(lambda on: on.classification.Explain, request, timeout)))

    @unary
    def health(self, service: str = "", *, timeout: float | None = None) -> Steps[Health]:
        """Whether the gateway takes work, or one of its services ("neurogate.v1.ClassificationService").

        Not serving is an answer, and not an error; an error is a gateway that cannot be reached.
        """
        return (yield from _health(service, timeout))

    @unary
    def wait_until_ready(self, timeout: float = _channel.DEFAULT_TIMEOUT) -> Steps[None]:
        """Returns as soon as the gateway takes work.

        Raises:
            UnavailableError: it did not within `timeout` seconds; the message says what it answered last.
        """
        _channel.check_timeout("timeout", timeout)
        end = time.monotonic() + timeout
        last: NeurogateError | None = None
        while (left := end - time.monotonic()) > 0:
            try:
                health = yield from _health("", min(left, _LOOK_SECONDS))
            except NeurogateError as error:
                # That the time left for the last look was short says nothing of the gateway.
                if last is None or left >= _LOOK_SECONDS or not isinstance(error, DeadlineExceededError):
                    last = error
            else:
                if health.serving:
                    return
                last = ModelNotReadyError(f"the gateway at {self.target} answers {health.status}")
            yield Pause(min(_requests.READY_POLL_SECONDS, max(0.0, end - time.monotonic())))
        raise UnavailableError(
            f"not ready after {timeout:g} s: {last.message if last else 'no answer'}"
        ) from last


def _health(service: str, timeout: float | None) -> Steps[Health]:
    try:
        response: wrappers_pb2.Int32Value = yield Ask(
            lambda on: on.check, wrappers_pb2.StringValue(value=service), timeout
        )
    except ModelNotFoundError:
        return Health(service, HealthStatus.SERVICE_UNKNOWN)
    return Health(service, _wire.health_status(response.value))


def _load(image: Encoded, limit: int) -> Steps[bytes]:
    # Bytes are at hand; a file may be on a slow disk.
    if isinstance(image, (str, os.PathLike)):
        return cast("bytes", (yield Work(lambda: load_image(image, limit))))
    return load_image(image, limit)
