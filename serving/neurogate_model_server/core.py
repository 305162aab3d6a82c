"""The server's state as a whole: configuration, labels, and the version that a request means."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import grpc
from tensorflow_serving.apis import model_pb2
from tensorflow_serving.config import model_server_config_pb2 as config_pb2

from .config import check_model_list, check_platforms_unchanged, monitored_models
from .errors import ServingError, failed_precondition, invalid_argument
from .manager import Manager, ManagerOptions
from .servable import Servable
from .serving_map import ServingMap
from .source import FileSystemSource
from .states import State, StateBus, StateMonitor, VersionId, VersionState

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CoreOptions:
    """How the server treats its models.

    Attributes:
        manager: How versions are loaded.
        initial_load_threads: Threads that load at startup.
        poll_seconds: Time between two looks at the base paths; 0 looks once, a negative number never.
        allow_labels_for_unavailable: Whether a new label may name a version that is not available.
        check_method: Whether a signature's method name must fit the call.
        as_content: Whether results of Predict go out as packed bytes.
    """

    manager: ManagerOptions
    initial_load_threads: int = 4
    poll_seconds: float = 1
    allow_labels_for_unavailable: bool = False
    check_method: bool = False
    as_content: bool = False


class ServerCore:
    """Serves the models of a configuration that may change; thread-safe.

    Args:
        load: Loads the version in a folder; raises `ServingError`.
        options: How models are treated.
    """

    def __init__(self, load: Callable[[VersionId, Path], Servable], options: CoreOptions) -> None:
        self.options = options
        self._bus = StateBus()
        self.monitor: StateMonitor = self._bus.subscribe()
        self._serving_map = ServingMap()
        self._manager = Manager(load, self._serving_map, self._bus, options.manager)
        self._source = FileSystemSource(self._manager.aspire, options.poll_seconds)
        self._config_lock = threading.Lock()
        self._config = config_pb2.ModelServerConfig()
        self._labels_lock = threading.Lock()
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
            version = self._labelled_version(spec.name, spec.version_label)
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
            self._manager.start(self.options.initial_load_threads)
            self._source.start()
            reached = self.monitor.wait_until_available(monitored)
            self._raise_if_failed({version for version, state in reached.items() if state.state is State.END})
            self._manager.end_initial_load()
            # Any version that cannot be loaded ends the start, even an old one beside a good new one.
            self._raise_if_failed(
                {
                    VersionId(name, number)
                    for name in monitored
                    for number, state in self.monitor.versions(name)
                    if state.error is not None
                }
            )
            return
        new = monitored.keys() - self._source.models
        # A monitor of its own, so that the end of an earlier life of a model does not count.
        monitor = self._bus.subscribe()
        try:
            self._source.update(monitored)
            _raise_unless_available(monitor.wait_until_available(new))
        finally:
            self._bus.unsubscribe(monitor)

    @staticmethod
    def _raise_if_failed(versions: set[VersionId]) -> None:
        if versions:
            names = "".join(f"{version}, " for version in _in_order(versions))
            raise ServingError(grpc.StatusCode.UNKNOWN, f"Some models did not become available: {{{names}}}")

    # --- labels ------------------------------------------------------------------------------

    def _labelled_version(self, name: str, label: str) -> int | None:
        with self._labels_lock:
            return self._labels.get(name, {}).get(label)

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
        with self._labels_lock:
            self._labels = labels

    def _may_label(self, name: str, label: str, version: int) -> bool:
        if self.options.allow_labels_for_unavailable and self._labelled_version(name, label) in (
            None,
            version,
        ):
            return True
        state = self.monitor.state(VersionId(name, version))
        return state is not None and state.state is State.AVAILABLE


def _in_order(versions: Iterable[VersionId]) -> list[VersionId]:
    return sorted(versions, key=lambda version: (version.name, version.version))


def _raise_unless_available(reached: dict[VersionId, VersionState]) -> None:
    failed = _in_order([version for version, state in reached.items() if state.state is not State.AVAILABLE])
    if not failed:
        return
    message = f"{len(failed)} model(s) did not become available: {{"
    for version in failed:
        error = reached[version].error
        message += f"{{{version}{f' due to error: {error}' if error else ''}}}, "
    raise ServingError(grpc.StatusCode.UNKNOWN, message + "}")
