"""A server core over a folder, with a loader that tests hold back or break."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from neurogate_model_server.core import ServerCore
from neurogate_model_server.errors import not_found
from neurogate_model_server.flags import Flags
from neurogate_model_server.states import State, VersionId
from tensorflow_serving.apis import model_pb2
from tensorflow_serving.config import model_server_config_pb2 as config_pb2


class FakeVersion:
    """A loaded version that runs nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.closed = threading.Event()

    @property
    def signatures(self) -> dict[str, Any]:
        return {}

    def run(self, *_: Any, **__: Any) -> list[Any]:
        return []

    def close(self) -> None:
        self.closed.set()


class Loader:
    """Loads what the test does not hold back or break; remembers what was tried."""

    def __init__(self) -> None:
        self.attempts: list[str] = []
        self.failures: dict[int, int] = {}
        self.gates: dict[int, threading.Event] = {}
        self.loaded: dict[VersionId, FakeVersion] = {}

    def __call__(self, version: VersionId, path: Path) -> FakeVersion:
        self.attempts.append(str(version))
        if gate := self.gates.get(version.version):
            assert gate.wait(10)
        if self.failures.get(version.version, 0) > 0:
            self.failures[version.version] -= 1
            raise not_found(f"broken: {path.name}")
        self.loaded[version] = FakeVersion(path)
        return self.loaded[version]


class Harness:
    """A core on a folder, with quick polls."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.root = root
        self.loader = Loader()
        usual = {
            "max_num_load_retries": 0,
            "load_retry_interval_micros": 0,
            "file_system_poll_wait_seconds": 0.01,
        }
        self.core = ServerCore(self.loader, Flags(**{**usual, **options}))

    def add(self, *names: str) -> None:
        for name in names:
            (self.root / name).mkdir(parents=True)

    def serve(self, *models: str, policy: str = "", labels: dict[str, int] | None = None) -> None:
        config = config_pb2.ModelServerConfig()
        config.model_config_list.SetInParent()
        for model in models:
            entry = config.model_config_list.config.add(
                name=model, base_path=str(self.root / model), model_platform="tensorflow"
            )
            if policy == "all":
                entry.model_version_policy.all.SetInParent()
            for label, version in (labels or {}).items():
                entry.version_labels[label] = version
        self.core.reload(config)

    def states(self, model: str = "m") -> dict[int, State]:
        return {number: state.state for number, state in self.core.monitor.versions(model)}

    def wait_for(self, condition: Callable[[], bool]) -> None:
        changed = self.core.monitor._changed
        with changed:
            assert changed.wait_for(condition, timeout=10), self.states()

    def answers(self, model: str = "m", **choice: Any) -> int:
        spec = model_pb2.ModelSpec(name=model)
        if "version" in choice:
            spec.version.value = choice["version"]
        if "label" in choice:
            spec.version_label = choice["label"]
        with self.core.hold(spec) as (version, _):
            return version.version


@contextlib.contextmanager
def core_harnesses(root: Path) -> Iterator[Callable[..., Harness]]:
    """Makes harnesses on one folder, and stops them in the end."""
    made: list[Harness] = []

    def make(**options: Any) -> Harness:
        made.append(Harness(root, **options))
        return made[-1]

    yield make
    for item in made:
        for gate in item.loader.gates.values():
            gate.set()
        item.core.stop()
