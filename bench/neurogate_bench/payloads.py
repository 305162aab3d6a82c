"""Requests in the forms that ghz and k6 read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from google.protobuf.message import Message
from neurogate.v1 import classification_pb2

from neurogate_bench.machine import ROOT

FOLDER = ROOT / "build" / "bench" / "ghz"
STREAM_LENGTH = 64
BATCH_SIZE = 8


def delimited(messages: Iterable[Message]) -> bytes:
    """Each message after its length as a varint: ghz tries this form first, and a bare message may pass
    for it."""
    parts = []
    for message in messages:
        body = message.SerializeToString()
        length, head = len(body), bytearray()
        while length > 0x7F:
            head.append(length & 0x7F | 0x80)
            length >>= 7
        head.append(length)
        parts += [bytes(head), body]
    return b"".join(parts)


def write_payloads(images: list[bytes], folder: Path = FOLDER) -> None:
    """`classify.bin`, `batch.bin` and `stream.bin`, which the configurations name."""
    folder.mkdir(parents=True, exist_ok=True)
    pb = classification_pb2
    single = [pb.ClassifyRequest(image=image) for image in images]
    items = [pb.BatchClassifyItem(image=images[number % len(images)]) for number in range(BATCH_SIZE)]
    # No message carries a config: ghz sends the same messages in every stream, and the default is what is
    # wanted.
    stream = [
        pb.StreamClassifyRequest(key=str(number), image=images[number % len(images)])
        for number in range(STREAM_LENGTH)
    ]
    (folder / "classify.bin").write_bytes(delimited(single))
    (folder / "batch.bin").write_bytes(delimited([pb.BatchClassifyRequest(items=items)]))
    (folder / "stream.bin").write_bytes(delimited(stream))
