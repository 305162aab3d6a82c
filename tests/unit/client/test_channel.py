from __future__ import annotations

import math
import subprocess
import sys

import grpc
import pytest
from neurogate.v1 import classification_pb2, model_pb2, training_pb2
from neurogate_client import Client, _channel
from neurogate_client._channel import Target


@pytest.mark.parametrize(
    ("text", "uri", "local"),
    [
        ("localhost:50051", "dns:///localhost:50051", True),
        ("127.0.0.1:1", "dns:///127.0.0.1:1", True),
        ("127.8.8.8:80", "dns:///127.8.8.8:80", True),
        ("[::1]:50051", "dns:///[::1]:50051", True),
        ("gateway:50051", "dns:///gateway:50051", False),
        ("10.0.0.7:50051", "dns:///10.0.0.7:50051", False),
        ("localhost.example.org:443", "dns:///localhost.example.org:443", False),
        ("dns:///gateway.svc:50051", "dns:///gateway.svc:50051", False),
        ("dns:localhost:50051", "dns:localhost:50051", True),
        ("unix:/run/gateway.sock", "unix:/run/gateway.sock", True),
        ("ipv4:127.0.0.1:50051", "ipv4:127.0.0.1:50051", True),
        ("ipv4:10.0.0.1:5,127.0.0.1:5", "ipv4:10.0.0.1:5,127.0.0.1:5", False),
        ("ipv6:[::1]:50051", "ipv6:[::1]:50051", True),
    ],
)
def test_targets(text: str, uri: str, local: bool) -> None:
    assert Target.parse(text) == Target(text, uri, local)


def test_what_is_no_target_is_refused_with_an_example() -> None:
    hosts = ["", "localhost", "localhost:", ":50051", "local host:1", "::1:50051", "http://localhost:50051"]
    for text in [*hosts, "localhost:0", "localhost:65536", "localhost:50051/x"]:
        with pytest.raises(ValueError, match=r"is not HOST:PORT, e\.g\. 'localhost:50051'"):
            Client(text)


def test_a_plain_connection_to_another_machine_has_to_be_asked_for() -> None:
    with pytest.raises(
        ValueError, match=r"gateway:50051 is not on this machine: say tls=True .* or tls=False"
    ):
        Client("gateway:50051")
    for choice in (True, False, grpc.ssl_channel_credentials()):
        Client("gateway:50051", tls=choice).close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"timeout": 0}, "timeout is 0"),
        ({"timeout": math.nan}, "timeout is nan"),
        ({"max_image_bytes": 0}, "max_image_bytes is 0"),
        ({"max_image_bytes": 2**31}, "max_image_bytes is"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Client("localhost:1", **settings)


def test_only_unavailable_is_retried_and_what_happens_once_never() -> None:
    (method,) = _channel.SERVICE_CONFIG["methodConfig"]
    assert method["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
    retried = {name["method"] for name in method["name"]}
    files = (classification_pb2, model_pb2, training_pb2)
    services = [service for file in files for service in file.DESCRIPTOR.services_by_name.values()]
    assert {each.name for service in services for each in service.methods} - retried == {
        "StreamClassify", "WatchModelVersions", "UploadExamples", "WatchRetraining",
        "CancelRetraining", "DeleteExample", "DeletePrediction",
    }  # fmt: skip


def test_a_whole_image_fits_into_the_retry_buffer() -> None:
    options = dict(_channel.options(Target.parse("localhost:1"), 1000))
    sent = options["grpc.max_send_message_length"]
    assert options["grpc.per_rpc_retry_buffer_size"] == sent == 2000 + 1024 * 1024
    assert options["grpc.keepalive_time_ms"] == 30_000


def test_importing_the_client_imports_no_command_line() -> None:
    code = "import sys, neurogate_client, neurogate_client.aio; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    loaded = {name.partition(".")[0] for name in modules}
    assert not loaded & {"rich", "typer", "click", "numpy", "PIL", "tensorflow", "neurogate_core"}
