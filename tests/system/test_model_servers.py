"""Model servers that are killed, hang and come back, under load and in real processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
from neurogate.tfs.v1 import tfs_pb2
from neurogate.v1 import model_pb2
from neurogate_cli.local_stack.servers import MODEL_SERVER_FLAGS
from neurogate_core.model_config import default_config, write_config
from neurogate_gateway.backends.tfserving import ReloadRefusedError
from neurogate_testing.callers import KINDS, Callers, steady_callers
from neurogate_testing.gateway_harness import running_gateway
from neurogate_testing.processes import model_server_flags, running, script
from neurogate_testing.serving_process import start_model_server, wait_until_open
from neurogate_testing.stack import MODEL, publish_copy

LOADING = model_pb2.MODEL_VERSION_STATE_LOADING
PROVING = model_pb2.MODEL_VERSION_STATE_PROVING
READY = model_pb2.MODEL_VERSION_STATE_READY
RETIRED = model_pb2.MODEL_VERSION_STATE_RETIRED


class ModelServer:
    """A model server over a repository, which may be killed and started again at its address."""

    def __init__(self, root: Path, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        config = root / "models.config"
        write_config(config, default_config(MODEL, root / MODEL, latest=2))
        self._flags = [f"--model_config_file={config}", *MODEL_SERVER_FLAGS, *model_server_flags()]
        self.process = start_model_server(self._flags, folder)
        self.address = self.process.address

    def kill(self) -> None:
        self.process.kill()

    def start(self) -> None:
        port = int(self.address.rpartition(":")[2])
        self.process = start_model_server(self._flags, self._folder, port=port)

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGCONT)
        self.process.stop()


@pytest.fixture
def root(toy_repository: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    shutil.copytree(toy_repository, folder)
    return folder


@pytest.fixture
def servers(root: Path, tmp_path: Path) -> Iterator[list[ModelServer]]:
    """Two model servers over one repository."""
    made = [ModelServer(root, tmp_path / f"server-{number}") for number in range(2)]
    try:
        assert all(wait_until_open(server.process) for server in made)
        yield made
    finally:
        for server in made:
            server.stop()


@contextlib.asynccontextmanager
async def loaded(*servers: ModelServer) -> AsyncIterator[Callers]:
    """A gateway before the model servers, version 1 READY on all of them, and callers at work."""
    command = [
        script("neurogate-gateway"),
        "--listen=127.0.0.1:0",
        f"--backend-address={','.join(server.address for server in servers)}",
        f"--model-name={MODEL}",
    ]
    with running(command) as gateway:
        target = gateway.wait_for(r'"event": "listening".*"address": "([^"]+)"').group(1)
        early = Callers(target)
        for server in servers:
            await early.until_there(server.address, 1, READY)
        await early.close()
        async with steady_callers(target) as callers:
            await callers.until_answered(40)
            yield callers


def assert_one_model(callers: Callers) -> None:
    """All answers are one version's, the same for the same image."""
    assert len(callers.models()) == KINDS
    assert len({(version, digest) for _, version, digest, _ in callers.models()}) == 1


def assert_only_unavailable(callers: Callers) -> None:
    """Whoever failed was told that it may be tried again, and when."""
    for failed in callers.failures:
        assert failed.code is grpc.StatusCode.UNAVAILABLE, failed
        assert failed.reason in {"BACKEND_UNAVAILABLE", "MODEL_NOT_READY"}, failed
        assert failed.details["RetryInfo"].retry_delay.ToMilliseconds() > 0


async def test_the_only_server_is_killed_and_comes_back(servers: list[ModelServer]) -> None:
    server = servers[0]
    async with loaded(server) as callers:
        server.kill()
        await callers.until(lambda: len(callers.failures) >= 40)
        await callers.until_there(server.address, 1, LOADING)
        server.start()
        await callers.until_there(server.address, 1, READY)
        await callers.until_answered(40)
        failed = len(callers.failures)
        await callers.until_answered(40)
        assert len(callers.failures) == failed
    assert_only_unavailable(callers)
    assert_one_model(callers)


async def test_one_of_two_servers_is_killed_and_nobody_notices(servers: list[ModelServer]) -> None:
    first, second = servers
    async with loaded(first, second) as callers:
        first.kill()
        await callers.until_there(first.address, 1, LOADING)
        await callers.until_answered(40)
        first.start()
        await callers.until_there(first.address, 1, READY)
        await callers.until_answered(40)
        second.kill()
        await callers.until_there(second.address, 1, LOADING)
        await callers.until_answered(40)
    assert callers.failures == []
    assert_one_model(callers)


async def test_one_of_two_servers_hangs_and_nobody_notices(servers: list[ModelServer]) -> None:
    first, second = servers
    async with loaded(first, second) as callers:
        os.kill(first.process.pid, signal.SIGSTOP)
        await callers.until_there(first.address, 1, LOADING)
        await callers.until_answered(40)
        os.kill(first.process.pid, signal.SIGCONT)
        await callers.until_there(first.address, 1, READY)
        await callers.until_answered(40)
    assert callers.failures == []
    assert_one_model(callers)


async def test_the_only_server_hangs(servers: list[ModelServer]) -> None:
    server = servers[0]
    async with loaded(server) as callers:
        os.kill(server.process.pid, signal.SIGSTOP)
        await callers.until(lambda: len(callers.failures) >= 20)
        os.kill(server.process.pid, signal.SIGCONT)
        await callers.until_there(server.address, 1, READY)
        await callers.until_answered(40)
    assert_only_unavailable(callers)
    assert_one_model(callers)


async def test_two_gateways_before_two_servers_agree(servers: list[ModelServer], root: Path) -> None:
    first, second = servers
    async with loaded(first, second) as one, loaded(first, second) as other:
        first.kill()
        for callers in (one, other):
            await callers.until_there(first.address, 1, LOADING)
            await callers.until_answered(40)
        first.start()
        assert publish_copy(root, of=1) == 2
        for callers in (one, other):
            for server in servers:
                for number in (1, 2):
                    await callers.until_there(server.address, number, READY)
            await callers.until_answered(40)
    assert one.failures == other.failures == []
    # A copy is the same model under another number, so scores tell nothing of who answered, and digests do.
    digests = [{(version, digest) for _, version, digest, _ in callers.answers} for callers in (one, other)]
    assert digests[0] == digests[1]
    assert {version for version, _ in digests[0]} == {1, 2}
    assert len({(kind, scores) for kind, _, _, scores in one.answers + other.answers}) == KINDS


async def test_a_configuration_moves_versions_and_labels(servers: list[ModelServer], root: Path) -> None:
    """What the release manager does: the real servers take it over, or say why not."""
    addresses = [server.address for server in servers]

    def config(label: int, *versions: int) -> tfs_pb2.ModelServerConfig:
        model = tfs_pb2.ModelConfig(
            name=MODEL,
            base_path=str(root / MODEL),
            model_platform="tensorflow",
            version_labels={"stable": label},
        )
        model.model_version_policy.specific.versions.extend(versions)
        return tfs_pb2.ModelServerConfig(model_config_list=tfs_pb2.ModelConfigList(config=[model]))

    async with running_gateway(",".join(addresses)) as gateway:
        pool = gateway.gateway.pool
        assert publish_copy(root, of=1) == 2
        for number in (1, 2):
            while not (view := pool.view(number)) or [s.state for s in view.backends] != [READY, READY]:
                await pool.next_change.wait()
        assert await pool.reload(config(2, 1, 2)) == dict.fromkeys(addresses)
        refused = await pool.reload(config(9, 1, 2))
        for error in refused.values():
            assert isinstance(error, ReloadRefusedError)
            assert str(error).startswith("FAILED_PRECONDITION: Request to assign label to version 9")
        assert await pool.reload(config(2, 2)) == dict.fromkeys(addresses)
        while not (view := pool.view(1)) or [s.state for s in view.backends] != [RETIRED, RETIRED]:
            await pool.next_change.wait()
        assert pool.ready(2) is not None
