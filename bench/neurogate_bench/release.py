"""What a release manager does to a running gateway: publishes versions, waits until they are READY,
promotes them, rolls back."""

from __future__ import annotations

import math
import shutil
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path

import grpc
from neurogate.v1 import model_pb2, model_pb2_grpc
from neurogate_core.manifest import read_manifest
from neurogate_core.repository import ModelRepository

from neurogate_bench.systems import Models


class Publisher:
    """Publishes copies of the prepared version, each as the next version of a repository."""

    def __init__(self, models: Models, repository: Path) -> None:
        self._models, self._repository = models, ModelRepository(repository)
        self._manifest = read_manifest(models.optimised / "1")

    def publish(self) -> int:
        """One more version; returns its number."""
        with self._repository.staging(self._models.model, "copy") as staged:
            shutil.copytree(self._models.optimised / "1", staged, dirs_exist_ok=True)
            return self._repository.publish(self._models.model, staged, self._manifest).version


class ReleaseManager(AbstractContextManager["ReleaseManager"]):
    """A gateway's ModelService: follows its versions, keeping the spans of time in which each was READY,
    and changes the release."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self._stub = model_pb2_grpc.ModelServiceStub(self._channel)
        self._changed = threading.Condition()
        self._spans: dict[int, list[tuple[float, float]]] = {}
        self._rejected: dict[int, str] = {}
        self._ended = ""
        self._watch = self._stub.WatchModelVersions(model_pb2.WatchModelVersionsRequest())
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._watch.cancel()
        self._thread.join(timeout=10)
        self._channel.close()

    def promote(self, version: int) -> float:
        """Makes a READY version "stable", whatever the gate says; returns when it was asked for."""
        called = time.monotonic()
        self._stub.PromoteModelVersion(
            model_pb2.PromoteModelVersionRequest(version=version, reason="benchmark", force=True), timeout=30
        )
        return called

    def roll_back(self) -> tuple[int, float]:
        """Makes "previous" the "stable" version; returns it, and when it was asked for."""
        called = time.monotonic()
        reply = self._stub.RollbackModel(model_pb2.RollbackModelRequest(reason="benchmark"), timeout=30)
        return reply.release.labels["stable"], called

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

    def was_ready(self, version: int, since: float, until: float, *, slack: float) -> bool:
        """Whether the version was READY at some moment between the two, give or take `slack` seconds: the
        watch tells of a change later than it happens."""
        with self._changed:
            spans = self._spans.get(version, [])
            return any(begun - slack <= until and since <= ended + slack for begun, ended in spans)

    def _follow(self) -> None:
        ended = "the gateway ended it"
        try:
            for response in self._watch:
                if response.HasField("version"):
                    self._note(response.version)
        except grpc.RpcError as error:
            ended = str(error)
        with self._changed:
            self._ended = ended
            self._changed.notify_all()

    def _note(self, version: model_pb2.ModelVersion) -> None:
        now, number = time.monotonic(), version.version
        with self._changed:
            spans = self._spans.setdefault(number, [])
            ready = version.state == model_pb2.MODEL_VERSION_STATE_READY
            if ready and not self._is_ready(number):
                spans.append((now, math.inf))
            elif not ready and self._is_ready(number):
                spans[-1] = (spans[-1][0], now)
            if version.state == model_pb2.MODEL_VERSION_STATE_REJECTED:
                self._rejected[number] = version.state_reason
            self._changed.notify_all()

    def _is_ready(self, version: int) -> bool:
        spans = self._spans.get(version, [])
        return bool(spans) and spans[-1][1] == math.inf
