"""Counting items in bytes that are not parsed."""

from __future__ import annotations

import pytest
from neurogate.v1 import classification_pb2 as pb
from neurogate_gateway.rpc.wire_guard import limit_repeated
from neurogate_testing.refusals import refused

ITEMS = pb.BatchClassifyRequest.ITEMS_FIELD_NUMBER


def batch(count: int, size: int = 300) -> bytes:
    items = [pb.BatchClassifyItem(image=bytes(size))] * count
    return pb.BatchClassifyRequest(items=items, top_k=-1, request_id="x" * 100).SerializeToString()


@pytest.mark.parametrize("size", [0, 1, 200, 20_000, 3_000_000])
def test_batches_up_to_the_limit_pass(size: int) -> None:
    limit_repeated(b"", ITEMS, 3)
    limit_repeated(batch(3, size), ITEMS, 3)
    with refused("BATCH_TOO_LARGE"):
        limit_repeated(batch(4, size), ITEMS, 3)


def test_fields_of_newer_contracts_pass() -> None:
    limit_repeated(batch(1) + b"\xa0\x06\x96\x01" + b"\xa5\x06abcd" + b"\xa1\x06abcdefgh", ITEMS, 1)


@pytest.mark.parametrize(
    "raw",
    [b"\x12\x00" * 100, b"\x0b\x0c", b"\x0f", b"\x0a", b"\x0a\xff", b"\xff" * 20],
    ids=["many fields", "group", "no wire type", "no length", "half a length", "endless number"],
)
def test_what_is_no_message_of_ours_is_malformed(raw: bytes) -> None:
    with refused("REQUEST_MALFORMED"):
        limit_repeated(raw, ITEMS, 3)
