"""The servers under test, and what to send to each: the gateway's whole path and everything it is compared
with."""

from __future__ import annotations

import functools
import json
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
from grpc_health.v1 import health_pb2

from neurogate_bench import processes
from neurogate_bench.machine import ROOT
from neurogate_bench.processes import Server, free_port, installed

BASELINES = ROOT / "bench" / "baselines"
TFS_BINARY = "NEUROGATE_TFS_BINARY"
TFS_FLAGS = "NEUROGATE_TFS_FLAGS"


@dataclass(frozen=True)
class Models:
    """What was prepared for a side of `side` pixels: see `prepare.py`."""

    side: int
    model: str
    optimised: Path
    plain: Path
    keras: Path
    onnx: Path
    tflite: Path
    plain_input: str
    origin: str

    @classmethod
    def read(cls, folder: Path) -> Models:
        """From the folder that the preparation left."""
        stored: dict[str, Any] = json.loads((folder / "models.json").read_text())
        paths = {
            name: folder / stored.pop(name) for name in ("optimised", "plain", "keras", "onnx", "tflite")
        }
        return cls(**paths, **stored)


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


def start_model_server(
    name: str, models: Models, base_path: Path, flags: Sequence[str]
) -> tuple[Server, str]:
    """A model server that has loaded the newest version; returns its address too."""
    port = free_port()
    command = model_server_command(
        f"--port={port}", f"--model_name={models.model}", f"--model_base_path={base_path}", *flags
    )
    server = Server(name, command)
    server.wait_for_line(r"Running gRPC ModelServer at")
    return server, f"127.0.0.1:{port}"


def start_null_backend(model: str, side: int, images: Sequence[Path]) -> tuple[Server, str]:
    """The model server that computes nothing."""
    port = free_port()
    command = [sys.executable, "-m", "neurogate_bench.null_backend", f"--port={port}", f"--model={model}"]
    command += [f"--side={side}", "--images", *(str(path) for path in images[:4])]
    server = Server("null-backend", command, env={**os.environ, "PYTHONPATH": str(ROOT / "bench")})
    server.wait_for_line("Running null model server")
    return server, f"127.0.0.1:{port}"


def start_gateway(model: str, backend: str, flags: Sequence[str] = ()) -> tuple[Server, str]:
    """A gateway that has proven a version."""
    port = free_port()
    command = [installed("neurogate-gateway"), f"--listen=127.0.0.1:{port}", f"--backend-address={backend}"]
    server = Server("gateway", [*command, f"--model-name={model}", *flags])
    address = f"127.0.0.1:{port}"
    server.wait_until(lambda: is_serving(address))
    return server, address


def is_serving(address: str) -> bool:
    """What the gateway's own health says."""
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            reply = check(
                health_pb2.HealthCheckRequest(service="neurogate.v1.ClassificationService"), timeout=1
            )
        except grpc.RpcError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


def start_http(name: str, command: Sequence[str], port: int, models: Models) -> Server:
    """An HTTP baseline that answers its health check."""
    threads = {
        "BENCH_NETWORK": str(models.keras),
        "BENCH_SIDE": str(models.side),
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    server = Server(name, command, env={**os.environ, **threads})
    server.wait_until(lambda: _healthy(port), every=0.1)
    return server


def http_baselines(models: Models) -> list[Contender]:
    """FastAPI as most write it, FastAPI tuned, and LitServe, each running and warm."""
    uvicorn = installed("uvicorn", environment="build/bench-venv")
    python = installed("python", environment="build/bench-venv")
    contenders = []
    for name, module in (("FastAPI + model.predict", "fastapi_keras"), ("FastAPI tuned", "fastapi_tuned")):
        port = free_port()
        command = [
            uvicorn,
            "--app-dir",
            str(BASELINES),
            f"{module}:app",
            f"--port={port}",
            "--log-level=warning",
        ]
        server = start_http(module, command, port, models)
        job: dict[str, Any] = {"call": "http_bytes", "path": "/classify", "target": f"127.0.0.1:{port}"}
        if module == "fastapi_keras":
            # It resizes from the full picture, as most do, so its pixels and probabilities are others.
            job["tolerance"] = 1.0
        contenders.append(Contender(name, job, [server]))
    port = free_port()
    server = start_http(
        "litserve", [python, str(BASELINES / "litserve_app.py"), f"--port={port}"], port, models
    )
    job = {"call": "http_json", "path": "/predict", "target": f"127.0.0.1:{port}"}
    contenders.append(Contender("LitServe", job, [server]))
    return contenders


def direct(name: str, models: Models, address: str, servers: list[Server], *, in_call: bool) -> Contender:
    """Predict straight to the model server: D0, or D1 with the transform in the client."""
    call = "predict_transform" if in_call else "predict"
    job = {"call": call, "target": address, "side": models.side, "model": models.model}
    return Contender(name, job, servers, client_is_part=in_call)


def plain_export(models: Models, address: str, servers: list[Server]) -> Contender:
    """D0 against what `keras.Model.export` writes, which takes float32 under the input layer's own name."""
    job = {
        "call": "predict",
        "target": address,
        "side": models.side,
        "model": models.model,
        "dtype": "float32",
        "input": models.plain_input,
        # What the export promises: folding changes no probability by more.
        "tolerance": 1e-3,
    }
    return Contender("plain export", job, servers)


def _healthy(port: int) -> bool:
    if not processes.accepts_connections(port):
        return False
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False
