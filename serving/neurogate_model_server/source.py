"""Watches base paths: which versions of each model are there, and which of them the policy wants."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

from neurogate_core.names import version_number
from tensorflow_serving.config import file_system_storage_path_source_pb2 as storage_path_pb2
from tensorflow_serving.config import model_server_config_pb2 as config_pb2

ServableVersionPolicy: TypeAlias = storage_path_pb2.FileSystemStoragePathSourceConfig.ServableVersionPolicy

_log = logging.getLogger(__name__)


Aspire = Callable[[str, Sequence[tuple[int, Path]]], None]
"""Called with a model's name and its wanted versions with their folders; the first of a number counts."""


def wanted_versions(names: Sequence[str], policy: ServableVersionPolicy) -> list[tuple[int, str]]:
    """The versions among these folder names that a policy wants, with their names, in the order of the names.

    Where two names stand for one number, the policies for the latest and for specific versions take the name
    that sorts last; `all` lists both.
    """
    numbered = [(number, name) for name in sorted(set(names)) if (number := version_number(name)) is not None]
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return numbered
    by_number = dict(numbered)
    if choice == "specific":
        wanted = set(policy.specific.versions)
        return [(number, by_number[number]) for number in sorted(by_number) if number in wanted]
    count = max(policy.latest.num_versions, 1)
    return [(number, by_number[number]) for number in sorted(by_number, reverse=True)[:count]]


def local_path(base_path: str) -> Path:
    """The folder that a base path names, which may be written as a file URI."""
    parts = urlsplit(base_path)
    if parts.scheme == "file":
        return Path(parts.path)
    if parts.scheme:
        raise OSError(f"file system scheme {parts.scheme!r} is not supported")
    return Path(base_path)


class FileSystemSource:
    """Polls base paths and tells the manager which versions are wanted; thread-safe.

    Args:
        aspire: Takes the wanted versions of one model.
        poll_seconds: Time between two polls; 0 polls once, a negative number never.
    """

    def __init__(self, aspire: Aspire, poll_seconds: float) -> None:
        self._aspire = aspire
        self._poll_seconds = poll_seconds
        self._lock = threading.Lock()
        self._models: dict[str, config_pb2.ModelConfig] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="file-system-source", daemon=True)

    @property
    def models(self) -> frozenset[str]:
        """Names of the watched models."""
        with self._lock:
            return frozenset(self._models)

    def update(self, models: Mapping[str, config_pb2.ModelConfig]) -> None:
        """Watches these models from now on; models that are left out lose all their versions at once."""
        with self._lock:
            removed = sorted(self._models.keys() - models.keys())
            self._models = dict(models)
            for name in removed:
                self._aspire(name, [])

    def start(self) -> None:
        """Starts polling."""
        if self._poll_seconds >= 0:
            self._thread.start()

    def stop(self) -> None:
        """Ends polling."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while True:
            self.poll()
            if self._poll_seconds == 0 or self._stop.wait(self._poll_seconds):
                return

    def poll(self) -> None:
        """Looks at every base path once. If one cannot be read, no model changes."""
        with self._lock:
            found: dict[str, list[tuple[int, Path]]] = {}
            for model in self._models.values():
                try:
                    base = local_path(model.base_path)
                    names = os.listdir(base)  # noqa: PTH208  (names are all that is needed, of any bytes)
                except OSError as error:
                    _log.error(
                        "could not find base path %s for servable %s: %s", model.base_path, model.name, error
                    )
                    return
                versions = wanted_versions(names, model.model_version_policy)
                if not versions:
                    _log.warning("no versions of servable %s found under base path %s", model.name, base)
                found[model.name] = [(number, base / name) for number, name in versions]
            for name, paths in found.items():
                self._aspire(name, paths)
