"""A real gateway before model servers that take few calls at a time: every image is answered."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from neurogate_cli.local_stack.servers import MODEL_SERVER_FLAGS
from neurogate_client import Client
from neurogate_core.model_config import default_config, write_config
from neurogate_testing.images import brain_slice
from neurogate_testing.processes import model_server_flags, running, script
from neurogate_testing.serving_process import start_model_server, wait_until_open
from neurogate_testing.stack import MODEL

IMAGES = [brain_slice(kind) for kind in range(4)]


@contextlib.contextmanager
def gateways(root: Path, folder: Path, *, threads: int, count: int = 1) -> Iterator[list[str]]:
    """So many gateways, by their addresses, before one model server with so many threads."""
    config = root / "models.config"
    write_config(config, default_config(MODEL, root / MODEL, latest=2))
    # The last of two equal flags holds.
    few = f"--grpc_max_threads={threads}"
    flags = [f"--model_config_file={config}", *MODEL_SERVER_FLAGS, *model_server_flags(), few]
    server = start_model_server(flags, folder)
    command = [
        script("neurogate-gateway"),
        "--listen=127.0.0.1:0",
        f"--backend-address={server.address}",
        f"--model-name={MODEL}",
    ]
    try:
        assert wait_until_open(server)
        with contextlib.ExitStack() as stack:
            started = [stack.enter_context(running(command)) for _ in range(count)]
            targets = [
                gateway.wait_for(r'"event": "listening".*"address": "([^"]+)"').group(1)
                for gateway in started
            ]
            for target in targets:
                with Client(target) as client:
                    client.wait_until_ready(60)
            yield targets
    finally:
        server.stop()


@pytest.fixture
def root(toy_repository: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    shutil.copytree(toy_repository, folder)
    return folder


def classify(client: Client, index: int) -> int:
    return client.classify(IMAGES[index % len(IMAGES)]).model.version


def stream(target: str, count: int) -> list[str]:
    """The keys that were answered with a classification."""
    pairs = ((str(index), IMAGES[index % len(IMAGES)]) for index in range(count))
    with Client(target) as client:
        return [item.key for item in client.stream_classify(pairs) if item.classification]


@pytest.mark.parametrize("threads", [2, 4, 8])
def test_nothing_is_lost(root: Path, tmp_path: Path, threads: int) -> None:
    with gateways(root, tmp_path, threads=threads) as [target], ThreadPoolExecutor(64) as callers:
        with Client(target) as client:
            versions = callers.map(lambda index: classify(client, index), range(64))
            assert set(versions) == {1}
        everything = [str(index) for index in range(100)]
        for answered in callers.map(lambda _: stream(target, 100), range(4)):
            assert answered == everything


def test_nothing_is_lost_by_three_gateways(root: Path, tmp_path: Path) -> None:
    with gateways(root, tmp_path, threads=4, count=3) as targets, ThreadPoolExecutor(3) as callers:
        everything = [str(index) for index in range(100)]
        for answered in callers.map(lambda target: stream(target, 100), targets):
            assert answered == everything
