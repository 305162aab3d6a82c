from __future__ import annotations

import pickle
import re
from pathlib import Path

import grpc
import pytest
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2
from neurogate.v1 import error_pb2
from neurogate_client import errors
from neurogate_client.errors import NeurogateError
from neurogate_testing.fake_status import refusal, status

DOCS = (Path(__file__).parents[3] / "docs" / "client.md").read_text()
CODES = {code.value[0]: code for code in grpc.StatusCode}
REASONS = {
    value.name.removeprefix("ERROR_REASON_"): CODES[value.GetOptions().Extensions[error_pb2.status]]
    for value in error_pb2.ErrorReason.DESCRIPTOR.values
    if value.number
}


def test_every_reason_of_the_contract_has_an_exception_and_no_other() -> None:
    assert sorted(errors.BY_REASON) == sorted(REASONS)


@pytest.mark.parametrize(("reason", "code"), REASONS.items())
def test_each_exception_belongs_to_its_reasons_status(reason: str, code: grpc.StatusCode) -> None:
    error = errors.from_status(status(code, reason, "no", size_bytes="3"))
    assert type(error) is errors.BY_REASON[reason]
    assert (error.code, error.reason, error.message) == (code, reason, "no")
    assert error.metadata == {"size_bytes": "3"}
    assert type(error).default_code in {code, grpc.StatusCode.UNKNOWN}


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = set(re.findall(r"[├└]── (\w+)", errors.__doc__ or "")) | {"NeurogateError"}
    real = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, NeurogateError)
    }
    assert drawn == real


def test_the_table_in_the_docs_has_every_exception_with_its_reasons() -> None:
    rows = re.findall(r"^\| `(\w+Error)` \| [^|]* \| ([^|]*) \|", DOCS, flags=re.MULTILINE)
    documented = {reason: name for name, text in rows for reason in re.findall(r"[A-Z][A-Z_]{3,}", text)}
    assert documented.pop("IMAGE_UNREADABLE") == "ImageUnreadableError"
    assert documented == {reason: kind.__name__ for reason, kind in errors.BY_REASON.items()}


def test_a_reason_from_the_future_becomes_the_general_exception_of_its_status() -> None:
    error = errors.from_status(status(grpc.StatusCode.UNAVAILABLE, "MOON_PHASE", "later"))
    assert type(error) is errors.UnavailableError
    assert error.reason == "MOON_PHASE"


def test_another_domains_reason_is_not_taken_for_ours() -> None:
    message = status_pb2.Status(code=14, message="mesh")
    message.details.add().Pack(error_details_pb2.ErrorInfo(reason="OVERLOADED", domain="mesh.example"))
    error = errors.from_status(message)
    assert type(error) is errors.UnavailableError
    assert error.reason == ""


def test_retry_time_and_field_violations_are_carried() -> None:
    message = refusal("OVERLOADED", "busy", retry_after=0.25)
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field="top_k", description="must be 0 to 4")
    message.details.add().Pack(bad)
    error = errors.from_status(message)
    assert isinstance(error, errors.OverloadedError)
    assert error.retry_after == 0.25
    assert error.field_violations == (errors.FieldViolation("top_k", "must be 0 to 4"),)


def test_a_detail_that_cannot_be_read_does_not_hide_the_status() -> None:
    message = refusal("OVERLOADED", "busy", retry_after=2)
    message.details[1].value = b"\xff"
    error = errors.from_status(message)
    assert type(error) is errors.OverloadedError
    assert error.retry_after is None
    message.details[1].Pack(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=10**15)))
    assert errors.from_status(message).retry_after == 1e15


def test_an_unknown_status_number_is_an_unexpected_error() -> None:
    error = errors.from_status(status_pb2.Status(code=99, message="?"))
    assert type(error) is errors.UnexpectedError
    assert error.code is grpc.StatusCode.UNKNOWN


def test_text_names_message_status_and_reason() -> None:
    error = errors.ImageCorruptError("a.jpg is cut off", reason="IMAGE_CORRUPT")
    assert str(error) == "a.jpg is cut off [INVALID_ARGUMENT IMAGE_CORRUPT]"
    assert str(NeurogateError("?")) == "? [UNKNOWN]"


def test_errors_survive_pickling() -> None:
    before = errors.OverloadedError("busy", reason="OVERLOADED", metadata={"limit": "8"}, retry_after=1.5)
    after = pickle.loads(pickle.dumps(before))
    assert type(after) is errors.OverloadedError
    assert vars(after) == vars(before)
    assert str(after) == str(before)
