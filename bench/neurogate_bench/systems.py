"""The servers under test, and what to send to each: the gateway's whole path and everything it is compared
with."""

from __future__ import annotations

import functools
import os
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from neurogate_bench.machine import ROOT
from neurogate_bench.processes import Server, free_port, installed

BASELINES = ROOT / "bench" / "baselines"
TFS_BINARY = "NEUROGATE_TFS_BINARY"
TFS_FLAGS = "NEUROGATE_TFS_FLAGS"


@dataclass(frozen=True)
class Models:
    """What was prepared for a side of `side` pixels, in a folder of the form that `make_models` writes."""

    folder: Path
    model: str
    side: int

    @property
    def optimised(self) -> Path:
        """The project's export, version 1 of a repository."""
        return self.folder / "models" / self.model

    @property
    def plain(self) -> Path:
        """What `keras.Model.export` writes."""
        return self.folder / "plain"


@dataclass
class Contender:
    """One way to get a picture classified."""

    name: str
    job: dict[str, Any]
    servers: list[Server] = field(default_factory=list)
    client_is_part: bool = False
    """The client does some of the work (D1's transform), so its CPU time is the contender's."""

    def cpu_seconds(self) -> float:
        """What the contender's servers have used so far."""
        return sum(server.cpu_seconds() for server in self.servers)


def model_server_command(*flags: str) -> list[str]:
    """The command that starts a model server: the binary that the environment names, or the embedded one."""
    binary = os.environ.get(TFS_BINARY) or installed("neurogate-model-server")
    return [binary, *flags, *shlex.split(os.environ.get(TFS_FLAGS, ""))]


@functools.cache
def backend_kind() -> str:
    """Which model server runs: TensorFlow Serving, or the embedded one, under whatever name."""
    binary = os.environ.get(TFS_BINARY)
    if not binary:
        return "embedded"
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False).stdout
    return "embedded" if "Neurogate" in said else "tensorflow-serving"


def start_model_server(name: str, base_path: Path, flags: Sequence[str]) -> tuple[Server, str]:
    """A model server that has loaded the newest version of the model that the folder is named after;
    returns its address too."""
    port = free_port()
    command = model_server_command(
        f"--port={port}", f"--model_name={base_path.name}", f"--model_base_path={base_path}", *flags
    )
    server = Server(name, command)
    server.wait_until(lambda: "Running gRPC ModelServer at" in server.output())
    return server, f"127.0.0.1:{port}"


def start_null_backend(model: str, side: int, images: Sequence[Path]) -> tuple[Server, str]:
    """The model server that computes nothing."""
    port = free_port()
    command = [sys.executable, "-m", "neurogate_bench.null_backend", str(port), model, str(side)]
    command += [str(path) for path in images[:4]]
    server = Server("null-backend", command, env={**os.environ, "PYTHONPATH": str(ROOT / "bench")})
    server.wait_until(lambda: "Running null model server" in server.output())
    return server, f"127.0.0.1:{port}"


def gateway_command(model: str, port: int, backend: str, flags: Sequence[str] = ()) -> list[str]:
    """The command that starts a gateway."""
    addresses = [f"--listen=127.0.0.1:{port}", f"--backend-address={backend}"]
    return [installed("neurogate-gateway"), *addresses, f"--model-name={model}", *flags]


def start_gateway(model: str, backend: str, flags: Sequence[str] = ()) -> tuple[Server, str]:
    """A gateway that has proven a version."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    server = Server("gateway", gateway_command(model, port, backend, flags))
    server.wait_until(lambda: is_serving(address))
    return server, address


def is_serving(address: str) -> bool:
    """What the gateway's own health says."""
    request = health_pb2.HealthCheckRequest(service="neurogate.v1.ClassificationService")
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(request, timeout=1)
        except grpc.RpcError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


def http_baselines(models: Models) -> list[Contender]:
    """FastAPI as most write it, FastAPI tuned, and LitServe, each running and warm."""
    python = installed("python", environment="build/bench-venv")
    uvicorn = [python, "-m", "uvicorn", "--app-dir", str(BASELINES), "--log-level=warning"]
    fastapi = {"call": "http", "body": "bytes", "path": "/classify"}
    baselines: dict[str, tuple[list[str], dict[str, Any]]] = {
        # It resizes from the full picture, as most do, so its pixels and probabilities are others.
        "FastAPI + model.predict": ([*uvicorn, "fastapi_keras:app"], {**fastapi, "tolerance": 1.0}),
        "FastAPI tuned": ([*uvicorn, "fastapi_tuned:app"], fastapi),
        "LitServe": (
            [python, str(BASELINES / "litserve_app.py")],
            {"call": "http", "body": "json", "path": "/predict"},
        ),
    }
    env = {
        "BENCH_NETWORK": str(models.folder / "network.keras"),
        "BENCH_SIDE": str(models.side),
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    contenders = []
    for name, (command, job) in baselines.items():
        port = free_port()
        server = Server(name, [*command, f"--port={port}"], env=env)
        server.wait_until(functools.partial(_healthy, port), every=0.1)
        contenders.append(Contender(name, {**job, "target": f"127.0.0.1:{port}"}, [server]))
    return contenders


def direct(name: str, models: Models, address: str, server: Server, *, in_call: bool = False) -> Contender:
    """Predict straight to the model server: D0, or D1 with the transform in the client."""
    job = {
        "call": "predict",
        "in_call": in_call,
        "target": address,
        "side": models.side,
        "model": models.model,
    }
    return Contender(name, job, [server], client_is_part=in_call)


def plain_export(name: str, models: Models, address: str, server: Server) -> Contender:
    """D0 against what `keras.Model.export` writes."""
    contender = direct(name, models, address, server)
    # Folding promises to change no probability by more than the tolerance.
    contender.job |= {
        "model": models.plain.name,
        "plain_input": (models.folder / "plain_input").read_text(),
        "tolerance": 1e-3,
    }
    return contender


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False
