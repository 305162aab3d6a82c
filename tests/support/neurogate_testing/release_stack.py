"""Several gateways and model servers over one repository, in real processes."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import grpc
from neurogate.tfs.v1 import tfs_pb2
from neurogate_cli.local_stack.servers import MODEL_SERVER_FLAGS
from neurogate_client import Client, NeurogateError, enum_name
from neurogate_core.model_config import default_config, write_config

from neurogate_testing.processes import (
    RunningProcess,
    free_port,
    model_server_command,
    running,
    script,
)
from neurogate_testing.stack import MODEL

_T = TypeVar("_T")
_STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
_PREDICT = "/tensorflow.serving.PredictionService/Predict"


@dataclasses.dataclass
class ReleaseStack:
    """A running service: targets of the gateways, addresses of the model servers, and their processes."""

    root: Path
    targets: list[str]
    backends: list[str]
    gateways: list[RunningProcess]
    servers: list[RunningProcess]

    def labelled(self, label: str) -> list[int | None]:
        """What a label means to whoever calls each model server directly; None where it means nothing."""
        return [_labelled(address, label) for address in self.backends]


def _labelled(address: str, label: str) -> int | None:
    request = tfs_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.version_label = MODEL, label
    request.model_spec.signature_name = "describe"
    index = request.inputs["index"]
    index.dtype = tfs_pb2.DATA_TYPE_INT32
    index.tensor_shape.dim.add(size=1)
    index.int_val.append(0)
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(
            _PREDICT,
            request_serializer=tfs_pb2.PredictRequest.SerializeToString,
            response_deserializer=tfs_pb2.PredictResponse.FromString,
        )
        try:
            return int(call(request, timeout=10).model_spec.version.value)
        except grpc.RpcError:
            return None


def eventually(look: Callable[[], _T], *, seconds: float = 60) -> _T:
    """The first true value of a look that is repeated."""
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(NeurogateError):
            if value := look():
                return value
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


def labels_of(client: Client) -> dict[str, int]:
    """Version by label, as a gateway tells it."""
    return dict(client.get_release().labels)


def until_ready(client: Client, version: int) -> None:
    """Waits until a gateway has proven a version on every model server."""

    def ready() -> bool:
        found = client.get_model_version(version)
        assert enum_name(found, "state") != "REJECTED", found.state_reason
        return bool(found.backends) and all(enum_name(at, "state") == "READY" for at in found.backends)

    eventually(ready)


@contextlib.contextmanager
def release_stack(
    root: Path, *, servers: int = 1, gateways: int = 1, **settings: str
) -> Iterator[ReleaseStack]:
    """Starts all of them; `settings` are flags of the gateways."""
    config = root / "models.config"
    if not config.exists():
        write_config(config, default_config(MODEL, root / MODEL))
    with contextlib.ExitStack() as stack:
        backends = [f"127.0.0.1:{free_port()}" for _ in range(servers)]
        server_processes = [stack.enter_context(running(_server(config, address))) for address in backends]
        gateway_processes = [
            stack.enter_context(running(_gateway(root, backends, settings))) for _ in range(gateways)
        ]
        for process in server_processes:
            process.wait_for("Running gRPC ModelServer")
        targets = [
            process.wait_for(r'"event": "listening".*"address": "([^"]+)"').group(1)
            for process in gateway_processes
        ]
        for target in targets:
            with Client(target) as client:
                client.wait_until_ready(60)
        yield ReleaseStack(root, targets, backends, gateway_processes, server_processes)


def _server(config: Path, address: str) -> list[str]:
    return model_server_command(
        f"--port={address.rpartition(':')[2]}",
        f"--model_config_file={config}",
        *MODEL_SERVER_FLAGS,
    )


def _gateway(root: Path, backends: list[str], settings: dict[str, str]) -> list[str]:
    flags = {"listen": "127.0.0.1:0", "backend_address": ",".join(backends), "repository": str(root)}
    return [
        script("neurogate-gateway"),
        *(f"--{name.replace('_', '-')}={value}" for name, value in {**flags, **settings}.items()),
    ]
