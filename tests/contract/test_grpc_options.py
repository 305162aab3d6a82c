"""gRPC ignores an option that it does not know, so a misspelt one is only noticed when it is missed."""

from __future__ import annotations

from pathlib import Path

import pytest
from grpc._cython import cygrpc
from neurogate_client import _channel
from neurogate_gateway.backends import tfserving as backend
from neurogate_gateway.rpc import server


@pytest.fixture(scope="module")
def library() -> bytes:
    return Path(cygrpc.__file__).read_bytes()


def test_the_library_knows_every_option(library: bytes) -> None:
    client = dict(_channel.options(_channel.Target.parse("localhost:1"), 2**20))
    names = {*client, *dict(server._OPTIONS), *dict(backend._OPTIONS)}
    assert len(names) > 10
    assert [name for name in sorted(names) if name.encode() not in library] == []


def test_the_gateway_tolerates_the_clients_pings() -> None:
    tolerated = dict(server._OPTIONS)["grpc.http2.min_ping_interval_without_data_ms"]
    client = dict(_channel.options(_channel.Target.parse("localhost:1"), 2**20))
    assert 2 * tolerated <= client["grpc.keepalive_time_ms"]
    assert dict(server._OPTIONS)["grpc.keepalive_permit_without_calls"] == 1
