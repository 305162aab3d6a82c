"""Tools that know only the address can ask for the contract."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from neurogate_testing.stack import Stack


def ask(stack: Stack, **question: str) -> reflection_pb2.ServerReflectionResponse:
    with grpc.insecure_channel(stack.target) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        requests = iter([reflection_pb2.ServerReflectionRequest(**question)])
        (response,) = stub.ServerReflectionInfo(requests, timeout=30)
        return response


@pytest.mark.parametrize(
    "symbol",
    [
        "neurogate.v1.ClassificationService",
        "neurogate.v1.ClassificationService.Classify",
        "neurogate.v1.ClassifyRequest",
    ],
)
def test_symbols_lead_to_their_file(stack: Stack, symbol: str) -> None:
    response = ask(stack, file_containing_symbol=symbol)
    names = [
        descriptor_pb2.FileDescriptorProto.FromString(data).name
        for data in response.file_descriptor_response.file_descriptor_proto
    ]
    assert "neurogate/v1/classification.proto" in names
    assert "google/rpc/status.proto" in names, "what the file imports comes with it"


@pytest.mark.parametrize(
    "symbol", ["neurogate.v1.ClassificationService.Nothing", "neurogate.v1.Nothing", "nothing", ""]
)
def test_unknown_symbols_are_not_found(stack: Stack, symbol: str) -> None:
    response = ask(stack, file_containing_symbol=symbol)
    assert response.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
