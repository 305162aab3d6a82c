"""Settings from flags and environment: values, limits, and what is refused."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from pathlib import Path

import pytest
from neurogate_gateway.settings import ConfigError, Settings, parse_settings, split_address


def test_defaults() -> None:
    settings = parse_settings([], {"PATH": "/bin", "NEUROGATE_OTHER": "1"})
    assert settings == Settings()
    assert settings.max_image_bytes == 16 * 2**20
    assert settings.max_message_bytes == 33 * 2**20


def test_every_field_is_a_flag_and_a_variable() -> None:
    for field in dataclasses.fields(Settings):
        value = {
            "listen": "0.0.0.0:1",
            "backend_address": "h:2",
            "model_name": "m",
            "repository": "/r",
            "metrics_address": "[::1]:0",
            "release_mode": "latest",
            "log_level": "debug",
            "launcher": "ray",
            "ray_address": "http://head:8265",
            "allow_burned_in_annotation": "True",
            "channelz": "True",
            "take_over_model_servers": "True",
        }.get(field.name, str(field.metadata["high"]))
        flag = "--" + field.name.replace("_", "-")
        needed = {
            "records_url": ["--data-dir=d"],
            "base_run": ["--data-dir=d", "--repository=r"],
            "launcher": ["--ray-address=http://head:8265"],
        }.get(field.name, [])
        by_flag = parse_settings([flag, value, *needed], {})
        joined = parse_settings([f"{flag}={value}", *needed], {})
        by_variable = parse_settings(needed, {f"NEUROGATE_GATEWAY_{field.name.upper()}": value})
        assert by_flag == joined == by_variable
        assert str(getattr(by_flag, field.name)) in {value, f"{value}.0"}
        assert field.metadata["text"].endswith(".")


def test_a_flag_wins() -> None:
    environment = {"NEUROGATE_GATEWAY_MAX_IN_FLIGHT": "8"}
    assert parse_settings(["--max-in-flight", "9"], environment).max_in_flight == 9
    assert parse_settings([], environment).max_in_flight == 8


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (
            ["--max-imagebytes", "1"],
            {},
            "unknown argument '--max-imagebytes'; did you mean --max-image-bytes?",
        ),
        (["--max-imagebytes=1"], {}, "did you mean --max-image-bytes?"),
        (["serve"], {}, "unknown argument 'serve'"),
        (["--max-image", "5000"], {}, "unknown argument '--max-image'"),
        (["--listen"], {}, "--listen"),
        (
            [],
            {"NEUROGATE_GATEWAY_LISTN": "x"},
            "NEUROGATE_GATEWAY_LISTN; did you mean NEUROGATE_GATEWAY_LISTEN?",
        ),
        ([], {"NEUROGATE_GATEWAY_": "x"}, "unknown environment variable NEUROGATE_GATEWAY_"),
        (["--max-image-bytes", "16MB"], {}, "--max-image-bytes is '16MB', expected a whole number"),
        (["--max-image-bytes", "1.5"], {}, "expected a whole number"),
        (["--drain-seconds", "soon"], {}, "--drain-seconds is 'soon', expected a number"),
        (["--drain-seconds", "nan"], {}, "drain_seconds is nan, expected 0.0 to 3600"),
        (["--drain-seconds", "inf"], {}, "drain_seconds is inf"),
        (["--drain-seconds", "-1"], {}, "drain_seconds is -1.0"),
        (["--max-image-bytes", "0"], {}, "max_image_bytes is 0, expected 1024 to 536870912"),
        (["--max-in-flight", "1"], {}, "max_in_flight is 1, expected 2 to 100000"),
        (["--listen", ""], {}, "listen is '', expected HOST:PORT"),
        (["--backend-address", "host:0"], {}, "backend_address has port 0, expected 1 to 65535"),
        (["--backend-address", "a:1,,b:2"], {}, "backend_address is '', expected HOST:PORT"),
        (
            ["--backend-address", "a:1, a:1"],
            {},
            "backend_address names the address 'a:1' twice",
        ),
        (["--backend-address", "dns:///a"], {}, "backend_address is 'a', expected HOST:PORT"),
        (["--backend-address", "dns:///a:1,b:2"], {}, "backend_address is 'a:1,b:2', expected HOST:PORT"),
        (["--backend-address", "file:"], {}, "backend_address is 'file:', expected file:PATH"),
        (["--metrics-address", "x"], {}, "metrics_address is 'x', expected HOST:PORT"),
        (["--model-name", ""], {}, "model_name is ''"),
        (["--model-name", "a/b"], {}, "model_name is 'a/b'"),
        (["--records-url", "sqlite:///x"], {}, "records_url is set without data_dir"),
        (
            ["--prediction-image-days", "1", "--journal-days", "0"],
            {},
            "prediction_image_days is set, but journal_days is 0",
        ),
        (
            ["--base-run=b", "--data-dir=d"],
            {},
            "base_run is set, but retrainings need data_dir and repository",
        ),
        (
            ["--base-run=b", "--repository=r"],
            {},
            "base_run is set, but retrainings need data_dir and repository",
        ),
        (["--launcher=slurm"], {}, "launcher is 'slurm', expected one of local, ray"),
        (["--launcher=ray"], {}, "launcher ray needs ray_address"),
        (["--ray-address=head:8265"], {}, "ray_address is 'head:8265', expected http://HOST:PORT"),
        (["--repository=r", "--release-mode=gated"], {}, "release_mode gated needs evaluation_data"),
        (["--release-mode=manual"], {}, "release_mode manual needs a repository"),
        (["--release-mode=auto"], {}, "release_mode is 'auto', expected one of latest, manual, gated"),
        (["--log-level", "loud"], {}, "log_level is 'loud', expected one of debug, info, warning, error"),
        (
            [],
            {"NEUROGATE_GATEWAY_STREAM_WINDOW": ""},
            "NEUROGATE_GATEWAY_STREAM_WINDOW is '', expected a whole",
        ),
    ],
)
def test_invalid_settings(arguments: list[str], environment: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_settings(arguments, environment)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "name",
    [
        "SERVICE_HOST",
        "SERVICE_PORT",
        "SERVICE_PORT_GRPC",
        "PORT",
        "PORT_50051_TCP",
        "PORT_50051_TCP_ADDR",
        "PORT_50051_TCP_PROTO",
    ],
)
def test_the_variables_of_a_kubernetes_service_are_ignored(name: str) -> None:
    assert parse_settings([], {f"NEUROGATE_GATEWAY_{name}": "tcp://10.0.0.1:50051"}) == Settings()


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:50051", ("127.0.0.1", 50051)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:80", ("::1", 80)),
        ("model-server.default.svc:8500", ("model-server.default.svc", 8500)),
    ],
)
def test_addresses(address: str, expected: tuple[str, int]) -> None:
    assert split_address("x", address, lowest_port=0) == expected


@pytest.mark.parametrize(
    "address",
    [
        "",
        ":",
        "host",
        "host:",
        ":80",
        "host:x",
        "host:-1",
        "host:65536",
        "::1:80",
        "[]:80",
        "http://h:80",
        "a b:80",
        "h:٣",
    ],
)
def test_wrong_addresses(address: str) -> None:
    with pytest.raises(ConfigError, match=r"^x "):
        split_address("x", address, lowest_port=0)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_settings(["--version", "--listen=nowhere"], {})
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"neurogate-gateway {importlib.metadata.version('neurogate')}\n"


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_settings(["--help"], {})
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for field in dataclasses.fields(Settings):
        assert "--" + field.name.replace("_", "-") in text


def test_the_documentation_has_every_setting_with_its_default() -> None:
    text = (Path(__file__).parents[3] / "docs" / "gateway.md").read_text()
    for field in dataclasses.fields(Settings):
        flag = "--" + field.name.replace("_", "-")
        shown = "none" if field.default == "" else f"`{str(field.default).lower()}`"
        assert f"| `{flag}` | {shown} |" in text, flag


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("", ""),
        ("postgresql+psycopg://me@host:5432/x", "postgresql+psycopg://me@host:5432/x"),
        ("postgresql+psycopg://me:secret@host/x", "postgresql+psycopg://me:***@host/x"),
        ("postgresql+psycopg://me:s%40c@ret@host:1/x", "postgresql+psycopg://me:***@host:1/x"),
    ],
)
def test_the_log_never_holds_a_password(url: str, shown: str) -> None:
    settings = Settings(data_dir="d", records_url=url)
    assert settings.loggable().get("records_url", "") == shown


def test_the_log_has_what_differs_from_the_defaults() -> None:
    assert Settings().loggable() == {}
    settings = Settings(repository="models", max_in_flight=9, channelz=True, log_level="info")
    assert settings.loggable() == {"repository": "models", "max_in_flight": 9, "channelz": True}


def test_the_gate_measures_on_the_base_runs_sealed_images_unless_told_otherwise() -> None:
    needed = ["--base-run=base", "--data-dir=d", "--repository=r", "--release-mode=gated"]
    assert parse_settings(needed, {}).sealed_images == "base/evaluation.json"
    assert parse_settings([*needed, "--evaluation-data=e"], {}).sealed_images == "e"
    assert parse_settings([], {}).sealed_images == ""
