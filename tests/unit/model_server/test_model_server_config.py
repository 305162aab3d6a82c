from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format
from neurogate_model_server.config import (
    check_model_list,
    check_platforms_unchanged,
    monitored_models,
    platform_of,
    read_text_proto,
    single_model_config,
)
from neurogate_model_server.errors import ServingError
from tensorflow_serving.config import model_server_config_pb2 as config_pb2


def _list(*models: str) -> config_pb2.ModelConfigList:
    text = "".join(f"config {{ {model} }} " for model in models)
    return text_format.Parse(text, config_pb2.ModelConfigList())


TOY = 'name: "toy" base_path: "/m/toy" model_platform: "tensorflow"'


@pytest.mark.parametrize("base_path", ["/m", "file:///m", "gs://bucket/m"])
def test_absolute_paths_and_uris_are_accepted(base_path: str) -> None:
    check_model_list(_list(f'name: "a" base_path: "{base_path}"'))


@pytest.mark.parametrize("base_path", ["", "m", "./m"])
def test_relative_base_paths_are_refused(base_path: str) -> None:
    with pytest.raises(ServingError, match=f"absolute path or URI; got base_path\\(\\)={base_path}$"):
        check_model_list(_list(f'name: "a" base_path: "{base_path}"'))


def test_a_name_may_occur_once() -> None:
    with pytest.raises(ServingError, match="Illegal to list model toy multiple times in config list"):
        check_model_list(_list(TOY, TOY))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ('name: "q"', "neither ModelServerConfig::model_type .* model name is q"),
        ('model_type: TENSORFLOW model_platform: "tensorflow"', "Illegal setting both"),
        ("model_type: OTHER", "model_type choice 2 not supported"),
    ],
)
def test_a_model_needs_one_platform(model: str, message: str) -> None:
    with pytest.raises(ServingError, match=message):
        platform_of(_list(model).config[0])


def test_the_deprecated_type_is_a_platform_too() -> None:
    assert platform_of(_list("model_type: TENSORFLOW").config[0]) == "tensorflow"


def test_an_unknown_platform_is_refused() -> None:
    with pytest.raises(ServingError, match="Model q requests unsupported platform pytorch"):
        monitored_models(_list(TOY, 'name: "q" base_path: "/q" model_platform: "pytorch"'))


def test_a_platform_does_not_change() -> None:
    other = _list('name: "toy" base_path: "/m" model_platform: "other"')
    with pytest.raises(ServingError, match="platform was tensorflow and new platform requested is other"):
        check_platforms_unchanged(_list(TOY), other)
    check_platforms_unchanged(_list(), other)


def test_one_model_by_flags() -> None:
    models = monitored_models(single_model_config("a", "/m").model_config_list)
    assert [(model.name, model.base_path) for model in models.values()] == [("a", "/m")]


@pytest.mark.parametrize("content", [None, b"", b"nonsense {", b"\xff\xfe"])
def test_a_file_that_is_no_configuration_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "models.config"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ServingError, match=r"models\.config"):
        read_text_proto(file, config_pb2.ModelServerConfig())
