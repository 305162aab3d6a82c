"""Requests, checked before they are sent; the same for both flavours of the client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from neurogate.v1 import classification_pb2 as pb

from . import _channel, _wire
from .errors import BatchSizeError, UnexpectedError
from .images import Image, framed, load_image
from .results import Result

DEFAULT_WINDOW = 64
"""Images of a stream on their way at a time: enough to keep a gateway busy, little to hold."""

READY_POLL_SECONDS = 0.1

# Tag and length before each item's bytes, with room for the other fields of the request.
_ITEM_OVERHEAD = 16
_REQUEST_OVERHEAD = 4096


def fill_batch(request: pb.BatchClassifyRequest, images: Sequence[Image], limit: int) -> None:
    """Puts several images into a request.

    Raises:
        BatchSizeError: no images, or more bytes than one message may have.
    """
    if not images:
        raise BatchSizeError("a batch needs at least one image", reason="BATCH_EMPTY")
    message_limit = _channel.max_message_bytes(limit)
    total = _REQUEST_OVERHEAD
    for position, image in enumerate(images):
        data = load_image(image, limit)
        total += len(data) + _ITEM_OVERHEAD
        if total > message_limit:
            raise BatchSizeError(
                f"the first {position + 1} of {len(images)} images pass the limit of {message_limit:,} bytes "
                "for one message; use stream_classify, or smaller batches",
                reason="BATCH_TOO_LARGE",
                metadata={"max_message_bytes": str(message_limit)},
            )
        request.items.add(image=data, frame=framed(image)[1])


def batch_results(request: pb.BatchClassifyRequest, response: pb.BatchClassifyResponse) -> list[Result[int]]:
    """The results of a batch, one per item.

    Raises:
        UnexpectedError: another number of results than items.
    """
    if len(response.results) != len(request.items):
        raise UnexpectedError(
            f"{len(request.items)} images were sent and {len(response.results)} results came"
        )
    model = _wire.model_ref(response.model)
    return [
        _wire.item_result(position, each, model, response.request_id)
        for position, each in enumerate(response.results)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """How one stream is to run.

    Raises:
        ValueError: a window or timeout that cannot work.
    """

    config: pb.StreamClassifyConfig
    window: int
    idle_timeout: float
    max_image_bytes: int
    target: str

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"window is {self.window}; it must be at least 1")
        _channel.check_timeout("idle_timeout", self.idle_timeout)


def stream_config(
    *,
    version: int | None,
    label: str | None,
    model: str,
    top_k: int,
    allow_out_of_order: bool,
    request_id: str,
    routing_key: str,
) -> pb.StreamClassifyConfig:
    """How a stream is to be served."""
    return pb.StreamClassifyConfig(
        model=_wire.selector(model, version, label),
        top_k=top_k,
        allow_out_of_order=allow_out_of_order,
        request_id=request_id,
        routing_key=routing_key,
    )
