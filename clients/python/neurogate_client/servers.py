"""Model server and gateway of one machine, as children of a supervisor."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from neurogate.tfs.v1 import tfs_pb2

from neurogate_client import processes
from neurogate_client.client import Client
from neurogate_client.errors import NeurogateError
from neurogate_client.results_models import VersionState

MODEL_SERVER = "model-server"
GATEWAY = "gateway"
READY_SECONDS = 180.0

LATEST, MANUAL, GATED = "latest", "manual", "gated"
RELEASE_MODES = (LATEST, MANUAL, GATED)
"""How versions become "stable"; the gateway's words."""

MODELS_CONFIG = "models.config"
"""What the model server starts from; the gateway keeps it."""

LATEST_CONFIG = "latest.config"
"""The same where the newest version is always the stable one."""

EVALUATION = "evaluation.json"
"""The list of sealed images in a run folder."""

IMAGE_DAYS = 30
"""Days for which a gateway of this machine keeps the images that it answered."""


class NotServingError(Exception):
    """The servers run and still nothing can be served; the message says why."""


def published_versions(repository: Path, model: str) -> list[int]:
    """Version numbers in a model repository, ascending."""
    with contextlib.suppress(OSError):
        return sorted(int(each.name) for each in (repository / model).iterdir() if each.name.isdecimal())
    return []


def _base_paths(path: Path) -> set[str]:
    """The folders of the models in a model server's configuration.

    Raises:
        NotServingError: It is none.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        # A field that is not known here is for the model server to judge.
        config = text_format.Parse(text, tfs_pb2.ModelServerConfig(), allow_unknown_field=True)
    except text_format.ParseError as error:
        raise NotServingError(
            f"{path} is no configuration of a model server ({error}). Remove the file; the gateway writes it "
            "anew"
        ) from None
    return {model.base_path for model in config.model_config_list.config}


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """What to start, and where.

    Attributes:
        repository: model repository.
        model: name of the model in it.
        port: the gateway's, on 127.0.0.1.
        model_server_port: the model server's.
        release_mode: how versions become "stable": one of `RELEASE_MODES`.
        records: folder of examples and retrainings; None for a gateway that keeps none.
        evaluation: list of the sealed images that the gate measures on; None where there is none.
        base_run: run folder whose data retrainings build on; wants `records`. None: no retraining.
        trainer_cores: cores of a retraining; 0 for all but one, so that callers do not wait.
        policy: file with what the gate and the guards ask for; None for the gateway's defaults.
    """

    repository: Path
    model: str
    port: int
    model_server_port: int
    release_mode: str = MANUAL
    records: Path | None = None
    evaluation: Path | None = None
    base_run: Path | None = None
    trainer_cores: int = 0
    policy: Path | None = None

    @property
    def target(self) -> str:
        """The gateway's address."""
        return f"127.0.0.1:{self.port}"

    def start(self, supervisor: processes.Supervisor, on_line: Callable[[str, str], None]) -> None:
        """Starts both. The gateway comes last, so that it is stopped, and drained, first.

        Raises:
            MissingProgramError: one is not installed.
            NotServingError: the repository has a configuration of another folder, or one that is none.
        """
        model_server = processes.program("neurogate-model-server")
        gateway = processes.program("neurogate-gateway")
        if self.records is not None:
            processes.need("neurogate-gateway", "records")
        trainer = processes.program("neurogate-trainer") if self.base_run is not None else None
        supervisor.start(MODEL_SERVER, [model_server, *self._model_server_options()], on_line=on_line)
        supervisor.start(GATEWAY, [gateway, *self._gateway_options(trainer)], on_line=on_line)

    def _model_server_options(self) -> list[str]:
        folder = (self.repository / self.model).resolve()
        options = [
            f"--port={self.model_server_port}",
            # One thread a request: concurrent requests then use the cores without disturbing each other.
            "--tensorflow_intra_op_parallelism=1",
        ]
        if self.release_mode == LATEST:
            return [*options, f"--model_config_file={self._two_newest(folder)}"]
        config = self.repository / MODELS_CONFIG
        if not config.exists():
            # The gateway writes it as soon as the first version is stable.
            return [*options, f"--model_name={self.model}", f"--model_base_path={folder}"]
        if str(folder) not in _base_paths(config):
            raise NotServingError(
                f"{config} does not name {folder}: was the repository moved? Remove the file; the gateway "
                "writes it anew"
            )
        return [
            *options,
            f"--model_config_file={config.resolve()}",
            "--allow_version_labels_for_unavailable_models=true",
        ]

    def _two_newest(self, folder: Path) -> Path:
        """A configuration that keeps two versions loaded, so that streams end on the one they began with."""
        path = self.repository / LATEST_CONFIG
        config = tfs_pb2.ModelServerConfig()
        model = config.model_config_list.config.add(
            name=self.model, base_path=str(folder), model_platform="tensorflow"
        )
        model.model_version_policy.latest.num_versions = 2
        path.write_text(text_format.MessageToString(config), encoding="utf-8")
        return path.resolve()

    def _gateway_options(self, trainer: str | None) -> list[str]:
        options = [
            f"--listen={self.target}",
            f"--backend-address=127.0.0.1:{self.model_server_port}",
            f"--model-name={self.model}",
            f"--repository={self.repository}",
            f"--release-mode={self.release_mode}",
        ]
        if self.policy is not None:
            options.append(f"--policy={self.policy}")
        if self.evaluation is not None and self.release_mode != LATEST:
            options.append(f"--evaluation-data={self.evaluation}")
        if self.records is not None:
            # Images are kept, so that feedback becomes an example.
            options += [f"--data-dir={self.records}", f"--prediction-image-days={IMAGE_DAYS}"]
        if self.base_run is not None:
            options += [
                f"--base-run={self.base_run}",
                f"--trainer-command={trainer}",
                f"--trainer-cores={self.trainer_cores}",
            ]
        return options

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

    def wait_for_version(self, supervisor: processes.Supervisor, client: Client, version: int) -> None:
        """Returns when a version is READY.

        Raises:
            ChildFailedError: a server has ended.
            NotServingError: it is not, in time.
        """

        def ready() -> bool:
            try:
                return client.get_model_version(version, timeout=2).state is VersionState.READY
            except NeurogateError:
                return False

        try:
            supervisor.wait_until(ready, READY_SECONDS, f"version {version} to be ready")
        except TimeoutError as error:
            raise NotServingError(f"{error}; the logs of the servers say more") from None
