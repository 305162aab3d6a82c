"""A whole service in real processes: model repository, model server and gateway."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from neurogate_cli.local_stack.servers import MODEL_SERVER_FLAGS
from neurogate_client import Client, ModelVersion, NeurogateError, enum_name
from neurogate_core.manifest import MANIFEST_FILE, read_manifest
from neurogate_core.model_config import default_config, write_config
from neurogate_core.repository import ModelRepository

from neurogate_testing.processes import (
    RunningProcess,
    free_port,
    model_server_command,
    running,
    script,
)

MODEL = "brain_tumor"
SUPPORT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Stack:
    """A running service.

    Attributes:
        target: The gateway's address.
        backend_address: The model server's address.
        repository: Root of the model repository.
        gateway: The gateway's process.
        model_server: The model server's process.
    """

    target: str
    backend_address: str
    repository: Path
    gateway: RunningProcess
    model_server: RunningProcess

    def latest(self, client: Client) -> int:
        """The highest version that is READY."""
        listed = client.list_model_versions()
        return max(each.version for each in listed if enum_name(each, "state") == "READY")

    def wait_until_serving(self, client: Client, version: int, *, seconds: float = 60) -> ModelVersion:
        """Polls until the gateway has proven a version."""
        return self._wait_for(client, version, "READY", seconds)

    def wait_until_retired(self, client: Client, version: int, *, seconds: float = 60) -> ModelVersion:
        """Polls until the gateway has seen that a version was unloaded."""
        return self._wait_for(client, version, "RETIRED", seconds)

    def _wait_for(self, client: Client, version: int, state: str, seconds: float) -> ModelVersion:
        deadline = time.monotonic() + seconds
        found: ModelVersion | None = None
        while time.monotonic() < deadline:
            with contextlib.suppress(NeurogateError):
                found = client.get_model_version(version)
                if enum_name(found, "state") == state:
                    return found
                assert enum_name(found, "state") != "REJECTED", found.state_reason
            time.sleep(0.02)
        log = self.gateway.output
        raise AssertionError(f"version {version} is not {state} after {seconds} s: {found}\n{log}")


def publish_toy(root: Path) -> int:
    """Publishes an untrained toy version from a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT), "TF_CPP_MIN_LOG_LEVEL": "2"}
    command = [sys.executable, "-m", "neurogate_testing.toy_model", str(root)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def publish_copy(root: Path, *, of: int) -> int:
    """Publishes a copy of a version as the next one, as a trainer would."""
    repository = ModelRepository(root)
    source = repository.path(MODEL, of)
    with repository.staging(MODEL, f"copy-{of}") as staged:
        shutil.copytree(
            source, staged, dirs_exist_ok=True, ignore=shutil.ignore_patterns(Path(MANIFEST_FILE).name)
        )
        return repository.publish(MODEL, staged, read_manifest(source)).version


@contextlib.contextmanager
def running_stack(root: Path) -> Iterator[Stack]:
    """Model server and gateway over a repository that has a version; the two newest versions are loaded."""
    config = root / "models.config"
    write_config(config, default_config(MODEL, root / MODEL, latest=2))
    backend_address = f"127.0.0.1:{free_port()}"
    model_server_line = model_server_command(
        f"--port={backend_address.rpartition(':')[2]}",
        f"--model_config_file={config}",
        *MODEL_SERVER_FLAGS,
    )
    gateway_command = [
        script("neurogate-gateway"),
        "--listen=127.0.0.1:0",
        f"--backend-address={backend_address}",
        f"--model-name={MODEL}",
    ]
    with running(model_server_line) as model_server, running(gateway_command) as gateway:
        target = gateway.wait_for(r'"event": "listening".*"address": "([^"]+)"').group(1)
        with Client(target) as client:
            model_server.wait_for("Running gRPC ModelServer")
            client.wait_until_ready(60)
        yield Stack(target, backend_address, root, gateway, model_server)
