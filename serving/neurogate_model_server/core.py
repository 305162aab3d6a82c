"""The server's state as a whole: configuration, labels, and the version that a request means."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import grpc
from tensorflow_serving.apis import model_pb2
from tensorflow_serving.config import model_server_config_pb2 as config_pb2

from .errors import ServingError, failed_precondition, invalid_argument
from .flags import Flags
from .manager import Manager, ServingMap
from .servable import Servable
from .source import FileSystemSource
from .states import State, StateMonitor, VersionId, VersionState

_log = logging.getLogger(__name__)

_INITIAL_LOAD_THREADS = 8
_PLATFORM = "tensorflow"


class ServerCore:
    """Serves the models of a configuration that may change; thread-safe.

    Args:
        load: Loads the version in a folder; raises `ServingError`.
        flags: How models are treated.
    """

    def __init__(self, load: Callable[[VersionId, Path], Servable], flags: Flags) -> None:
        self.flags = flags
        self.monitor = StateMonitor()
        self._serving_map = ServingMap()
        self._manager = Manager(load, self._serving_map, self.monitor, flags)
        self._source = FileSystemSource(self._manager.aspire, flags.file_system_poll_wait_seconds)
        self._config_lock = threading.Lock()
        self._config = config_pb2.ModelServerConfig()
        # Replaced as a whole, so it is read without a lock.
        self._labels: dict[str, dict[str, int]] = {}
        self._started = False

    def stop(self) -> None:
        """Stops watching and managing; waiting calls end with `StoppedError`."""
        # The manager first: its end lets go of whoever waits for a version while holding a lock.
        self._manager.stop()
        self._source.stop()

    def hold(
        self, spec: model_pb2.ModelSpec
    ) -> contextlib.AbstractContextManager[tuple[VersionId, Servable]]:
        """The version that a request means, loaded as long as the context lasts.

        Raises:
            ServingError: The name or the label is bad, or (on entering) the version is not loaded.
        """
        if not spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        choice = spec.WhichOneof("version_choice")
        version: int | None = None
        if choice == "version":
            version = spec.version.value
        elif choice == "version_label":
            version = self._labels.get(spec.name, {}).get(spec.version_label)
            if version is None:
                raise invalid_argument(f"Unrecognized servable version label: {spec.version_label}")
        return self._serving_map.hold(spec.name, version)

    def reload(self, config: config_pb2.ModelServerConfig) -> None:
        """Makes this the configuration and waits until every model that is new has a version available.

        Raises:
            ServingError: The configuration is refused, or a new model failed to load (it stays configured).
            StoppedError: The server is stopping.
        """
        with self._config_lock:
            kind = config.WhichOneof("config")
            if self._config.WhichOneof("config") not in (None, "model_config_list") or (
                self._config.WhichOneof("config") and kind != "model_config_list"
            ):
                raise failed_precondition(
                    "Cannot transition to requested config. It is only legal to transition from one "
                    "ModelConfigList to another."
                )
            if kind is None:
                _log.info("taking no action for an empty configuration")
                return
            if kind != "model_config_list":
                raise invalid_argument("ModelServer does not support custom model config.")
            check_model_list(config.model_config_list)
            check_platforms_unchanged(self._config.model_config_list, config.model_config_list)
            # In force for these checks even if it is refused below; so it is in the real server.
            self._config = config_pb2.ModelServerConfig()
            self._config.CopyFrom(config)
            self._update_labels(config.model_config_list)
            self._apply(config.model_config_list)

    # --- models ------------------------------------------------------------------------------

    def _apply(self, models: config_pb2.ModelConfigList) -> None:
        monitored = monitored_models(models)
        if not self._started:
            self._started = True
            self._source.update(monitored)
            self._manager.start(_INITIAL_LOAD_THREADS)
            self._source.start()
            reached = self.monitor.wait_until_available(monitored)
            _raise_if_failed({version for version, state in reached.items() if state.state is State.END})
            self._manager.end_initial_load()
            # Any version that cannot be loaded ends the start, even an old one beside a good new one.
            _raise_if_failed(
                {
                    VersionId(name, number)
                    for name in monitored
                    for number, state in self.monitor.versions(name)
                    if state.error is not None
                }
            )
            return
        new = monitored.keys() - self._source.models
        # So that the end of an earlier life of a model does not count.
        before = self.monitor.turn()
        self._source.update(monitored)
        _raise_unless_available(self.monitor.wait_until_available(new, before))

    # --- labels ------------------------------------------------------------------------------

    def _update_labels(self, models: config_pb2.ModelConfigList) -> None:
        labels: dict[str, dict[str, int]] = {}
        for model in models.config:
            for label, version in sorted(model.version_labels.items()):
                if not self._may_label(model.name, label, version):
                    raise failed_precondition(
                        f"Request to assign label to version {version} of model {model.name}, which is not "
                        "currently available for inference"
                    )
                labels.setdefault(model.name, {})[label] = version
        self._labels = labels

    def _may_label(self, name: str, label: str, version: int) -> bool:
        before = self._labels.get(name, {}).get(label)
        if self.flags.allow_version_labels_for_unavailable_models and before in (None, version):
            return True
        state = self.monitor.state(VersionId(name, version))
        return state is not None and state.state is State.AVAILABLE


def _in_order(versions: Iterable[VersionId]) -> list[VersionId]:
    return sorted(versions, key=lambda version: (version.name, version.version))


def _raise_if_failed(versions: set[VersionId]) -> None:
    if versions:
        names = "".join(f"{version}, " for version in _in_order(versions))
        raise ServingError(grpc.StatusCode.UNKNOWN, f"Some models did not become available: {{{names}}}")


def _raise_unless_available(reached: dict[VersionId, VersionState]) -> None:
    failed = _in_order([version for version, state in reached.items() if state.state is not State.AVAILABLE])
    if not failed:
        return
    message = f"{len(failed)} model(s) did not become available: {{"
    for version in failed:
        error = reached[version].error
        message += f"{{{version}{f' due to error: {error}' if error else ''}}}, "
    raise ServingError(grpc.StatusCode.UNKNOWN, message + "}")


# --- what the real server checks of a configuration, with its texts ----------------------------


def check_model_list(models: config_pb2.ModelConfigList) -> None:
    """Refuses names that occur twice and base paths that are not absolute.

    Raises:
        ServingError: INVALID_ARGUMENT.
    """
    names: set[str] = set()
    for model in models.config:
        if model.name in names:
            raise invalid_argument(f"Illegal to list model {model.name} multiple times in config list")
        names.add(model.name)
    for model in models.config:
        if _is_relative(model.base_path):
            raise invalid_argument(
                f"Expected model {model.name} to have an absolute path or URI; "
                f"got base_path()={model.base_path}"
            )


def check_platforms_unchanged(old: config_pb2.ModelConfigList, new: config_pb2.ModelConfigList) -> None:
    """Refuses another platform for a model that stays.

    Raises:
        ServingError: INVALID_ARGUMENT; also for a model of the old configuration without a platform, which
            the real server trips over in the same way after such a configuration was refused.
    """
    platforms = {model.name: platform_of(model) for model in old.config}
    for model in new.config:
        before = platforms.get(model.name)
        if before is not None and (after := platform_of(model)) != before:
            raise invalid_argument(
                f"Illegal to change a model's platform. For model {model.name} platform was {before} and new "
                f"platform requested is {after}"
            )


def platform_of(model: config_pb2.ModelConfig) -> str:
    """The platform of a model, which may be given in the deprecated way.

    Raises:
        ServingError: INVALID_ARGUMENT: it is given twice or not at all, or is not supported.
    """
    if model.model_type != config_pb2.MODEL_TYPE_UNSPECIFIED:
        if model.model_platform:
            raise invalid_argument(
                "Illegal setting both ModelServerConfig::model_type (deprecated) and "
                "ModelServerConfig::model_platform."
            )
        if model.model_type != config_pb2.TENSORFLOW:
            raise invalid_argument(f"ModelServerConfig::model_type choice {model.model_type} not supported.")
        return _PLATFORM
    if not model.model_platform:
        raise invalid_argument(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            f"ModelServerConfig::model_platform, model name is {model.name}"
        )
    return str(model.model_platform)


def monitored_models(models: config_pb2.ModelConfigList) -> Mapping[str, config_pb2.ModelConfig]:
    """What the source has to watch for this configuration.

    Raises:
        ServingError: INVALID_ARGUMENT: a platform is missing or unknown.
    """
    for model in models.config:
        if (platform := platform_of(model)) != _PLATFORM:
            raise invalid_argument(f"Model {model.name} requests unsupported platform {platform}")
    return {model.name: model for model in models.config}


def _is_relative(base_path: str) -> bool:
    parts = urlsplit(base_path)
    return not parts.scheme and not parts.netloc and not base_path.startswith("/")
