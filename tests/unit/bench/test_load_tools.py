"""ghz's configurations and what is made of ghz's and k6's reports."""

from __future__ import annotations

import io
import json

import ghz
import k6
import pytest
from google.protobuf import proto
from neurogate.v1 import classification_pb2
from neurogate_bench import images
from neurogate_bench.record import Record

CONFIGURATIONS = {
    path.stem: json.loads(path.read_text()) for path in sorted(ghz.CONFIGURATIONS.glob("*.json"))
}
SERVICE = classification_pb2.DESCRIPTOR.services_by_name["ClassificationService"]


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_configuration_names_a_method_and_files_that_are_made(name, tmp_path):
    configuration = CONFIGURATIONS[name]
    service, _, method = configuration["call"].rpartition("/")
    assert service == SERVICE.full_name
    assert method in SERVICE.methods_by_name
    ghz.write_payloads([images.slice_like(0, side=32)], tmp_path)
    made = {f"build/bench/ghz/{path.name}" for path in tmp_path.iterdir()}
    assert configuration["binary-file"] in made
    assert configuration.get("protoset", "proto/neurogate.binpb") == "proto/neurogate.binpb"


def test_single_calls_and_streams_are_run_with_and_without_reflection():
    kinds = {(entry["call"].rpartition("/")[2], "protoset" in entry) for entry in CONFIGURATIONS.values()}
    assert {(method, known) for method in ("Classify", "StreamClassify") for known in (True, False)} <= kinds


def test_ghz_is_sent_length_delimited_messages():
    messages = [classification_pb2.ClassifyRequest(image=b"x" * size) for size in (0, 1, 124, 125, 70_000)]
    data = io.BytesIO(ghz.delimited(messages))
    found = [proto.parse_length_prefixed(classification_pb2.ClassifyRequest, data) for _ in messages]
    assert found == messages
    assert not data.read()


def ghz_report(**statuses):
    return {
        "name": "streams",
        "rps": 2.0,
        "options": {"call": "neurogate.v1.ClassificationService/StreamClassify"},
        "latencyDistribution": [{"percentage": percent, "latency": 5_000_000} for percent in (50, 90, 99)],
        "statusCodeDistribution": statuses,
    }


def test_ghz_counts_a_stream_as_one_request_of_many_pictures():
    record = Record()
    ghz.book(record, ghz_report(OK=10))
    assert record.figure("streams", "images")["median"] == 2 * ghz.STREAM_LENGTH
    assert record.figure("streams", "p99")["median"] == 5.0
    assert record.void == []


def test_what_ghz_saw_shed_is_told_and_what_failed_makes_it_void():
    record = Record()
    ghz.book(record, ghz_report(OK=10, ResourceExhausted=3))
    assert record.figure("streams", "not OK")["median"] == 3
    assert record.void == []
    ghz.book(record, ghz_report(OK=10, Unavailable=1))
    assert record.void == ["requests failed: Unavailable"]


def k6_metrics(**changes):
    times = {"med": 10.0, "p(90)": 20.0, "p(99)": 30.0}
    made = {
        "grpc_req_duration": times,
        "stream_duration": times,
        "iterations": {"count": 5, "rate": 1.0},
        "pictures_answered": {"count": 40, "rate": 8.0},
        "checks": {"passes": 5, "fails": 0},
        "wrong_answers": {"count": 0},
    }
    return {**made, **changes}


@pytest.mark.parametrize("script", k6.KINDS)
def test_every_k6_script_is_there_and_its_answers_count(script):
    assert (k6.SCRIPTS / f"{script}.js").exists()
    record = Record()
    k6.book(record, script, k6_metrics())
    assert record.checks["requests"] == 5
    assert record.checks["answers"] == (5 if script == "classify" else 40)
    assert record.void == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"wrong_answers": {"count": 1}}, "answers were wrong"),
        ({"checks": {"passes": 4, "fails": 1}}, "requests failed"),
        ({"dropped_iterations": {"count": 2}}, "k6 could not keep the rate"),
    ],
)
def test_what_k6_found_wrong_makes_it_void(changes, reason):
    record = Record()
    k6.book(record, "classify", k6_metrics(**changes))
    assert len(record.void) == 1
    assert record.void[0].startswith(reason)
