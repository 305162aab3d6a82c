"""Errors agree with error.proto and with the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from google.rpc import code_pb2, error_details_pb2
from neurogate.v1 import error_pb2
from neurogate_core.preprocessing import transform
from neurogate_gateway.errors import GatewayError, InternalError, OverloadedError, reason_of

ROOT = Path(__file__).parents[3]
REASONS = [
    value.name.removeprefix("ERROR_REASON_")
    for value in error_pb2.ErrorReason.DESCRIPTOR.values
    if value.number
]


def test_the_documentation_has_every_reason_with_its_status() -> None:
    text = (ROOT / "docs/errors.md").read_text()
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| `([A-Z_]+)` \|", text, re.MULTILINE))
    statuses = {name: GatewayError(reason_of(name), "text").code for name in REASONS}
    assert rows == {name: code_pb2.Code.Name(code) for name, code in statuses.items()}
    assert code_pb2.OK not in statuses.values()


def test_these_reasons_always_say_when_to_retry() -> None:
    errors = [GatewayError(reason_of(name), "text") for name in REASONS]
    assert {error.reason_name(): error.retry_after for error in errors if error.retry_after} == {
        "MODEL_NOT_READY": 0.5,
        "BACKEND_UNAVAILABLE": 0.5,
        "RELEASE_UNAVAILABLE": 1.0,
    }


def test_every_refusal_of_the_transform_is_a_reason() -> None:
    kinds = {kind.reason for kind in transform.TransformError.__subclasses__()}
    assert {"IMAGE_EMPTY", "IMAGE_CORRUPT"} <= kinds <= set(REASONS)
    with pytest.raises(ValueError, match="IMAGE_GREEN"):
        reason_of("IMAGE_GREEN")


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
    assert len(InternalError("x").to_status().details) == 1


def test_long_text_is_cut() -> None:
    error = GatewayError(
        error_pb2.ERROR_REASON_MODEL_NOT_FOUND,
        "m" * 5000,
        resource=("model", "n" * 5000),
        metadata={"a": "b" * 5000},
    )
    assert error.to_status().ByteSize() < 1500
