"""Model server and gateway of one machine, as children of a supervisor."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from neurogate_client import processes
from neurogate_client.client import Client
from neurogate_client.errors import NeurogateError
from neurogate_client.results_models import VersionState

MODEL_SERVER = "model-server"
GATEWAY = "gateway"
READY_SECONDS = 180.0


class NotServingError(Exception):
    """The servers run and still nothing can be served; the message says why."""


def published_versions(repository: Path, model: str) -> list[int]:
    """Version numbers in a model repository, ascending."""
    with contextlib.suppress(OSError):
        return sorted(int(each.name) for each in (repository / model).iterdir() if each.name.isdecimal())
    return []


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """What to start, and where."""

    repository: Path
    model: str
    port: int
    model_server_port: int

    @property
    def target(self) -> str:
        """The gateway's address."""
        return f"127.0.0.1:{self.port}"

    def start(self, supervisor: processes.Supervisor, on_line: Callable[[str, str], None]) -> None:
        """Starts both. The gateway comes last, so that it is stopped, and drained, first.

        Raises:
            MissingProgramError: one is not installed.
        """
        model_server = processes.program("neurogate-model-server")
        gateway = processes.program("neurogate-gateway")
        supervisor.start(
            MODEL_SERVER,
            [
                model_server,
                f"--port={self.model_server_port}",
                f"--model_name={self.model}",
                f"--model_base_path={(self.repository / self.model).resolve()}",
                # One thread a request: concurrent requests then use the cores without disturbing each other.
                "--tensorflow_intra_op_parallelism=1",
            ],
            on_line=on_line,
        )
        supervisor.start(
            GATEWAY,
            [
                gateway,
                f"--listen={self.target}",
                f"--backend-address=127.0.0.1:{self.model_server_port}",
                f"--model-name={self.model}",
            ],
            on_line=on_line,
        )

    def wait_until_ready(self, supervisor: processes.Supervisor, client: Client) -> int:
        """Returns when the gateway takes work: the number of the version that answers, "stable".

        Raises:
            ChildFailedError: a server has ended.
            NotServingError: every version was refused, or nothing was ready in time.
        """
        stable: list[int] = []

        def ready() -> bool:
            try:
                serving = client.health(timeout=2).serving
                versions = client.list_model_versions(timeout=2)
            except NeurogateError:
                return False
            stable[:] = [each.version for each in versions if "stable" in each.labels]
            if serving and stable:
                return True
            if versions and all(each.state is VersionState.REJECTED for each in versions):
                reasons = "; ".join(f"version {each.version}: {each.state_reason}" for each in versions)
                raise NotServingError(f"the gateway refuses every version of {self.model}: {reasons}")
            return False

        try:
            supervisor.wait_until(ready, READY_SECONDS, "a version to serve")
        except TimeoutError:
            raise NotServingError(
                f"no version of {self.model} was ready within {READY_SECONDS:g} s; the log lines say more"
            ) from None
        return stable[0]
