"""The model configuration: reading it, and the real server's checks and messages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from google.protobuf import text_format
from google.protobuf.message import Message
from tensorflow_serving.config import model_server_config_pb2 as config_pb2

from .errors import invalid_argument, not_found
from .source import MonitoredModel

TENSORFLOW_PLATFORM = "tensorflow"

MessageT = TypeVar("MessageT", bound=Message)


def read_text_proto(path: Path, message: MessageT) -> MessageT:
    """Reads a message in text format from a file.

    Raises:
        ServingError: The file is missing, empty or not such a message.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise not_found(f"{path}; {error.strerror}") from None
    except UnicodeDecodeError:
        raise invalid_argument(f"Invalid protobuf file: '{path}'") from None
    if not text:
        # The real server maps the file into memory, which an empty one cannot be.
        raise invalid_argument(f"{path}; Invalid argument: the file is empty")
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        raise invalid_argument(f"Invalid protobuf file: '{path}': {error}") from None
    return message


def single_model_config(name: str, base_path: str) -> config_pb2.ModelServerConfig:
    """The configuration that --model_name and --model_base_path stand for."""
    config = config_pb2.ModelServerConfig()
    config.model_config_list.config.add(name=name, base_path=base_path, model_platform=TENSORFLOW_PLATFORM)
    return config


def check_model_list(models: config_pb2.ModelConfigList) -> None:
    """Refuses names that occur twice and base paths that are not absolute.

    Raises:
        ServingError: INVALID_ARGUMENT.
    """
    names: set[str] = set()
    for model in models.config:
        if model.name in names:
            raise invalid_argument(f"Illegal to list model {model.name} multiple times in config list")
        names.add(model.name)
    for model in models.config:
        if _is_relative(model.base_path):
            raise invalid_argument(
                f"Expected model {model.name} to have an absolute path or URI; "
                f"got base_path()={model.base_path}"
            )


def check_platforms_unchanged(old: config_pb2.ModelConfigList, new: config_pb2.ModelConfigList) -> None:
    """Refuses another platform for a model that stays.

    Raises:
        ServingError: INVALID_ARGUMENT; also for a model of the old configuration without a platform, which
            the real server trips over in the same way after such a configuration was refused.
    """
    platforms = {model.name: platform_of(model) for model in old.config}
    for model in new.config:
        before = platforms.get(model.name)
        if before is not None and (after := platform_of(model)) != before:
            raise invalid_argument(
                f"Illegal to change a model's platform. For model {model.name} platform was {before} and new "
                f"platform requested is {after}"
            )


def platform_of(model: config_pb2.ModelConfig) -> str:
    """The platform of a model, which may be given in the deprecated way.

    Raises:
        ServingError: INVALID_ARGUMENT: it is given twice or not at all, or is not supported.
    """
    if model.model_type != config_pb2.MODEL_TYPE_UNSPECIFIED:
        if model.model_platform:
            raise invalid_argument(
                "Illegal setting both ModelServerConfig::model_type (deprecated) and "
                "ModelServerConfig::model_platform."
            )
        if model.model_type != config_pb2.TENSORFLOW:
            raise invalid_argument(f"ModelServerConfig::model_type choice {model.model_type} not supported.")
        return TENSORFLOW_PLATFORM
    if not model.model_platform:
        raise invalid_argument(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            f"ModelServerConfig::model_platform, model name is {model.name}"
        )
    return str(model.model_platform)


def monitored_models(models: config_pb2.ModelConfigList) -> Mapping[str, MonitoredModel]:
    """What the source has to watch for this configuration.

    Raises:
        ServingError: INVALID_ARGUMENT: a platform is missing or unknown.
    """
    for model in models.config:
        platform = platform_of(model)
        if platform != TENSORFLOW_PLATFORM:
            raise invalid_argument(f"Model {model.name} requests unsupported platform {platform}")
    return {
        model.name: MonitoredModel(model.name, model.base_path, model.model_version_policy)
        for model in models.config
    }


def _is_relative(base_path: str) -> bool:
    parts = urlsplit(base_path)
    return not parts.scheme and not parts.netloc and not base_path.startswith("/")
