"""Brings the model servers, and the file that they start from, to what the release says.

`<repository>/models.config` is what a model server reads when it starts, so that labels survive a restart of
everything. It names only versions that were seen loaded and are not rejected, and before there are any the
newest whole one: a server that starts with one that it cannot load ends at once. What runs already is told by
HandleReloadConfigRequest, server by server, step by step.

TensorFlow Serving takes a label only for a version that is loaded, and drops a label at once when a
configuration leaves it out. So a label moves by two configurations: the first loads the new version and
leaves the label where it is, the second moves it and unloads what nobody wants any more. Loading takes time,
and versions may fail; therefore the plan is made anew after every change, and only its first step counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from neurogate.tfs.v1 import tfs_pb2
from neurogate_core import model_config
from neurogate_core.files import locked
from neurogate_core.release_store import State

from neurogate_gateway.backends.pool import BackendPool
from neurogate_gateway.backends.verification import Rejection
from neurogate_gateway.backends.versions import READY, REJECTED
from neurogate_gateway.errors import GatewayError
from neurogate_gateway.observability.logging import log
from neurogate_gateway.observability.signal import repeat

from .controller import ReleaseController
from .foreign_servers import ForeignServers

_CONFIG_FILE: Final = "models.config"
_LOCK: Final = ".models.config.lock"
_PAUSE_SECONDS: Final = 0.5
_AFTER_FAILURE_SECONDS: Final = 2.0
_SEND_AGAIN_SECONDS: Final = 60.0
"""Another program may have sent the server another configuration."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one configuration says about a model.

    Attributes:
        versions: To be loaded, ascending.
        labels: Version by label, each one loaded.
    """

    versions: tuple[int, ...] = ()
    labels: Mapping[str, int] = dataclasses.field(default_factory=dict)


def wanted_step(state: State, published: frozenset[int], broken: frozenset[int] = frozenset()) -> Step:
    """What the model server should come to.

    Args:
        state: The release.
        published: Versions that are in the repository; the server could not load others.
        broken: Versions that it failed to load. It would not try them again, and a server that starts with
            one in its configuration ends.
    """
    usable = published - broken
    labels = {label: version for label, version in state.labels.items() if version in usable}
    return Step(versions=tuple(sorted({*labels.values(), *(usable & state.draining.keys())})), labels=labels)


def next_step(wanted: Step, loaded: frozenset[int], present: Step) -> Step:
    """The next configuration on the way to what is wanted.

    Args:
        wanted: Where to go; with at least one version.
        loaded: Versions that are loaded.
        present: What the model server was told last.
    """
    # Without a version of the wanted ones, the server keeps what serves now.
    settled = _loaded(wanted.labels, loaded)
    if loaded.issuperset(wanted.versions):
        return Step(versions=wanted.versions, labels=settled)
    meanwhile = {**_loaded(present.labels, loaded), **settled}
    kept = {label: version for label, version in meanwhile.items() if label in wanted.labels}
    return Step(versions=tuple(sorted({*wanted.versions, *kept.values()})), labels=kept)


def apply_step(config: tfs_pb2.ModelServerConfig, model: str, step: Step) -> tfs_pb2.ModelServerConfig:
    """The configuration with the model's part as the step says; everything else stays as it is."""
    changed = tfs_pb2.ModelServerConfig()
    changed.CopyFrom(config)
    model_config.serve_versions(changed, model, step.versions)
    entry = model_config.find_model(changed, model)
    entry.version_labels.clear()
    for label, version in sorted(step.labels.items()):
        model_config.set_label(changed, model, label, version)
    return changed


def _loaded(labels: Mapping[str, int], loaded: frozenset[int]) -> dict[str, int]:
    return {label: version for label, version in labels.items() if version in loaded}


class ModelServers:
    """Configures the model servers: what to load, and what labels mean."""

    def __init__(
        self,
        repository: Path,
        model: str,
        controller: ReleaseController,
        pool: BackendPool,
        foreign_servers: ForeignServers,
    ) -> None:
        self._foreign_servers = foreign_servers
        self._repository = repository
        self._path = repository / _CONFIG_FILE
        self._model = model
        self._controller = controller
        self._pool = pool
        self._sent: dict[str, tuple[Step, float]] = {}
        self._not_before: dict[str, float] = {}
        self._logged: dict[str, str] = {}
        self._sending: dict[str, asyncio.Task[None]] = {}
        self._due = asyncio.Event()

    async def run(self) -> None:
        """Configures servers after every change, and looks every half second, until cancelled."""
        forget = self._pool.connection_changed.add(self._connection)
        try:
            await repeat(self._work, self._pool.version_changed, self._controller.changed, due=self._due)
        finally:
            forget()
            for task in self._sending.values():
                task.cancel()

    async def _work(self) -> float:
        try:
            await self._reconcile()
        except (model_config.ModelConfigError, OSError) as error:
            self._log_once(str(self._path), str(error))
        return _PAUSE_SECONDS

    def _connection(self, address: str, connected: bool) -> None:
        self._foreign_servers.forget(address)
        if connected:
            # It may be another process, which knows nothing of what the one before was told.
            self._not_before.pop(address, None)
            if address in self._sent:
                self._sent[address] = (self._sent[address][0], -_SEND_AGAIN_SECONDS)
        self._due.set()

    async def _reconcile(self) -> None:
        state, published = self._controller.release.state, self._controller.published
        wanted = wanted_step(state, published, self._broken())
        rejected = self._rejected()
        sound = frozenset().union(*self._loaded().values()) - rejected
        first = None if state.labels else max(published - rejected, default=None)
        config = await asyncio.to_thread(self._write_file, wanted, sound, rejected, first)
        self._logged.pop(str(self._path), None)
        self._foreign_servers.look()
        if not wanted.versions:
            # Nothing is released yet, or its files cannot be seen: the servers keep what they have.
            return
        self._forget_gone()
        now = time.monotonic()
        # Only now, since a server may have been replaced while the file was written.
        for address, loaded in self._loaded().items():
            if address in self._sending or not self._foreign_servers.is_own(address):
                continue
            present, at = self._sent.get(address, (Step(labels=wanted.labels), -_SEND_AGAIN_SECONDS))
            step = next_step(wanted, loaded, present)
            again = now - at >= _SEND_AGAIN_SECONDS
            if (step != present or again) and now >= self._not_before.get(address, now):
                # In tasks of their own, so that a server that hangs holds up no other.
                task = asyncio.create_task(self._send(address, step, apply_step(config, self._model, step)))
                self._sending[address] = task

    def _forget_gone(self) -> None:
        # A name or a file may lead to ever new addresses.
        for address in (self._sent.keys() | self._not_before.keys()) - self._pool.backends.keys():
            self._sent.pop(address, None)
            self._not_before.pop(address, None)
            self._logged.pop(address, None)

    async def _send(self, address: str, step: Step, config: tfs_pb2.ModelServerConfig) -> None:
        result: Exception | None
        try:
            able = await self._without_empty_models(address, config)
            if not self._foreign_servers.is_own(address):
                # The connection has ended meanwhile, and another server may be there.
                return
            result = (await self._pool.reload(able, addresses=[address]))[address]
        except GatewayError as error:
            result = error
        finally:
            del self._sending[address]
            self._due.set()
        if result is None:
            self._sent[address] = (step, time.monotonic())
            self._logged.pop(address, None)
            log(
                logging.INFO,
                "model_server_configured",
                backend=address,
                versions=step.versions,
                labels=dict(step.labels),
            )
        else:
            self._not_before[address] = time.monotonic() + _AFTER_FAILURE_SECONDS
            self._log_once(address, str(result))

    async def _without_empty_models(
        self, address: str, config: tfs_pb2.ModelServerConfig
    ) -> tfs_pb2.ModelServerConfig:
        """The configuration without other models that the server does not know and that have no version.

        The server would wait for one, with a thread that it never gets back, and let every later
        configuration wait behind it.

        Raises:
            GatewayError: The server cannot be asked.
        """
        able = tfs_pb2.ModelServerConfig()
        able.CopyFrom(config)
        models = able.model_config_list.config
        for entry in config.model_config_list.config:
            if entry.name == self._model or await asyncio.to_thread(_has_version, entry):
                continue
            about = f"{entry.name} at {address}"
            if await self._pool.knows(address, entry.name):
                self._logged.pop(about, None)
            else:
                models.remove(entry)
                self._log_once(
                    about, f"the model is left out, since no version of it is seen in {entry.base_path}"
                )
        return able

    def _log_once(self, about: str, message: str) -> None:
        if self._logged.get(about) != message:
            self._logged[about] = message
            log(logging.ERROR, "model_server_not_configured", about=about, message=message)

    def _loaded(self) -> dict[str, frozenset[int]]:
        """Versions that each model server that can be reached has loaded, whatever their proof says."""
        loaded: dict[str, set[int]] = {address: set() for address, up in self._pool.backends.items() if up}
        for view in self._pool.versions():
            for there in view.backends:
                if there.address in loaded and there.loaded:
                    loaded[there.address].add(view.number)
        return {address: frozenset(versions) for address, versions in loaded.items()}

    def _broken(self) -> frozenset[int]:
        """Versions that a model server failed to load, and none has READY."""
        return frozenset(
            view.number
            for view in self._pool.versions()
            if view.state != READY and any(there.kind == Rejection.LOAD_FAILED for there in view.backends)
        )

    def _rejected(self) -> frozenset[int]:
        """Versions that no model server has READY and some have REJECTED."""
        return frozenset(view.number for view in self._pool.versions() if view.state == REJECTED)

    def _write_file(
        self, wanted: Step, sound: frozenset[int], rejected: frozenset[int], first: int | None
    ) -> tfs_pb2.ModelServerConfig:
        """Writes what the servers are to load into the file; other models and the base path stay.

        Args:
            wanted: What the servers are to come to.
            sound: Versions that a server has loaded.
            rejected: Versions that may not serve.
            first: What to begin with where nothing is released yet: the newest whole version.
        """
        with locked(self._repository / _LOCK):
            config, changed = None, tfs_pb2.ModelServerConfig()
            with contextlib.suppress(FileNotFoundError):
                config = model_config.read_config(self._path)
                changed.CopyFrom(config)
            if all(entry.name != self._model for entry in changed.model_config_list.config):
                folder = self._repository.absolute() / self._model
                changed.MergeFrom(model_config.default_config(self._model, folder))
            entry = model_config.find_model(changed, self._model)
            # What the file names already was sound when it was written.
            able = sound | (frozenset(entry.model_version_policy.specific.versions) - rejected)
            versions = tuple(version for version in wanted.versions if version in able)
            if not versions and first is not None:
                versions = (first,)
            if versions:
                labels = {label: version for label, version in wanted.labels.items() if version in able}
                changed = apply_step(changed, self._model, Step(versions=versions, labels=labels))
            if changed != config:
                model_config.write_config(self._path, changed)
            return changed


def _has_version(model: tfs_pb2.ModelConfig) -> bool:
    """Whether the folder of a model has one of the versions that the model's policy asks for."""
    policy = model.model_version_policy
    wanted = set(policy.specific.versions) if policy.HasField("specific") else None
    try:
        return any(
            child.name.isdecimal() and (wanted is None or int(child.name) in wanted) and child.is_dir()
            for child in Path(model.base_path).iterdir()
        )
    except OSError:
        return False
