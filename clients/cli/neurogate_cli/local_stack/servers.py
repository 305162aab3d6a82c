"""Model server and gateway of one machine, as children of a supervisor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
from neurogate.tfs.v1 import tfs_pb2
from neurogate_client import Client, NeurogateError, enum_name
from neurogate_core.model_config import (
    ModelConfigError,
    default_config,
    read_config,
    serve_versions,
    write_config,
)

from . import processes

MODEL_SERVER = "model-server"
GATEWAY = "gateway"
_RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
_RELOAD_SECONDS = 30.0
READY_SECONDS = 180.0

LATEST, MANUAL, GATED = "latest", "manual", "gated"
RELEASE_MODES = (LATEST, MANUAL, GATED)
"""How versions become "stable"; the gateway's words."""

MODELS_CONFIG = "models.config"
"""What the model server starts from; the gateway keeps it."""

START_CONFIG = "start.config"
"""What it starts from where the gateway keeps no such file, or has not written it yet."""

MODEL_SERVER_FLAGS = (
    # One thread a request: concurrent requests then use the cores without disturbing each other.
    "--tensorflow_intra_op_parallelism=1",
    # What comes beyond these is refused and not queued. A gateway has up to 64 images under way by default.
    "--grpc_max_threads=128",
    # With fewer, a version that fails to load holds up every other one.
    "--num_load_threads=2",
    "--num_unload_threads=2",
    # A version that fails is sound in no later attempt either; by default there are five, a minute apart.
    "--max_num_load_retries=0",
    # The gateway's file may have labels whose versions are still being loaded.
    "--allow_version_labels_for_unavailable_models=true",
)
"""As in serving/Dockerfile; docs/model-server.md has the reasons."""

MODEL_SERVER_ENVIRONMENT = {"MALLOC_ARENA_MAX": "2"}
"""Without it the C library keeps what loads of versions leave behind, and memory grows with every swap."""

EVALUATION = "evaluation.json"
"""The list of sealed images in a run folder."""

IMAGE_DAYS = 30
"""Days for which a gateway of this machine keeps the images that it answered."""


class NotServingError(Exception):
    """The servers run and still nothing can be served; the message says why."""


def published_versions(repository: Path, model: str) -> list[int]:
    """Numbers of a model's versions on disk, ascending.

    Raises:
        MissingProgramError: what the gateway needs is not installed.
        NotServingError: the name cannot be a model's, or the folder cannot be read.
    """
    # It imports NumPy, which comes with the gateway and not with the command line.
    processes.program("neurogate-gateway")
    from neurogate_core.repository import ModelRepository, RepositoryError  # noqa: PLC0415

    try:
        return ModelRepository(repository).versions(model)
    except (RepositoryError, OSError) as error:
        raise NotServingError(str(error)) from None


def _kept_config(path: Path, folder: Path) -> bool:
    """Whether the model server can start from a configuration that a gateway keeps: it names versions.

    Raises:
        NotServingError: It is none, or one of another folder.
    """
    try:
        config = read_config(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise NotServingError(
            f"{path} cannot be read ({error.strerror}); the gateway keeps the model server's configuration "
            "there"
        ) from None
    except ModelConfigError as error:
        raise NotServingError(f"{error}. Remove the file; the gateway writes it anew") from None
    models = [model for model in config.model_config_list.config if model.base_path == str(folder)]
    if not models:
        raise NotServingError(
            f"{path} does not name {folder}: was the repository moved? Remove the file; the gateway "
            "writes it anew"
        )
    return bool(models[0].model_version_policy.specific.versions)


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
        model_server_command: what starts the model server in place of the embedded one; gets the same flags.
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
    model_server_command: tuple[str, ...] = ()

    @property
    def target(self) -> str:
        """The gateway's address."""
        return f"127.0.0.1:{self.port}"

    def start(self, supervisor: processes.Supervisor, on_line: Callable[[str, str], None]) -> None:
        """Starts both. The gateway comes last, so that it is stopped, and drained, first.

        Raises:
            MissingProgramError: one is not installed.
            NotServingError: the repository has a configuration of another folder, or one that is none, or no
                version that is whole.
        """
        model_server = self.model_server_command or (processes.program("neurogate-model-server"),)
        gateway = processes.program("neurogate-gateway", records=self.records is not None)
        trainer = processes.program("neurogate-trainer") if self.base_run is not None else None
        options = self._model_server_options(supervisor.folder)
        supervisor.start(
            MODEL_SERVER, [*model_server, *options], on_line=on_line, env=MODEL_SERVER_ENVIRONMENT
        )
        supervisor.start(GATEWAY, [gateway, *self._gateway_options(trainer)], on_line=on_line)

    def _model_server_options(self, scratch: Path) -> list[str]:
        """What the model server is started with; its configuration is in `scratch` or in the repository."""
        options = [f"--port={self.model_server_port}", *MODEL_SERVER_FLAGS]
        folder = (self.repository / self.model).resolve()
        config = self.repository / MODELS_CONFIG
        if self.release_mode != LATEST and _kept_config(config, folder):
            return [*options, f"--model_config_file={config.resolve()}"]
        # A model server that cannot load one of its first versions ends, so it gets none that is not whole.
        first = default_config(self.model, folder)
        serve_versions(first, self.model, self._whole(2 if self.release_mode == LATEST else 1))
        start = scratch / START_CONFIG
        write_config(start, first)
        return [*options, f"--model_config_file={start}"]

    def _whole(self, count: int) -> list[int]:
        """The newest versions that have all of their files, at most `count`.

        Raises:
            NotServingError: there is none.
        """
        from neurogate_core.repository import Survey  # noqa: PLC0415 - as in published_versions

        found = Survey(self.repository, self.model).look()
        if not found.whole:
            flaws = [f"version {number}: {found.refused[number]}" for number in sorted(found.refused)]
            raise NotServingError(f"no version of {self.model} is whole: {'; '.join(flaws)}")
        return sorted(found.whole)[-count:]

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
            # What is on no model server has been refused for its files, and was not tried.
            tried = [each for each in versions if each.backends]
            if tried and all(enum_name(each, "state") == "REJECTED" for each in tried):
                reasons = "; ".join(f"version {each.version}: {each.state_reason}" for each in tried)
                raise NotServingError(f"the gateway refuses every version of {self.model}: {reasons}")
            return False

        try:
            supervisor.wait_until(ready, READY_SECONDS, "a version to serve")
        except TimeoutError:
            raise NotServingError(
                f"no version of {self.model} was ready within {READY_SECONDS:g} s; the log lines say more"
            ) from None
        if self.release_mode == LATEST:
            # From now on a version that cannot be loaded ends nothing.
            self._follow_newest()
        return stable[0]

    def _follow_newest(self) -> None:
        """Has the model server keep the two newest versions loaded: streams end on the one they began with.

        Raises:
            NotServingError: it does not take that over.
        """
        with grpc.insecure_channel(f"127.0.0.1:{self.model_server_port}") as channel:
            reload = channel.unary_unary(
                _RELOAD,
                request_serializer=tfs_pb2.ReloadConfigRequest.SerializeToString,
                response_deserializer=tfs_pb2.ReloadConfigResponse.FromString,
            )
            newest = default_config(self.model, (self.repository / self.model).resolve(), latest=2)
            try:
                reload(tfs_pb2.ReloadConfigRequest(config=newest), timeout=_RELOAD_SECONDS)
            except grpc.RpcError as error:
                raise NotServingError(
                    f"the model server does not follow new versions: {error.details()}"
                ) from None
