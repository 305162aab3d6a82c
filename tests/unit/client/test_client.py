"""The calls of both clients, on a fake gateway; streams and watches are in `test_streams`."""

from __future__ import annotations

import datetime as dt
import inspect
import math
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from neurogate.v1 import model_pb2, training_pb2
from neurogate_client import (
    Client,
    ExampleFilter,
    ExampleSource,
    Frame,
    Health,
    HealthStatus,
    LabelledImage,
    ModelRef,
    RetrainingState,
    Score,
    Timings,
    Verdict,
    aio,
    enum_name,
    errors,
)
from neurogate_client._calls import Readiness
from neurogate_testing.fake_gateway import PNG, FakeGateway, fake_gateway, version
from neurogate_testing.fake_release import gate_report
from neurogate_testing.fake_status import refusal
from neurogate_testing.processes import free_port


@pytest.fixture(autouse=True)
def two_versions(gateway: FakeGateway) -> None:
    gateway.script.versions = [version(2, labels=("candidate",)), version(1, labels=("stable",))]


def test_both_clients_have_the_same_methods_with_the_same_arguments() -> None:
    def public(kind: type) -> dict[str, inspect.Signature]:
        names = [name for name in dir(kind) if not name.startswith("_")]
        return {name: inspect.signature(getattr(kind, name)) for name in names}

    threads, asyncio = public(Client), public(aio.Client)
    assert list(threads) == list(asyncio)
    assert len(threads) > 20
    for name, signature in threads.items():
        for argument, other in zip(
            signature.parameters.values(), asyncio[name].parameters.values(), strict=True
        ):
            assert (argument.name, argument.default) == (other.name, other.default), name
        assert getattr(aio.Client, name).__doc__ == getattr(Client, name).__doc__ != ""


def test_classify_gives_scores_verdict_version_and_timings(client: Any, gateway: FakeGateway) -> None:
    answer = client.classify(b"meningioma unsure", top_k=2, request_id="r1")
    assert answer.top == Score("meningioma", "Meningioma", 1, pytest.approx(0.91))
    assert [each.class_id for each in answer.scores] == ["meningioma", "glioma"]
    assert answer.verdict is Verdict.ABSTAIN
    assert answer.model == ModelRef("brain_tumor", 1, "stable", f"{1:064x}")
    assert answer.timings == Timings(0.001, 0.002, 0.009)
    assert answer.timings.total == pytest.approx(0.012)
    assert (answer.request_id, answer.prediction_id, answer.ood_score) == ("r1", "p1", 1.5)
    assert gateway.script.requests[0].top_k == 2


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ("brain_tumor", 1, "stable")),
        ({"version": 7}, ("brain_tumor", 7, "")),
        ({"label": "latest"}, ("brain_tumor", 2, "latest")),
        ({"model": "other", "routing_key": "ward-3"}, ("other", 1, "stable")),
        ({"model": "other", "version": 3}, ("other", 3, "")),
    ],
)
def test_version_label_model_and_routing_key_reach_every_call(
    client: Any, gateway: FakeGateway, options: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    for answer in (
        client.classify(b"glioma", **options),
        client.batch_classify([b"glioma"], **options)[0].unwrap(),
        next(client.stream_classify([("k", b"glioma")], **options)).unwrap(),
        client.explain(b"glioma", **options).classification,
    ):
        assert (answer.model.name, answer.model.version, answer.model.label) == expected
    requests = [each for each in gateway.script.requests if not getattr(each, "key", "")]
    keys = [getattr(each, "config", each).routing_key for each in requests]
    assert keys == [options.get("routing_key", "")] * 4


def test_the_frame_of_a_file(client: Any, gateway: FakeGateway, tmp_path: Path) -> None:
    path = tmp_path / "volume"
    path.write_bytes(b"pituitary")
    requests = gateway.script.requests
    client.classify(path, frame=3)
    client.classify(Frame(path, 4), frame=3)
    client.explain(str(path), frame=5)
    assert [(each.image, each.frame) for each in requests] == [(b"pituitary", frame) for frame in (3, 4, 5)]
    client.batch_classify([Frame(path, 6), b"glioma"])
    assert [each.frame for each in requests[-1].items] == [6, 0]
    client.batch_classify(Frame(path, number) for number in (7, 8))
    assert [each.frame for each in requests[-1].items] == [7, 8]
    assert len(list(client.stream_classify([(number, Frame(path, number)) for number in (1, 2)]))) == 2
    assert [each.frame for each in requests[-2:]] == [1, 2]


def test_batch_results_come_in_order_with_a_status_each(client: Any) -> None:
    results = client.batch_classify([b"glioma", b"corrupt", b"notumor"], top_k=1, request_id="b")
    assert [each.key for each in results] == [0, 1, 2]
    assert [results[at].unwrap().top.class_id for at in (0, 2)] == ["glioma", "notumor"]
    assert {each.model for each in results} == {ModelRef("brain_tumor", 1, "stable", f"{1:064x}")}
    assert results[0].unwrap().request_id == "b"
    with pytest.raises(errors.ImageCorruptError):
        results[1].unwrap()


def test_what_cannot_be_accepted_is_not_sent(make_client: Callable[..., Any], gateway: FakeGateway) -> None:
    with make_client(gateway.address, max_image_bytes=10_000) as client:
        for call in (client.classify, client.explain):
            with pytest.raises(ValueError, match=r"give either a version \(1\) or a label \('stable'\)"):
                call(b"glioma", version=1, label="stable")
        with pytest.raises(ValueError, match="no colour map 'pink'; there are jet, viridis, inferno"):
            client.explain(b"glioma", color_map="pink")
        with pytest.raises(errors.BatchSizeError, match="at least one image"):
            client.batch_classify([])
        with pytest.raises(
            errors.BatchSizeError, match="first 107 of 120 images pass the limit of 1,068,576"
        ):
            client.batch_classify([b"x" * 10_000] * 120)
        with pytest.raises(errors.ImageTooLargeError):
            client.classify(b"x" * 10_001)
        with pytest.raises(errors.ImageEmptyError):
            client.classify(b"")
        for wrong in ({}, {"class_id": "glioma", "not_mri": True}):
            with pytest.raises(ValueError, match="give either the right class_id, or not_mri=True"):
                client.submit_feedback("p1", **wrong)
        with pytest.raises(ValueError, match="give either warm_start_version or from_scratch"):
            client.start_retraining(warm_start_version=1, from_scratch=True)
    assert gateway.script.calls == []


def test_explain_gives_map_and_picture(client: Any, gateway: FakeGateway) -> None:
    result = client.explain(b"glioma", class_id="notumor", color_map="viridis", alpha=0, max_side=128)
    assert (result.class_id, result.overlay_png) == ("notumor", PNG)
    assert result.activation_map.rows() == [[0, 1, 2], [3, 4, 5]]
    assert result.classification.top.class_id == "glioma"
    assert result.map_caution == "the maps point elsewhere"
    overlay = gateway.script.requests[0].overlay
    assert (overlay.color_map, overlay.alpha, overlay.max_side) == (2, 0, 128)
    assert overlay.HasField("alpha")
    client.explain(b"glioma")
    assert not gateway.script.requests[1].overlay.HasField("alpha")
    with pytest.raises(errors.InvalidOptionError, match="CLASS_NOT_FOUND"):
        client.explain(b"glioma", class_id="flu")


def test_a_small_image_limit_does_not_limit_the_answers(
    make_client: Callable[..., Any], gateway: FakeGateway
) -> None:
    gateway.script.versions[1].manifest.goldens.add(name="large", image=bytes(5_000_000))
    with make_client(gateway.address, max_image_bytes=1000) as client:
        assert len(client.get_model_version(1).manifest.goldens[-1].image) == 5_000_000


def test_a_closed_client_says_so(gateway: FakeGateway) -> None:
    client = Client(gateway.address)
    client.classify(b"glioma")
    client.close()
    for call in (
        lambda: client.classify(b"glioma"),
        client.health,
        lambda: list(client.stream_classify([("k", b"glioma")])),
        lambda: list(client.upload_examples([LabelledImage(image=b"x", class_id="glioma")])),
        lambda: next(client.watch_model_versions()),
    ):
        with pytest.raises(errors.CallCancelledError, match="the client is closed"):
            call()


def test_health(client: Any, gateway: FakeGateway) -> None:
    assert client.health() == Health("", HealthStatus.SERVING)
    assert client.health("neurogate.v1.ModelService").serving
    assert client.health("no.such.Service").status is HealthStatus.SERVICE_UNKNOWN
    gateway.set_serving(False)
    assert client.health().status is HealthStatus.NOT_SERVING


def test_unavailable_is_retried_even_for_a_large_image(client: Any, gateway: FakeGateway) -> None:
    gateway.script.failures = [refusal("SHUTTING_DOWN", "going"), grpc.StatusCode.UNAVAILABLE]
    assert client.classify(b"glioma" + bytes(4_000_000)).top.class_id == "glioma"
    assert gateway.script.calls == ["Classify"] * 3
    gateway.script.failures = [refusal("MODEL_NOT_READY", "no version yet")] * 9
    with pytest.raises(errors.ModelNotReadyError, match="no version yet"):
        client.list_model_versions()
    assert gateway.script.calls[3:] == ["ListModelVersions"] * 4


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (refusal("IMAGE_CORRUPT", "cut off"), errors.ImageCorruptError),
        (refusal("OVERLOADED", "busy", retry_after=2), errors.OverloadedError),
        (refusal("INTERNAL", "defect"), errors.InternalError),
        (grpc.StatusCode.UNAUTHENTICATED, errors.AccessDeniedError),
        (grpc.StatusCode.UNIMPLEMENTED, errors.UnexpectedError),
    ],
)
def test_nothing_else_is_retried(client: Any, gateway: FakeGateway, failure: Any, kind: type) -> None:
    gateway.script.failures = [failure]
    with pytest.raises(kind):
        client.classify(b"glioma")
    assert gateway.script.calls == ["Classify"]


def test_every_call_has_a_deadline_and_can_have_its_own(client: Any, gateway: FakeGateway) -> None:
    client.classify(b"glioma")
    client.classify(b"glioma", timeout=7)
    client.classify(b"glioma", timeout=math.inf)
    default, own, none = gateway.script.time_remaining
    assert 7.5 < default < 30.5
    assert 0 < own < 7.5  # gRPC rounds up
    assert none is None or none > 1e9
    with pytest.raises(ValueError, match="timeout is -1"):
        client.classify(b"glioma", timeout=-1)
    gateway.script.hang = True
    with pytest.raises(errors.DeadlineExceededError, match=f"from {gateway.address} within the timeout"):
        client.classify(b"glioma", timeout=1)
    assert gateway.script.cancelled.wait(10)


def test_waiting_for_a_gateway_that_is_not_there_yet(make_client: Callable[..., Any]) -> None:
    port = free_port()
    target = f"127.0.0.1:{port}"
    with make_client(target) as client:
        for call in (client.health, client.list_model_versions, lambda: client.classify(b"glioma")):
            with pytest.raises(errors.GatewayUnreachableError, match=f"no gateway answers at {target}"):
                call()
        with pytest.raises(errors.UnavailableError, match=r"not ready after 0\.2 s: no gateway answers"):
            client.wait_until_ready(0.2)
        with fake_gateway(port=port) as gateway:
            gateway.set_serving(False)
            with pytest.raises(errors.UnavailableError, match="answers NOT_SERVING"):
                client.wait_until_ready(3)
            timer = threading.Timer(0.05, gateway.set_serving, [True])
            timer.start()
            client.wait_until_ready(30)
            timer.join()


def test_what_was_answered_last_outlives_a_last_look_without_time() -> None:
    wait = Readiness("gateway:1", 30)
    wait.refused(Health("", HealthStatus.NOT_SERVING))
    wait.failed(errors.DeadlineExceededError("no answer within the timeout"), 0.1)
    assert "answers NOT_SERVING" in wait.failure().message
    wait.failed(errors.DeadlineExceededError("no answer within the timeout"), 5.0)
    assert "no answer within the timeout" in wait.failure().message


def test_a_message_beyond_the_gateways_limit_says_so(
    make_client: Callable[..., Any], gateway: FakeGateway
) -> None:
    with make_client(gateway.address, max_image_bytes=64 * 1024 * 1024) as client:
        with pytest.raises(errors.MessageTooLargeError, match="max_image_bytes"):
            client.classify(bytes(33 * 1024 * 1024))
        assert client.classify(b"glioma").top.class_id == "glioma"


def test_many_threads_share_one_client(gateway: FakeGateway) -> None:
    answers: list[str] = []
    with Client(gateway.address) as client:

        def classify() -> None:
            answers.extend(client.classify(b"notumor").top.class_id for _ in range(20))

        threads = [threading.Thread(target=classify) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == ["notumor"] * 160


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
def test_tls_with_a_certificate_of_ones_own(make_client: Callable[..., Any], tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *names, *files], check=True, capture_output=True)
    server = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    trusted = grpc.ssl_channel_credentials(certificate.read_bytes())
    with fake_gateway(credentials=server) as gateway:
        target = gateway.address.replace("127.0.0.1", "localhost")
        with make_client(target, tls=trusted) as client:
            assert client.classify(b"glioma").top.class_id == "glioma"
            assert next(client.stream_classify([("k", b"notumor")])).unwrap().top.class_id == "notumor"
        for settings in ({"tls": True}, {}):
            with make_client(target, **settings) as client, pytest.raises(errors.GatewayUnreachableError):
                client.health()


def test_versions_and_model_servers_are_the_gateways_messages(client: Any, gateway: FakeGateway) -> None:
    gateway.script.versions.insert(0, version(3, state="REJECTED"))
    gateway.script.versions[1].gate.CopyFrom(gate_report(2, accepted=False))
    gateway.script.versions[1].backends.add(address="10.0.0.7:8500", state_reason="weights differ")
    gateway.script.model_servers = [model_pb2.ModelServer(address="a:1", foreign_reason="another")]
    gateway.script.page_size = 2
    assert client.list_model_versions() == gateway.script.versions
    assert gateway.script.calls == ["ListModelVersions"] * 2
    assert client.list_model_servers() == gateway.script.model_servers
    found = client.get_model_version(3)
    assert found == gateway.script.versions[0]
    assert enum_name(found, "state") == "REJECTED"
    found.state = 99
    assert enum_name(found, "state") == enum_name(model_pb2.Release(), "mode") == "UNKNOWN"
    with pytest.raises(TypeError, match="labels is no enumeration"):
        enum_name(found, "labels")
    with pytest.raises(errors.ModelNotFoundError, match="MODEL_VERSION_NOT_FOUND"):
        client.get_model_version(9)


def test_promote_and_roll_back(client: Any, gateway: FakeGateway) -> None:
    seen = client.get_release()
    assert seen == gateway.script.release.message()
    promoted = client.promote(2, etag=seen.etag, reason="better on glioma")
    assert promoted.release.labels == {"stable": 2, "previous": 1}
    assert enum_name(promoted.change, "action") == "PROMOTE"
    assert (promoted.change.reason, promoted.change.gate.accepted) == ("better on glioma", True)
    with pytest.raises(errors.ReleaseChangedError):
        client.promote(1, etag=seen.etag)
    assert client.rollback().release.labels == {"stable": 1, "previous": 2}
    assert [enum_name(each, "action") for each in client.list_release_changes()] == ["ROLLBACK", "PROMOTE"]
    for done in (client.promote(1), client.set_traffic_split()):
        assert (done.release, done.HasField("change")) == (client.get_release(), False)


def test_a_refusal_of_the_gate_and_force(client: Any, gateway: FakeGateway) -> None:
    gateway.script.release.reports[2] = gate_report(2, accepted=False)
    with pytest.raises(errors.GateRefusedError, match=r"recall_floor\.glioma"):
        client.promote(2)
    assert client.promote(2, force=True).change.forced
    assert not client.evaluate_model_version(2).accepted


def test_the_split_is_set_as_a_whole(client: Any, gateway: FakeGateway) -> None:
    split = client.set_traffic_split(canary_version=2, canary_percent=10, shadow_version=2).release
    assert split.labels == {"stable": 1, "canary": 2, "shadow": 2}
    assert (split.canary_percent, split.shadow.shadow_version) == (10, 2)
    cleared = client.set_traffic_split().release
    assert (cleared.labels, cleared.canary_percent, cleared.HasField("shadow")) == ({"stable": 1}, 0, False)
    with pytest.raises(errors.InvalidOptionError, match="a canary wants a version"):
        client.set_traffic_split(canary_percent=10)
    gateway.script.page_size = 2
    for percent in range(1, 4):
        client.set_traffic_split(canary_version=2, canary_percent=percent)
    assert [each.sequence for each in client.list_release_changes()] == [5, 4, 3, 2, 1]
    assert [each.sequence for each in client.list_release_changes(limit=3)] == [5, 4, 3]


def test_a_change_whose_answer_is_lost_happens_once(client: Any, gateway: FakeGateway) -> None:
    calls = (
        lambda: client.promote(2),
        client.rollback,
        lambda: client.submit_feedback("p1", class_id="notumor"),
        client.start_retraining,
    )
    for call in calls:
        gateway.script.lose_answers = 1
        call()
    assert len(gateway.script.release.changes) == 2
    assert (len(gateway.script.training.feedback), list(gateway.script.training.runs)) == (1, ["r1"])
    assert len(gateway.script.calls) == 2 * len(calls)


def test_the_callers_request_id_is_sent(client: Any, gateway: FakeGateway) -> None:
    assert client.promote(2, request_id="deploy-7") == client.promote(2, request_id="deploy-7")
    with pytest.raises(errors.InvalidOptionError, match="another request had it"):
        client.promote(1, request_id="deploy-7")
    assert len(gateway.script.release.changes) == 1
    assert client.start_retraining(request_id="night") == client.start_retraining(request_id="night")


def test_feedback_is_one_class_or_no_mri(client: Any, gateway: FakeGateway) -> None:
    right = client.submit_feedback("p1", class_id="glioma", comment="by biopsy")
    assert (right.feedback_id, right.example_id, right.confirmed) == ("f1", "e" * 64, True)
    assert client.submit_feedback("p1", not_mri=True).example_id == ""
    first, second = gateway.script.training.feedback.values()
    assert (first.class_id, first.comment, second.not_mri) == ("glioma", "by biopsy", True)
    with pytest.raises(errors.RecordNotFoundError):
        client.submit_feedback("gone", class_id="glioma")


def test_examples_are_listed_corrected_and_erased(client: Any) -> None:
    images = [(b"glioma 1", "glioma"), (b"glioma 2", "glioma"), (b"notumor 1", "notumor")]
    list(client.upload_examples(LabelledImage(image=image, class_id=name) for image, name in images))
    first = client.list_examples(page_size=2)
    assert [each.class_id for each in first.examples] == ["notumor", "glioma"]
    assert first.total_by_class == {"glioma": 2, "notumor": 1}
    (example,) = client.list_examples(page_size=2, page_token=first.next_page_token).examples
    begin = dt.datetime.fromtimestamp(1_700_000_002, dt.UTC)
    source = ExampleSource.EXAMPLE_SOURCE_UPLOAD
    wanted = ExampleFilter(class_ids=["glioma"], source=source, from_time=begin)
    assert len(client.list_examples(wanted).examples) == 1

    changed = client.update_example(example.example_id, class_id="notumor", expected_class_id="glioma")
    example.class_id = "notumor"
    assert changed == example
    erased = client.delete_example(example.example_id, reason="withdrawn")
    assert (erased.versions, erased.running_retraining_ids) == ([2, 3], ["r7"])
    with pytest.raises(errors.RecordNotFoundError):
        client.delete_example(example.example_id)
    assert client.delete_prediction("p1").example_ids == ["e" * 64]


def test_a_retraining_is_asked_for_with_its_settings(client: Any, gateway: FakeGateway) -> None:
    run = client.start_retraining(
        warm_start_version=1,
        examples=ExampleFilter(class_ids=["glioma"]),
        hyperparameters={"head_epochs": 3},
        launcher="local",
        promote=True,
        gate_policy="[gate]\nmin_accuracy = 0.9\n",
    )
    assert (run.retraining_id, enum_name(run, "state")) == ("r1", "QUEUED")
    assert gateway.script.training.runs["r1"].spec == training_pb2.RetrainingSpec(
        warm_start_version=1,
        examples=ExampleFilter(class_ids=["glioma"]),
        hyperparameters={"head_epochs": "3"},
        launcher="local",
        promote=True,
        gate_policy="[gate]\nmin_accuracy = 0.9\n",
    )
    assert client.start_retraining(from_scratch=True).spec.WhichOneof("base") == "from_scratch"
    with pytest.raises(errors.InvalidOptionError, match="no hyper-parameter 'speed'"):
        client.start_retraining(hyperparameters={"speed": 11})


def test_retrainings_are_listed_and_cancelled(client: Any, gateway: FakeGateway) -> None:
    gateway.script.page_size = 2
    for _ in range(5):
        client.start_retraining()
    client.cancel_retraining("r2", reason="wrong data")
    assert [each.retraining_id for each in client.list_retrainings()] == ["r5", "r4", "r3", "r2", "r1"]
    assert [each.retraining_id for each in client.list_retrainings(limit=1)] == ["r5"]
    for state in (RetrainingState.RETRAINING_STATE_CANCELLED, "RETRAINING_STATE_CANCELLED"):
        assert [each.retraining_id for each in client.list_retrainings(state=state)] == ["r2"]
    # Another attempt could meet a run that the first has ended.
    gateway.script.failures = [refusal("RECORDS_UNAVAILABLE", "not now")]
    with pytest.raises(errors.UnavailableError):
        client.cancel_retraining("r1")
    assert enum_name(client.cancel_retraining("r1"), "state") == "CANCELLED"
    with pytest.raises(errors.TrainingError, match="ended already"):
        client.cancel_retraining("r1")
    with pytest.raises(errors.RecordNotFoundError):
        client.get_retraining("r9")
