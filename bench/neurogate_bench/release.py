"""What a release manager does to a running gateway: publishes versions, waits until they are READY, promotes
them, rolls back."""

from __future__ import annotations

import math
import shutil
import threading
import time
from pathlib import Path
from typing import Self

from neurogate_client import Client
from neurogate_client.errors import NeurogateError
from neurogate_client.results_models import ModelVersion, VersionState
from neurogate_core.manifest import read_manifest
from neurogate_core.repository import ModelRepository

from neurogate_bench.systems import Models


class Publisher:
    """Publishes copies of the prepared version, each as the next version of a repository."""

    def __init__(self, models: Models, repository: Path) -> None:
        self._models, self._repository = models, ModelRepository(repository)
        self._manifest = read_manifest(models.optimised / "1")
        self._count = 0

    def publish(self) -> int:
        """One more version; returns its number."""
        self._count += 1
        with self._repository.staging(self._models.model, f"copy-{self._count}") as staged:
            shutil.copytree(self._models.optimised / "1", staged, dirs_exist_ok=True)
            return self._repository.publish(self._models.model, staged, self._manifest).version


class Readiness:
    """Follows a gateway's versions and keeps the spans of time in which each was READY."""

    def __init__(self, address: str) -> None:
        self._client = Client(address)
        self._changed = threading.Condition()
        self._spans: dict[int, list[tuple[float, float]]] = {}
        self._rejected: dict[int, str] = {}
        self._ended = ""
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._thread.join(timeout=10)

    def _follow(self) -> None:
        ended = "the gateway ended it"
        try:
            for event in self._client.watch_model_versions():
                if event.version is not None:
                    self._note(event.version)
        except NeurogateError as error:
            ended = str(error)
        with self._changed:
            self._ended = ended
            self._changed.notify_all()

    def _note(self, version: ModelVersion) -> None:
        now = time.monotonic()
        with self._changed:
            spans = self._spans.setdefault(version.version, [])
            ready = version.state is VersionState.READY
            running = bool(spans) and spans[-1][1] == math.inf
            if ready and not running:
                spans.append((now, math.inf))
            elif not ready and running:
                spans[-1] = (spans[-1][0], now)
            if version.state is VersionState.REJECTED:
                self._rejected[version.version] = version.state_reason
            self._changed.notify_all()

    def wait(self, version: int, *, seconds: float) -> None:
        """Until the version is READY.

        Raises:
            RuntimeError: it was rejected, or the gateway ended the watch.
            TimeoutError: it took longer than `seconds`.
        """
        deadline = time.monotonic() + seconds
        with self._changed:
            while not self._is_ready(version):
                if self._ended:
                    raise RuntimeError(f"the watch is over: {self._ended}")
                if version in self._rejected:
                    raise RuntimeError(f"version {version} was rejected: {self._rejected[version]}")
                if not self._changed.wait(deadline - time.monotonic()):
                    raise TimeoutError(f"version {version} was not READY after {seconds:.0f} s")

    def _is_ready(self, version: int) -> bool:
        spans = self._spans.get(version, [])
        return bool(spans) and spans[-1][1] == math.inf

    def was_ready(self, version: int, since: float, until: float, *, slack: float) -> bool:
        """Whether the version was READY at some moment between the two, give or take `slack` seconds: the
        watch tells of a change later than it happens."""
        with self._changed:
            spans = self._spans.get(version, [])
            return any(begun - slack <= until and since <= ended + slack for begun, ended in spans)


class Releases:
    """Promotions and rollbacks, each with the moment at which it was asked for."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def promote(self, version: int) -> float:
        """Makes a READY version "stable", whatever the gate says; returns when it was asked for."""
        called = time.monotonic()
        self._client.promote(version, reason="benchmark", force=True)
        return called

    def roll_back(self) -> tuple[int, float]:
        """Makes "previous" the "stable" version; returns it, and when it was asked for."""
        called = time.monotonic()
        return self._client.rollback(reason="benchmark").release.labels["stable"], called
