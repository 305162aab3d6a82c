from __future__ import annotations

import math
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from neurogate.v1 import model_pb2
from neurogate_client import Client, Frame, Health, HealthStatus, Verdict, enum_name, errors
from neurogate_client._calls import Readiness
from neurogate_client.types import ModelRef, Score, Timings
from neurogate_testing.fake_gateway import PNG, FakeGateway, fake_gateway, status, version
from neurogate_testing.processes import free_port


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
        ({"model": "other"}, ("other", 1, "stable")),
        ({"model": "other", "version": 3}, ("other", 3, "")),
    ],
)
def test_version_label_and_model_are_selected(
    client: Any, options: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    for answer in (
        client.classify(b"glioma", **options),
        client.batch_classify([b"glioma"], **options)[0].unwrap(),
        next(client.stream_classify([("k", b"glioma")], **options)).unwrap(),
        client.explain(b"glioma", **options).classification,
    ):
        assert (answer.model.name, answer.model.version, answer.model.label) == expected


def test_a_version_and_a_label_together_are_a_mistake(client: Any, gateway: FakeGateway) -> None:
    for call in (client.classify, client.explain):
        with pytest.raises(ValueError, match=r"give either a version \(1\) or a label \('stable'\)"):
            call(b"glioma", version=1, label="stable")
    assert gateway.script.calls == []


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
    answers = client.stream_classify([(number, Frame(path, number)) for number in (1, 2)])
    assert [each.key for each in answers] == [1, 2]
    assert [each.frame for each in requests[-2:]] == [1, 2]


def test_image_from_a_path(client: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(b"pituitary")
    assert client.classify(path).top.class_id == client.classify(str(path)).top.class_id == "pituitary"


def test_a_refused_image_raises_the_exception_of_its_reason(client: Any) -> None:
    with pytest.raises(errors.ImageCorruptError) as caught:
        client.classify(b"corrupt")
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.reason == "IMAGE_CORRUPT"
    assert caught.value.message == "the image is corrupt"


def test_batch_results_come_in_order_with_a_status_each(client: Any) -> None:
    results = client.batch_classify([b"glioma", b"corrupt", b"notumor"], top_k=1, request_id="b")
    assert [each.key for each in results] == [0, 1, 2]
    assert [each.classification and each.classification.top.class_id for each in results] == [
        "glioma",
        None,
        "notumor",
    ]
    assert isinstance(results[1].error, errors.ImageCorruptError)
    assert {each.model for each in results} == {ModelRef("brain_tumor", 1, "stable", f"{1:064x}")}
    assert results[0].unwrap().request_id == "b"
    with pytest.raises(errors.ImageCorruptError):
        results[1].unwrap()


def test_batches_that_cannot_be_accepted_are_not_sent(
    make_client: Callable[..., Any], gateway: FakeGateway
) -> None:
    with make_client(gateway.address, max_image_bytes=10_000) as client:
        with pytest.raises(errors.BatchSizeError, match="at least one image"):
            client.batch_classify([])
        with pytest.raises(
            errors.BatchSizeError, match=r"first 107 of 120 images pass the limit of 1,068,576 bytes"
        ):
            client.batch_classify([b"x" * 10_000] * 120)
        with pytest.raises(errors.ImageTooLargeError):
            client.classify(b"x" * 10_001)
        with pytest.raises(errors.ImageEmptyError):
            client.classify(b"")
    assert gateway.script.calls == []


def test_explain_gives_map_and_picture(client: Any, gateway: FakeGateway) -> None:
    result = client.explain(
        b"glioma", class_id="notumor", color_map="viridis", alpha=0, max_side=128, request_id="e"
    )
    assert result.class_id == "notumor"
    assert result.overlay_png == PNG
    assert result.activation_map.rows() == [[0, 1, 2], [3, 4, 5]]
    assert result.classification.top.class_id == "glioma"
    assert result.map_caution == "the maps point elsewhere"
    overlay = gateway.script.requests[0].overlay
    assert (overlay.color_map, overlay.alpha, overlay.max_side) == (2, 0, 128)
    assert overlay.HasField("alpha")
    client.explain(b"glioma")
    assert not gateway.script.requests[1].overlay.HasField("alpha")


def test_a_small_image_limit_does_not_limit_the_answers(
    make_client: Callable[..., Any], gateway: FakeGateway
) -> None:
    large = version(1)
    large.manifest.goldens.add(name="large", image=bytes(5_000_000))
    gateway.script.versions = [large]
    with make_client(gateway.address, max_image_bytes=1000) as client:
        assert len(client.get_model_version(1).manifest.goldens[-1].image) == 5_000_000


def test_explain_refuses_unknown_colours_here_and_unknown_classes_there(client: Any) -> None:
    with pytest.raises(ValueError, match="no colour map 'pink'; there are jet, viridis, inferno"):
        client.explain(b"glioma", color_map="pink")
    with pytest.raises(errors.InvalidOptionError, match="CLASS_NOT_FOUND"):
        client.explain(b"glioma", class_id="flu")


def test_all_pages_of_versions_are_listed(client: Any, gateway: FakeGateway) -> None:
    gateway.script.versions = [
        version(3, state="REJECTED"),
        version(2, labels=("canary",)),
        version(1, labels=("stable",)),
    ]
    gateway.script.versions[0].state_reason = "golden glioma-0 differs"
    gateway.script.page_size = 2
    versions = client.list_model_versions()
    assert [each.version for each in versions] == [3, 2, 1]
    assert enum_name(versions[0], "state") == "REJECTED"
    assert versions[0].state_reason == "golden glioma-0 differs"
    assert versions[2].labels == ["stable"]
    assert gateway.script.calls == ["ListModelVersions"] * 2


def test_model_servers_are_listed(client: Any, gateway: FakeGateway) -> None:
    server = model_pb2.ModelServer(address="a:1", connected=True, foreign_reason="its version 1 is another")
    gateway.script.model_servers = [server]
    assert client.list_model_servers() == [server]


def test_one_version_with_its_manifest(client: Any, gateway: FakeGateway) -> None:
    gateway.script.versions = [version(1)]
    found = client.get_model_version(1)
    assert found.manifest.metrics.accuracy == pytest.approx(0.9125)
    with pytest.raises(errors.ModelNotFoundError, match="MODEL_VERSION_NOT_FOUND"):
        client.get_model_version(9)


def test_a_closed_client_says_so(gateway: FakeGateway) -> None:
    client = Client(gateway.address)
    client.classify(b"glioma")
    client.close()
    for call in (
        lambda: client.classify(b"glioma"),
        client.health,
        lambda: list(client.stream_classify([("k", b"glioma")])),
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
    gateway.script.failures = [
        status(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN", "going"),
        grpc.StatusCode.UNAVAILABLE,
    ]
    assert client.classify(b"glioma" + bytes(4_000_000)).top.class_id == "glioma"
    assert gateway.script.calls == ["Classify"] * 3


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (
            status(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", "busy", retry_after=2),
            errors.OverloadedError,
        ),
        (status(grpc.StatusCode.INTERNAL, "INTERNAL", "defect"), errors.InternalError),
        (grpc.StatusCode.UNAUTHENTICATED, errors.AccessDeniedError),
        (grpc.StatusCode.UNIMPLEMENTED, errors.UnexpectedError),
    ],
)
def test_nothing_else_is_retried(client: Any, gateway: FakeGateway, failure: Any, kind: type) -> None:
    gateway.script.failures = [failure]
    with pytest.raises(kind):
        client.classify(b"glioma")
    assert gateway.script.calls == ["Classify"]


def test_retries_end_with_the_last_error(client: Any, gateway: FakeGateway) -> None:
    gateway.script.failures = [status(grpc.StatusCode.UNAVAILABLE, "MODEL_NOT_READY", "no version yet")] * 9
    with pytest.raises(errors.ModelNotReadyError, match="no version yet"):
        client.list_model_versions()
    assert len(gateway.script.calls) == 4


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


def test_a_deadline_that_passes(client: Any, gateway: FakeGateway) -> None:
    gateway.script.hang = True
    with pytest.raises(
        errors.DeadlineExceededError, match=f"no answer from {gateway.address} within the timeout"
    ):
        client.classify(b"glioma", timeout=1)
    assert gateway.script.cancelled.wait(10)


def test_nobody_there(make_client: Callable[..., Any]) -> None:
    target = f"127.0.0.1:{free_port()}"
    with make_client(target) as client:
        for call in (client.health, client.list_model_versions, lambda: client.classify(b"glioma")):
            with pytest.raises(errors.GatewayUnreachableError, match=f"no gateway answers at {target}"):
                call()
        with pytest.raises(errors.UnavailableError, match=r"not ready after 0\.2 s: no gateway answers"):
            client.wait_until_ready(0.2)


def test_waiting_for_a_gateway_that_is_not_there_yet(make_client: Callable[..., Any]) -> None:
    port = free_port()
    with make_client(f"127.0.0.1:{port}") as client:
        with pytest.raises(errors.GatewayUnreachableError):
            client.health()
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
        threads = [
            threading.Thread(
                target=lambda: answers.extend(client.classify(b"notumor").top.class_id for _ in range(20))
            )
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == ["notumor"] * 160


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
def test_tls_with_a_certificate_of_ones_own(make_client: Callable[..., Any], tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "1",
    ]
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
        with make_client(target, tls=True) as client, pytest.raises(errors.GatewayUnreachableError):
            client.health()
        with make_client(target) as client, pytest.raises(errors.GatewayUnreachableError):
            client.health()
