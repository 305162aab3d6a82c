from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from grpc import StatusCode
from neurogate_client import Client
from neurogate_client.processes import MissingProgramError, Supervisor, need
from neurogate_client.servers import LATEST, NotServingError, Servers
from neurogate_serving.model_config import default_config, read_config, write_config
from neurogate_testing.fake_gateway import FakeGateway, status, version


def test_the_version_that_answers_is_announced_and_no_other(gateway: FakeGateway) -> None:
    gateway.script.versions = [
        version(3, state="REJECTED"),
        version(2, labels=("latest", "stable")),
        version(1),
    ]
    gateway.script.failures = [status(StatusCode.INTERNAL, "INTERNAL", "once")]
    servers = Servers(repository=Path(), model="brain_tumor", port=1, model_server_port=2)
    with Client(gateway.address) as client, Supervisor() as supervisor:
        assert servers.wait_until_ready(supervisor, client) == 2
    assert len(gateway.script.calls) == 2


def options(servers: Servers) -> list[str]:
    return servers._model_server_options() + servers._gateway_options("trainer")


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
    assert f"--model_base_path={tmp_path / 'm'}" in options(servers)
    config = tmp_path / "models.config"
    write_config(config, default_config("m", tmp_path / "m"))
    assert f"--model_config_file={config}" in options(servers)
    assert "--allow_version_labels_for_unavailable_models=true" in options(servers)
    for option in (
        "--release-mode=manual",
        f"--repository={tmp_path}",
        f"--evaluation-data={tmp_path / 'run' / 'evaluation.json'}",
        f"--data-dir={tmp_path / 'records'}",
        f"--base-run={tmp_path / 'run'}",
        "--trainer-command=trainer",
    ):
        assert option in options(servers)
    write_config(config, default_config("m", "/elsewhere/m"))
    with pytest.raises(NotServingError, match="was the repository moved"):
        options(servers)


ODD = ["müller's", 'a "quoted" \\ one', "\N{BRAIN} 1"]


@pytest.mark.parametrize("name", ODD)
def test_a_repository_of_any_name_is_known_again(tmp_path: Path, name: str) -> None:
    repository = tmp_path / name
    repository.mkdir()
    servers = Servers(repository=repository, model="m", port=1, model_server_port=2)
    write_config(repository / "models.config", default_config("m", repository / "m"))
    assert f"--model_config_file={repository / 'models.config'}" in options(servers)
    moved = repository.rename(tmp_path / "moved")
    with pytest.raises(NotServingError, match="was the repository moved"):
        options(dataclasses.replace(servers, repository=moved))


def test_a_file_that_is_no_configuration(tmp_path: Path) -> None:
    (tmp_path / "models.config").write_text("model_config_list {")
    with pytest.raises(NotServingError, match=r"models\.config is no configuration of a model server"):
        options(Servers(repository=tmp_path, model="m", port=1, model_server_port=2))


@pytest.mark.parametrize("name", ODD)
def test_latest_keeps_the_version_before_loaded(tmp_path: Path, name: str) -> None:
    repository = tmp_path / name
    repository.mkdir()
    (repository / "models.config").write_text("kept for managed modes")
    servers = Servers(
        repository=repository, model='odd "name"', port=1, model_server_port=2, release_mode=LATEST
    )
    (given,) = (each for each in options(servers) if each.startswith("--model_config_file="))
    config = read_config(Path(given.partition("=")[2])).model_config_list.config[0]
    assert (config.name, config.base_path) == ('odd "name"', str(repository / 'odd "name"'))
    assert config.model_version_policy.latest.num_versions == 2
    assert not any("evaluation" in each for each in options(servers))


def test_what_the_records_need_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        MissingProgramError, match=r"needs sqlalchemy, alembic: pip install 'neurogate\[records\]'"
    ):
        need("neurogate-gateway", "records")
