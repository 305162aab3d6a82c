"""The embedded model server as a process: signals, ports, limits, and versions that change under load."""

from __future__ import annotations

import concurrent.futures
import contextlib
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from neurogate_testing import serving_fixtures
from neurogate_testing.processes import RunningProcess, free_port, model_server_binary, script
from neurogate_testing.serving_process import EmbeddedServer, wait_until_open
from neurogate_testing.transcript_calls import Caller, open_channel
from tensorflow_serving.apis import (
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

pytestmark = pytest.mark.skipif(
    bool(model_server_binary()), reason="about the embedded model server; NEUROGATE_TFS_BINARY names another"
)

Start = Callable[..., EmbeddedServer]

serving_store = serving_fixtures.serving_store


@pytest.fixture
def root(serving_store: Path, tmp_path: Path) -> Path:
    """A base path with version 1."""
    shutil.copytree(serving_store / "toy/1", tmp_path / "toy/1")
    return tmp_path


@pytest.fixture
def start(root: Path) -> Iterator[Start]:
    """Starts servers for the model `toy`, and stops them."""
    servers: list[EmbeddedServer] = []

    def run(*flags: str, wait: bool = True) -> EmbeddedServer:
        given: Sequence[str] = flags
        if not any(flag.startswith("--model_config_file=") for flag in flags):
            given = ["--model_name=toy", f"--model_base_path={root}/toy", *flags]
        server = EmbeddedServer(given, root)
        servers.append(server)
        assert not wait or wait_until_open(server), server.log.read_text()
        return server

    yield run
    for server in servers:
        server.stop()


def _request(signature: str, **inputs: Any) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "toy", signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def _configuration(root: Path, **folders: str) -> model_management_pb2.ReloadConfigRequest:
    """A reload that asks for these models, each with its folder."""
    request = model_management_pb2.ReloadConfigRequest()
    for name, folder in folders.items():
        request.config.model_config_list.config.add(
            name=name, base_path=str(root / folder), model_platform="tensorflow"
        )
    return request


def _publish(store: Path, root: Path, source: str, version: int) -> None:
    staging = root / ".staging"
    shutil.copytree(store / source, staging)
    staging.rename(root / f"toy/{version}")


def test_sigterm_lets_running_requests_end(start: Start) -> None:
    server = start()
    with open_channel(server.address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        stub.Predict(_request("describe"))
        slow = stub.Predict.future(_request("slow", steps=np.int32([100_000])), timeout=60)
        # A second call, made later and answered, shows that the first one has arrived.
        stub.Predict(_request("describe"))
        server.send_signal(signal.SIGTERM)
        assert list(slow.result().outputs["done"].int_val) == [100_000]
    assert server.wait_for_exit(20) == 0
    assert "stopping on SIGTERM" in server.log.read_text()


def test_sigterm_ends_a_server_within_ten_seconds_though_calls_and_reloads_wait(
    start: Start, root: Path
) -> None:
    server = start("--enable_grpc_healthcheck_service")
    with open_channel(server.address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        models = model_service_pb2_grpc.ModelServiceStub(channel)
        # Before the calls: while one runs, no change of what is loaded is finished.
        models.HandleReloadConfigRequest(_configuration(root, toy="toy", other="toy"), timeout=60)
        calls = [
            stub.Predict.future(_request("slow", steps=np.int32([2**31 - 1])), timeout=600) for _ in range(3)
        ]
        # `toy` stays, so that the calls find it whenever the server begins them.
        waiting = _configuration(root, toy="toy", absent="absent")
        calls.append(models.HandleReloadConfigRequest.future(waiting, timeout=600))
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        # The removal of `other` shows that the reload has arrived.
        other = _request("describe")
        other.model_spec.name = "other"
        while stub.Predict.future(other).code() is not grpc.StatusCode.NOT_FOUND:
            pass
        server.send_signal(signal.SIGTERM)
        # Docker kills after ten seconds; so much longer is for a busy machine.
        assert server.wait_for_exit(30) == 0
        assert {call.code() for call in calls} <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


def test_a_busy_port_is_refused(start: Start, root: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        server = EmbeddedServer([f"--port={port}", "--model_name=toy", f"--model_base_path={root}/toy"], root)
        try:
            assert server.wait_for_exit(60) == 255
        finally:
            server.stop()
        assert f"cannot listen on 127.0.0.1:{port}" in server.log.read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rest_api_port=8501"], "--rest_api_port is a flag of TensorFlow Serving that the embedded"),
        (["--grpc_channel_arguments=grpc.x"], "expected key=value"),
    ],
)
def test_bad_settings_end_the_process_with_the_real_servers_status(
    start: Start, flags: list[str], message: str
) -> None:
    server = start(*flags, wait=False)
    assert server.wait_for_exit(60) == 255
    assert message in server.log.read_text()


def test_the_command_says_where_it_listens_and_stops(root: Path) -> None:
    port = free_port()
    process = RunningProcess(
        [script("neurogate-model-server"), f"--port={port}", f"--model_base_path={root}/toy", "--nosuch"]
    )
    try:
        process.wait_for("unknown argument: --nosuch", seconds=120)
        process.wait_for(f"Running gRPC ModelServer at 127.0.0.1:{port}", seconds=120)
    finally:
        status = process.stop(signal.SIGINT)
    assert status == 0


def test_messages_far_above_grpcs_default_go_both_ways(start: Start) -> None:
    server = start()
    values = np.arange(3_000_000, dtype=np.float32).reshape(1, -1)
    with open_channel(server.address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        response = stub.Predict(_request("echo", x=values), timeout=60)
        np.testing.assert_array_equal(tf.make_ndarray(response.outputs["y"]), values)


def test_watches_and_calls_without_a_message_hold_no_thread(start: Start) -> None:
    server = start("--grpc_max_threads=2", "--enable_grpc_healthcheck_service")
    with open_channel(server.address) as channel, contextlib.ExitStack() as stack:
        health = health_pb2_grpc.HealthStub(channel)
        over = threading.Event()
        stack.callback(over.set)

        def nothing() -> Iterator[bytes]:
            over.wait()
            yield b""

        for _ in range(5):
            watch = health.Watch(health_pb2.HealthCheckRequest())
            stack.callback(watch.cancel)
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            silent = channel.stream_unary("/tensorflow.serving.PredictionService/Predict").future(nothing())
            stack.callback(silent.cancel)
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        assert stub.Predict(_request("describe"), timeout=60).outputs


def test_publishing_under_load_fails_no_request(start: Start, root: Path, serving_store: Path) -> None:
    server = start()
    stopping = threading.Event()
    image = np.zeros((1, 4, 4, 3), np.uint8)

    def client(_: int) -> list[tuple[int, float]]:
        seen = []
        with open_channel(server.address) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            last = False
            while not last:
                # One more after the last swap: the one before may have waited for the old version's answer.
                last = stopping.is_set()
                response = stub.Predict(_request("serving_default", images=image), timeout=60)
                seen.append((response.model_spec.version.value, response.outputs["scores"].float_val[0]))
        return seen

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(client, number) for number in range(4)]
        caller = Caller(server.address, str(root))
        try:
            for version in (2, 3):
                _publish(serving_store, root, f"toy/{version}", version)
                step = {"method": "GetModelStatus", "request": {"model_spec": {"name": "toy"}}}
                while True:
                    (newest, *_) = caller.call(step)["response"]["model_version_status"]
                    if (newest["version"], newest["state"]) == (str(version), "AVAILABLE"):
                        break
        finally:
            stopping.set()
            caller.close()
        answers = [answer for future in clients for answer in future.result()]
    # Every answer is wholly of the version that it names.
    assert {(version, score) for version, score in answers} <= {(v, 100.0 * v) for v in (1, 2, 3)}
    assert {version for version, _ in answers} == {1, 2, 3}


def test_the_configuration_file_is_applied_at_every_poll(start: Start, root: Path) -> None:
    file = root / "models.config"

    def write(*models: str) -> None:
        entries = "".join(
            f'config {{ name: "{model}" base_path: "{root}/toy" model_platform: "tensorflow" }}\n'
            for model in models
        )
        part = root / "models.part"
        part.write_text(f"model_config_list {{ {entries} }}")
        part.rename(file)

    def wait_for(model: str, code: str) -> None:
        step = {
            "method": "Predict",
            "request": {"model_spec": {"name": model, "signature_name": "describe"}},
        }
        while caller.call(step)["code"] != code:
            assert server.exit_status() is None

    write("a")
    server = start(f"--model_config_file={file}", "--model_config_file_poll_wait_seconds=1")
    caller = Caller(server.address, str(root))
    try:
        wait_for("a", "OK")
        write("a", "b")
        wait_for("b", "OK")
        file.write_text("nonsense {")
        write("b")
        wait_for("a", "NOT_FOUND")
        assert caller.call(
            {
                "method": "HandleReloadConfigRequest",
                "request": {
                    "config": {
                        "model_config_list": {
                            "config": [
                                {"name": "c", "base_path": f"{root}/toy", "model_platform": "tensorflow"}
                            ]
                        }
                    }
                },
            }
        ) == {"code": "OK", "message": "", "response": {"status": {}}}
        # The file undoes the call.
        wait_for("c", "NOT_FOUND")
        wait_for("b", "OK")
    finally:
        caller.close()


def test_a_broken_warmup_keeps_the_old_version_serving(start: Start, root: Path, serving_store: Path) -> None:
    server = start("--max_num_load_retries=0")
    _publish(serving_store, root, "warm/garbage", 2)
    caller = Caller(server.address, str(root))
    step = {"method": "GetModelStatus", "request": {"model_spec": {"name": "toy", "version": "2"}}}
    try:
        while (outcome := caller.call(step))["code"] != "OK" or (
            outcome["response"]["model_version_status"][0]["state"] != "END"
        ):
            assert server.exit_status() is None
        (status,) = outcome["response"]["model_version_status"]
        assert status["status"]["error_code"] == "DATA_LOSS"
        predict = {
            "method": "Predict",
            "request": {"model_spec": {"name": "toy", "signature_name": "describe"}},
        }
        assert caller.call(predict)["response"]["model_spec"]["version"] == "1"
    finally:
        caller.close()


def test_packed_answers_on_request(start: Start) -> None:
    server = start("--enable_serialization_as_tensor_content=true")
    with open_channel(server.address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        response = stub.Predict(_request("describe"), timeout=60)
    text = b"manifest of toy version 1"
    assert response.outputs["manifest"].tensor_content == bytes([len(text)]) + text
