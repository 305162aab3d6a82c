"""One table of errors: it agrees with error.proto and with the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2
from neurogate.v1 import error_pb2
from neurogate_core.preprocessing import transform
from neurogate_gateway import errors
from neurogate_gateway.errors import TABLE, GatewayError, OverloadedError

ROOT = Path(__file__).parents[3]
REASONS = {
    value.name.removeprefix("ERROR_REASON_"): value.number
    for value in error_pb2.ErrorReason.DESCRIPTOR.values
    if value.number
}


def status_of(error: type[GatewayError]) -> str:
    return code_pb2.Code.Name(error.code)


def test_every_reason_has_one_exception() -> None:
    assert TABLE.keys() == REASONS.keys()
    assert {name: int(leaf.reason) for name, leaf in TABLE.items()} == REASONS
    assert len(set(TABLE.values())) == len(REASONS)


def test_error_proto_names_the_same_statuses() -> None:
    text = (ROOT / "proto/neurogate/v1/error.proto").read_text()
    told = dict(re.findall(r"// ([A-Z_]+): [^=]*?ERROR_REASON_(\w+) = \d+;", text))
    statuses = {
        reason: status
        for status, reason in re.findall(r"// ([A-Z_]+): [^=]*?ERROR_REASON_(\w+) = \d+;", text)
    }
    assert told
    assert statuses == {name: status_of(leaf) for name, leaf in TABLE.items()}


def test_the_documentation_has_the_same_table() -> None:
    text = (ROOT / "docs/errors.md").read_text()
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| `([A-Z_]+)` \|", text, re.MULTILINE))
    assert rows == {name: status_of(leaf) for name, leaf in TABLE.items()}


def test_only_unavailable_is_for_retry() -> None:
    retryable = {name for name, leaf in TABLE.items() if status_of(leaf) == "UNAVAILABLE"}
    assert retryable == {
        "MODEL_NOT_READY",
        "BACKEND_UNAVAILABLE",
        "SHUTTING_DOWN",
        "MODEL_VERSION_RETIRED",
        "RECORDS_UNAVAILABLE",
        "RELEASE_UNAVAILABLE",
    }


def test_every_status_is_one_of_grpcs() -> None:
    numbers = {code.value[0] for code in grpc.StatusCode}
    assert {leaf.code for leaf in TABLE.values()} <= numbers


def test_every_refusal_of_the_transform_has_an_exception() -> None:
    kinds = transform.TransformError.__subclasses__()
    assert {kind.reason for kind in kinds} <= TABLE.keys()
    assert {kind.reason for kind in kinds} >= {"IMAGE_EMPTY", "IMAGE_CORRUPT"}


def test_details() -> None:
    error = OverloadedError(
        "full", field="image", resource=("model", "m"), retry_after=0.25, metadata={"limit": "64"}
    )
    status = error.to_status()
    assert (status.code, status.message) == (code_pb2.RESOURCE_EXHAUSTED, "full")
    info, bad, resource, retry = status.details
    unpacked = error_details_pb2.ErrorInfo()
    assert info.Unpack(unpacked)
    assert (unpacked.reason, unpacked.domain, dict(unpacked.metadata)) == (
        "OVERLOADED",
        "neurogate",
        {"limit": "64"},
    )
    request = error_details_pb2.BadRequest()
    assert bad.Unpack(request)
    assert (request.field_violations[0].field, request.field_violations[0].description) == ("image", "full")
    named = error_details_pb2.ResourceInfo()
    assert resource.Unpack(named)
    assert (named.resource_type, named.resource_name) == ("model", "m")
    later = error_details_pb2.RetryInfo()
    assert retry.Unpack(later)
    assert later.retry_delay.ToMilliseconds() == 250


def test_without_extras_there_is_only_error_info() -> None:
    assert len(errors.InternalError("x").to_status().details) == 1


def test_long_text_is_cut() -> None:
    error = errors.ModelNotFoundError("m" * 5000, resource=("model", "n" * 5000), metadata={"a": "b" * 5000})
    assert error.to_status().ByteSize() < 1500


@pytest.mark.parametrize("leaf", TABLE.values(), ids=lambda leaf: leaf.__name__)
def test_every_exception_says_what_it_is_for(leaf: type[GatewayError]) -> None:
    assert leaf.__doc__
    assert leaf.__name__.endswith("Error")
    assert leaf("text").message == "text"
