"""TensorFlow Serving's `models.config`: which models are served, which of their versions, under which labels.

The file is a `ModelServerConfig` in protobuf text format. It is read into the messages of
`neurogate.tfs.v1`, whose field names are TensorFlow Serving's. Fields that those do not have (such as
`logging_config`) are refused by name: to rewrite the file without them would drop somebody's settings.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from google.protobuf import text_format
from neurogate.tfs.v1 import tfs_pb2

from .files import replace_file

_PLATFORM: Final = "tensorflow"

_MAX_INT64 = 2**63 - 1
_MAX_UINT32 = 2**32 - 1


class ModelConfigError(ValueError):
    """A model configuration is unreadable, or TensorFlow Serving would refuse it."""


class ModelNotConfiguredError(ModelConfigError, LookupError):
    """The configuration has no such model."""


def parse_config(text: str) -> tfs_pb2.ModelServerConfig:
    """The configuration in `text`, checked as TensorFlow Serving would.

    Raises:
        ModelConfigError: The message says where and what; an unknown field is named.
    """
    try:
        config = text_format.Parse(text, tfs_pb2.ModelServerConfig())
    except text_format.ParseError as error:
        raise ModelConfigError(f"not a model server configuration: {error}") from None
    _check(config)
    return config


def read_config(path: Path) -> tfs_pb2.ModelServerConfig:
    """The configuration in a file.

    Raises:
        ModelConfigError: It is not valid.
        OSError: It cannot be read.
    """
    try:
        return parse_config(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ModelConfigError(f"{path}: not text in UTF-8: {error}") from None
    except ModelConfigError as error:
        raise ModelConfigError(f"{path}: {error}") from None


def write_config(path: Path, config: tfs_pb2.ModelServerConfig) -> None:
    """Replaces the file in one step, so that a server that polls it never reads half of it.

    Raises:
        ModelConfigError: TensorFlow Serving would refuse the configuration.
        OSError: The file cannot be written; its old content is still there.
    """
    _check(config)
    replace_file(path, text_format.MessageToString(config).encode())


def _check(config: tfs_pb2.ModelServerConfig) -> None:
    # Whether a label points to a loaded version depends on the server's state, so it is not asked here.
    if config.WhichOneof("config") != "model_config_list":
        raise ModelConfigError("the configuration has no model_config_list")
    seen = set()
    for model in config.model_config_list.config:
        if not model.name:
            raise ModelConfigError(f"the model with base_path {model.base_path!r} has no name")
        if model.name in seen:
            raise ModelConfigError(f"model {model.name!r} is listed twice")
        seen.add(model.name)
        if not (model.base_path.startswith("/") or "://" in model.base_path):
            raise ModelConfigError(
                f"model {model.name!r} has base_path {model.base_path!r}, expected an absolute path or a URI"
            )
        if model.model_platform != _PLATFORM:
            raise ModelConfigError(
                f"model {model.name!r} has platform {model.model_platform!r}, expected {_PLATFORM!r}"
            )


def default_config(model: str, base_path: Path | str, *, latest: int = 1) -> tfs_pb2.ModelServerConfig:
    """A configuration that serves the newest versions of one model.

    Args:
        model: The name under which it is served.
        base_path: The absolute directory of its versions, or a URI.
        latest: How many of the highest version numbers to serve, at least 1.

    Raises:
        ModelConfigError: An argument is not valid.
    """
    config = tfs_pb2.ModelServerConfig()
    config.model_config_list.config.add(name=model, base_path=str(base_path), model_platform=_PLATFORM)
    serve_latest(config, model, latest)
    _check(config)
    return config


def find_model(config: tfs_pb2.ModelServerConfig, model: str) -> tfs_pb2.ModelConfig:
    """The model's part of the configuration, to read or to change.

    Raises:
        ModelNotConfiguredError: There is none; the message lists those that exist.
    """
    for entry in config.model_config_list.config:
        if entry.name == model:
            return entry
    listed = ", ".join(entry.name for entry in config.model_config_list.config) or "none"
    raise ModelNotConfiguredError(f"no model {model!r} is configured (configured: {listed})")


def serve_latest(config: tfs_pb2.ModelServerConfig, model: str, count: int = 1) -> None:
    """Sets the policy of a model to its `count` highest version numbers."""
    if not 1 <= count <= _MAX_UINT32:
        raise ModelConfigError(f"{count} latest versions are wanted of model {model!r}, expected at least 1")
    find_model(config, model).model_version_policy.CopyFrom(
        tfs_pb2.ServableVersionPolicy(latest=tfs_pb2.ServableVersionPolicy.Latest(num_versions=count))
    )


def serve_versions(config: tfs_pb2.ModelServerConfig, model: str, versions: Iterable[int]) -> None:
    """Sets the policy of a model to the given versions, at least one."""
    wanted = sorted(set(versions))
    if not wanted:
        raise ModelConfigError(f"no version of model {model!r} is given, expected at least one")
    for version in wanted:
        _check_version(model, version)
    find_model(config, model).model_version_policy.CopyFrom(
        tfs_pb2.ServableVersionPolicy(specific=tfs_pb2.ServableVersionPolicy.Specific(versions=wanted))
    )


def set_label(config: tfs_pb2.ModelServerConfig, model: str, label: str, version: int) -> None:
    """Points a label of a model to a version, which the server must have loaded when it learns of it."""
    if not label or not label.isprintable():
        raise ModelConfigError(
            f"label {label!r} of model {model!r} is not valid, expected printable characters"
        )
    _check_version(model, version)
    find_model(config, model).version_labels[label] = version


def _check_version(model: str, version: int) -> None:
    if not 1 <= version <= _MAX_INT64:
        raise ModelConfigError(f"version {version} of model {model!r} is not valid, expected at least 1")
