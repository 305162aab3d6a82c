from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from neurogate.tfs.v1 import tfs_pb2
from neurogate_cli.local_stack.processes import Supervisor
from neurogate_cli.local_stack.servers import LATEST, MODEL_SERVER_FLAGS, NotServingError, Servers
from neurogate_client import Client
from neurogate_core.manifest import model_digest
from neurogate_core.model_config import default_config, read_config, serve_versions, write_config
from neurogate_testing.fake_gateway import FakeGateway, version
from neurogate_testing.fake_status import refusal
from neurogate_testing.manifests import sound_manifest


def test_the_version_that_answers_is_announced_and_no_other(gateway: FakeGateway) -> None:
    gateway.script.versions = [
        version(3, state="REJECTED"),
        version(2, labels=("latest", "stable")),
        version(1),
    ]
    gateway.script.failures = [refusal("INTERNAL", "once")]
    servers = Servers(repository=Path(), model="brain_tumor", port=1, model_server_port=2)
    with Client(gateway.address) as client, Supervisor() as supervisor:
        assert servers.wait_until_ready(supervisor, client) == 2
    assert len(gateway.script.calls) == 2


def publish(repository: Path, version: int, *, model: str = "m", size: int = 5) -> Path:
    folder = repository / model / str(version)
    (folder / "assets").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    manifest = sound_manifest(model=model, version=version)
    manifest.files[0].size_bytes = size
    manifest.model_digest = model_digest(manifest.files)
    (folder / "assets" / "neurogate_manifest.binpb").write_bytes(manifest.SerializeToString())
    return folder


@contextlib.contextmanager
def model_server() -> Iterator[tuple[int, list[tfs_pb2.ReloadConfigRequest]]]:
    """The port of a server that takes any configuration, and those that it was given."""
    given: list[tfs_pb2.ReloadConfigRequest] = []

    def reload(request: tfs_pb2.ReloadConfigRequest, _: object) -> tfs_pb2.ReloadConfigResponse:
        given.append(request)
        return tfs_pb2.ReloadConfigResponse()

    handler = grpc.unary_unary_rpc_method_handler(
        reload,
        request_deserializer=tfs_pb2.ReloadConfigRequest.FromString,
        response_serializer=tfs_pb2.ReloadConfigResponse.SerializeToString,
    )
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "tensorflow.serving.ModelService", {"HandleReloadConfigRequest": handler}
            ),
        )
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port, given
    finally:
        server.stop(None).wait()


def options(servers: Servers, scratch: Path) -> list[str]:
    scratch.mkdir(exist_ok=True)
    return servers._model_server_options(scratch) + servers._gateway_options("trainer")


def started_from(given: list[str]) -> tfs_pb2.ModelConfig:
    (path,) = (each.partition("=")[2] for each in given if each.startswith("--model_config_file="))
    return read_config(Path(path)).model_config_list.config[0]


def test_a_managed_release_starts_from_the_file_that_the_gateway_keeps(tmp_path: Path) -> None:
    servers = Servers(
        repository=tmp_path,
        model="m",
        port=1,
        model_server_port=2,
        evaluation=tmp_path / "run" / "evaluation.json",
        base_run=tmp_path / "run",
        records=tmp_path / "records",
    )
    config = tmp_path / "models.config"
    kept = default_config("m", tmp_path / "m")
    serve_versions(kept, "m", [4])
    write_config(config, kept)
    given = options(servers, tmp_path / "scratch")
    for option in (
        f"--model_config_file={config}",
        *MODEL_SERVER_FLAGS,
        "--release-mode=manual",
        f"--repository={tmp_path}",
        f"--evaluation-data={tmp_path / 'run' / 'evaluation.json'}",
        f"--data-dir={tmp_path / 'records'}",
        f"--base-run={tmp_path / 'run'}",
        "--trainer-command=trainer",
    ):
        assert option in given
    assert not any("poll_wait" in each for each in given)


def test_a_first_start_takes_the_newest_version_that_is_whole(tmp_path: Path) -> None:
    servers = Servers(repository=tmp_path, model="m", port=1, model_server_port=2)
    publish(tmp_path, 5, size=6)  # half a copy
    (tmp_path / "m" / "20240101120000").mkdir()
    with pytest.raises(
        NotServingError,
        match=r"^no version of m is whole: version 5: saved_model\.pb has 5 bytes, its manifest says 6; "
        r"version 20240101120000: it has no manifest",
    ):
        options(servers, tmp_path / "scratch")
    publish(tmp_path, 3)
    publish(tmp_path, 4)
    # As a gateway leaves it that has seen no version yet.
    write_config(tmp_path / "models.config", default_config("m", tmp_path / "m"))
    config = started_from(options(servers, tmp_path / "scratch"))
    assert list(config.model_version_policy.specific.versions) == [4]
    (tmp_path / "m" / "8").symlink_to(publish(tmp_path / "elsewhere", 8))
    config = started_from(options(servers, tmp_path / "scratch"))
    assert list(config.model_version_policy.specific.versions) == [8]


ODD = 'müller\'s "quoted" \\ \N{BRAIN} 1'


def test_a_repository_of_any_name_is_known_again(tmp_path: Path) -> None:
    repository = tmp_path / ODD
    repository.mkdir()
    servers = Servers(repository=repository, model="m", port=1, model_server_port=2)
    kept = default_config("m", repository / "m")
    serve_versions(kept, "m", [1])
    write_config(repository / "models.config", kept)
    given = options(servers, tmp_path / "scratch")
    assert f"--model_config_file={repository / 'models.config'}" in given
    moved = repository.rename(tmp_path / "moved")
    with pytest.raises(NotServingError, match="was the repository moved"):
        options(dataclasses.replace(servers, repository=moved), tmp_path / "scratch")


def test_a_file_that_is_no_configuration(tmp_path: Path) -> None:
    servers = Servers(repository=tmp_path, model="m", port=1, model_server_port=2)
    (tmp_path / "models.config").write_text("model_config_list {")
    with pytest.raises(NotServingError, match=r"models\.config: not a model server configuration: "):
        options(servers, tmp_path / "scratch")
    (tmp_path / "models.config").unlink()
    (tmp_path / "models.config").mkdir()
    with pytest.raises(NotServingError, match=r"models\.config cannot be read \(Is a directory\)"):
        options(servers, tmp_path / "scratch")


def test_latest_writes_nothing_into_the_repository_and_keeps_the_version_before_loaded(
    gateway: FakeGateway, tmp_path: Path
) -> None:
    repository = tmp_path / ODD
    for number in (1, 2, 3):
        publish(repository, number, model="m")
    (repository / "models.config").write_text("kept for managed modes")
    before = sorted(repository.iterdir())
    servers = Servers(repository=repository, model="m", port=1, model_server_port=2, release_mode=LATEST)
    with model_server() as (port, reloads), Client(gateway.address) as client, Supervisor() as supervisor:
        servers = dataclasses.replace(servers, model_server_port=port)
        given = options(servers, supervisor.folder)
        config = started_from(given)
        assert (config.name, config.base_path) == ("m", str(repository / "m"))
        assert list(config.model_version_policy.specific.versions) == [2, 3]
        assert not any("poll_wait" in each for each in given)
        assert not any("evaluation" in each for each in given)
        gateway.script.versions = [version(3, labels=("latest", "stable"))]
        servers.wait_until_ready(supervisor, client)
        (config,) = reloads[-1].config.model_config_list.config
        assert (config.name, config.base_path) == ("m", str(repository / "m"))
        assert config.model_version_policy.latest.num_versions == 2
        scratch = supervisor.folder
    assert sorted(repository.iterdir()) == before
    assert not scratch.exists()


def test_a_model_server_that_takes_no_configuration_is_told(gateway: FakeGateway, tmp_path: Path) -> None:
    servers = Servers(repository=tmp_path, model="m", port=1, model_server_port=1, release_mode=LATEST)
    gateway.script.versions = [version(3, labels=("latest", "stable"))]
    with (
        Client(gateway.address) as client,
        Supervisor() as supervisor,
        pytest.raises(NotServingError, match="the model server does not follow new versions: "),
    ):
        servers.wait_until_ready(supervisor, client)
