"""models.config: read, checked as TensorFlow Serving checks it, changed, and replaced in one step."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from neurogate.tfs.v1 import tfs_pb2
from neurogate_core import model_config
from neurogate_core.model_config import (
    ModelConfigError,
    ModelNotConfiguredError,
    default_config,
    parse_config,
)

TEXT = """\
# What the server serves.
model_config_list: {
  config: {
    name: 'brain_tumor',
    base_path: "/models/brain_tumor"
    model_platform: "tensorflow"
    model_version_policy { specific { versions: 3 versions: 5 } }
    version_labels { key: 'stable' value: 3 }
    version_labels { key: "candidate" value: 5 }
  }
  config { name: "other" base_path: "gs://bucket/other" model_platform: "tensorflow" }
}
"""
MODEL = 'config { name: "m" base_path: "/m" model_platform: "tensorflow" }'


def test_text_as_people_write_it_is_read() -> None:
    config = parse_config(TEXT)
    brain, other = config.model_config_list.config
    assert (brain.name, brain.base_path) == ("brain_tumor", "/models/brain_tumor")
    assert list(brain.model_version_policy.specific.versions) == [3, 5]
    assert dict(brain.version_labels) == {"stable": 3, "candidate": 5}
    assert not other.HasField("model_version_policy")


def test_the_official_messages_read_what_is_written(tmp_path: Path) -> None:
    config = default_config("brain_tumor", "/models/brain_tumor", latest=2)
    model_config.set_label(config, "brain_tumor", "stable", 4)
    model_config.write_config(tmp_path / "models.config", config)
    script = (
        "import sys; from google.protobuf import text_format; "
        "from tensorflow_serving.config import model_server_config_pb2 as official; "
        "config = text_format.Parse(sys.stdin.read(), official.ModelServerConfig()); "
        "sys.stdout.buffer.write(config.SerializeToString(deterministic=True))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=(tmp_path / "models.config").read_bytes(),
        capture_output=True,
        check=True,
    )
    assert done.stdout == config.SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no model_config_list"),
        ("model_config_list { config {", "not a model server configuration: "),
        ("nonsense", 'no field named "nonsense"'),
        (
            'model_config_list { config { name: "m" base_path: "/m" logging_config {} } }',
            'no field named "logging_config"',
        ),
        ("custom_model_config {}", 'no field named "custom_model_config"'),
        ('model_config_list { config { base_path: "/m" model_platform: "tensorflow" } }', "'/m' has no name"),
        (
            'model_config_list { config { name: "m" base_path: "m" } }',
            "'m' has base_path 'm', expected an absolute",
        ),
        ('model_config_list { config { name: "m" } }', "'m' has base_path ''"),
        (
            'model_config_list { config { name: "m" base_path: "/m" } }',
            "'m' has platform '', expected 'tensorflow'",
        ),
        (
            f"model_config_list {{ {MODEL} {MODEL} }}",
            "model 'm' is listed twice",
        ),
    ],
)
def test_what_the_server_would_refuse_is_refused(text: str, message: str) -> None:
    with pytest.raises(ModelConfigError) as caught:
        parse_config(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "base", "latest"), [("", "/m", 1), ("m", "relative", 1), ("m", "/m", 0), ("m", "/m", -1)]
)
def test_a_default_that_the_server_would_refuse_is_refused(name: str, base: str, latest: int) -> None:
    with pytest.raises(ModelConfigError):
        default_config(name, base, latest=latest)


def test_policies_replace_each_other() -> None:
    config = parse_config(TEXT)
    brain = model_config.find_model(config, "brain_tumor")
    model_config.serve_versions(config, "brain_tumor", [9, 2, 9])
    assert list(brain.model_version_policy.specific.versions) == [2, 9]
    model_config.serve_latest(config, "brain_tumor", 3)
    assert brain.model_version_policy.latest.num_versions == 3
    assert dict(brain.version_labels) == {"stable": 3, "candidate": 5}
    with pytest.raises(ModelConfigError, match="no version of model 'brain_tumor' is given"):
        model_config.serve_versions(config, "brain_tumor", [])
    with pytest.raises(ModelConfigError, match="version 0 of model 'brain_tumor' is not valid"):
        model_config.serve_versions(config, "brain_tumor", [1, 0])


def test_labels_move_and_appear() -> None:
    config = parse_config(TEXT)
    labels = model_config.find_model(config, "brain_tumor").version_labels
    model_config.set_label(config, "brain_tumor", "stable", 5)
    model_config.set_label(config, "brain_tumor", "previous", 3)
    assert dict(labels) == {"stable": 5, "candidate": 5, "previous": 3}


@pytest.mark.parametrize(
    ("label", "version"), [("", 1), ("a\nb", 1), ("stable", 0), ("stable", -1), ("stable", 2**63)]
)
def test_labels_that_make_no_sense_are_refused(label: str, version: int) -> None:
    config = parse_config(TEXT)
    with pytest.raises(ModelConfigError):
        model_config.set_label(config, "brain_tumor", label, version)
    assert config == parse_config(TEXT)


def test_a_model_that_is_not_configured_is_named() -> None:
    config = parse_config(TEXT)
    with pytest.raises(
        ModelNotConfiguredError, match=r"no model 'chest' is configured \(configured: brain_tumor, other\)"
    ):
        model_config.set_label(config, "chest", "stable", 1)


def test_what_is_written_is_read_and_what_is_invalid_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "models.config"
    model_config.write_config(path, parse_config(TEXT))
    with pytest.raises(ModelConfigError):
        model_config.write_config(path, tfs_pb2.ModelServerConfig())
    assert model_config.read_config(path) == parse_config(TEXT)
    empty = parse_config("model_config_list {}")
    model_config.write_config(path, empty)
    assert model_config.read_config(path) == empty


def test_reading_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "models.config"
    with pytest.raises(FileNotFoundError):
        model_config.read_config(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ModelConfigError, match=r"models.config: not text in UTF-8"):
        model_config.read_config(path)
    path.write_text("model_config_list { config { nam: 'm' } }")
    with pytest.raises(ModelConfigError, match=r'models.config: .*1:30 .*no field named "nam"'):
        model_config.read_config(path)
