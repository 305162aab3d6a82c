"""The command line: TensorFlow Serving's flags, read as it reads them.

A flag is written `--name=value`; a truth value may be `--name` alone. As with the real server, an argument
that is no flag at all is ignored, and the first such is reported. A flag of the real server that this one
does not implement is refused by name, unless it is given the value that it has anyway.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar


class FlagError(ValueError):
    """A flag has a value that cannot be read, or is not supported."""


FlagValue = TypeVar("FlagValue", int, str, bool)


def _flag(default: FlagValue, text: str) -> FlagValue:
    value: FlagValue = dataclasses.field(default=default, metadata={"help": text})
    return value


def _usable_cpus() -> int:
    # Those that the process may use, where the system tells (Linux).
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Flags:
    """The flags that the embedded server implements, with the real server's defaults."""

    port: int = _flag(8500, "TCP port for gRPC, on 127.0.0.1")
    grpc_socket_path: str = _flag("", "also listen on a UNIX socket at this path")
    model_name: str = _flag("default", "name of the model (without --model_config_file)")
    model_base_path: str = _flag("", "folder of the model's versions (without --model_config_file)")
    model_config_file: str = _flag("", "text file with a ModelServerConfig: several models, policies, labels")
    model_config_file_poll_wait_seconds: int = _flag(
        0, "seconds between two readings of that file; 0: read once"
    )
    file_system_poll_wait_seconds: int = _flag(1, "seconds between two looks at the base paths; 0: look once")
    allow_version_labels_for_unavailable_models: bool = _flag(
        False,
        "a new label may name a version that is not available",
    )
    num_load_threads: int = _flag(
        0, "threads that load versions; 0: one after the other in the manager's thread"
    )
    num_unload_threads: int = _flag(0, "the same for unloading")
    max_num_load_retries: int = _flag(5, "further attempts after a failed load")
    load_retry_interval_micros: int = _flag(60_000_000, "microseconds between attempts")
    enable_model_warmup: bool = _flag(True, "run the requests in assets.extra/tf_serving_warmup_requests")
    num_request_iterations_for_warmup: int = _flag(0, "how often each of them runs, if above 0")
    tensorflow_session_parallelism: int = _flag(0, "threads within and between operations; 0: automatic")
    tensorflow_intra_op_parallelism: int = _flag(0, "threads within an operation; 0: automatic")
    tensorflow_inter_op_parallelism: int = _flag(0, "operations run at once; 0: automatic")
    tensorflow_session_config_file: str = _flag("", "text file with a ConfigProto for the sessions")
    saved_model_tags: str = _flag("serve", "comma-separated tags of the graph to load")
    enable_signature_method_name_check: bool = _flag(
        False,
        "a signature's method name must fit the call",
    )
    enable_serialization_as_tensor_content: bool = _flag(
        False,
        "Predict answers with packed bytes instead of typed fields",
    )
    enable_grpc_healthcheck_service: bool = _flag(False, "serve grpc.health.v1")
    grpc_max_threads: int = _flag(
        4 * _usable_cpus(),
        "one more than the calls that run at once, further ones are refused; -1: no limit",
    )
    grpc_channel_arguments: str = _flag("", "comma-separated key=value settings of the gRPC server")
    version: bool = _flag(False, "print the version and exit")


# Flags of the real server that this one does not have, with the value that it behaves by.
UNSUPPORTED: dict[str, str] = {
    "rest_api_port": "0",
    "rest_api_num_threads": "",
    "rest_api_timeout_in_ms": "30000",
    "rest_api_enable_cors_support": "false",
    "enable_batching": "false",
    "batching_parameters_file": "",
    "enable_per_model_batching_parameters": "false",
    "flush_filesystem_caches": "true",
    "use_alts_credentials": "false",
    "ssl_config_file": "",
    "platform_config_file": "",
    "per_process_gpu_memory_fraction": "0",
    "monitoring_config_file": "",
    "remove_unused_fields_from_bundle_metagraph": "true",
    "prefer_tflite_model": "false",
    "num_tflite_pools": "",
    "num_tflite_interpreters_per_pool": "",
    "xla_cpu_compilation_enabled": "false",
    "xla_gpu_compilation_enabled": "false",
    "enable_profiler": "true",
    "thread_pool_factory_config_file": "",
    "mixed_precision": "",
    "skip_initialize_tpu": "false",
}

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_WHOLE_NUMBER = re.compile(r"\s*[+-]?[0-9]+", re.ASCII)
_TYPES: dict[str, type] = {field.name: type(field.default) for field in dataclasses.fields(Flags)}


def parse_flags(arguments: Sequence[str]) -> tuple[Flags, list[str]]:
    """Reads the command line.

    Returns:
        The flags, and the arguments that are none.

    Raises:
        FlagError: A value cannot be read, or a flag is not supported; the message names it.
    """
    values: dict[str, int | str | bool] = {}
    unknown: list[str] = []
    for argument in arguments:
        name, equals, text = argument.removeprefix("--").partition("=")
        kind = _kind(name) if argument.startswith("--") else None
        if kind is None or not (equals or kind is bool):
            unknown.append(argument)
            continue
        value = _value(name, kind, text if equals else "true")
        if name in _TYPES:
            values[name] = value
        elif value not in (_value(name, kind, UNSUPPORTED[name]), f"{UNSUPPORTED[name]}.0"):
            raise FlagError(
                f"--{name} is a flag of TensorFlow Serving that the embedded model server does not support; "
                "leave it out" + (f" or set it to {UNSUPPORTED[name]}" if UNSUPPORTED[name] else "")
            )
    return Flags(**values), unknown  # type: ignore[arg-type]  # checked by _value


def _kind(name: str) -> type | None:
    if name in UNSUPPORTED:
        return bool if UNSUPPORTED[name] in ("true", "false") else str
    return _TYPES.get(name)


def _value(name: str, kind: type, text: str) -> int | str | bool:
    if kind is bool:
        if text.lower() not in _BOOLEANS:
            raise FlagError(f"--{name}={text}: expected true or false")
        return _BOOLEANS[text.lower()]
    if kind is int:
        if not _WHOLE_NUMBER.fullmatch(text):
            raise FlagError(f"--{name}={text}: expected a whole number")
        return int(text)
    return text


def usage() -> str:
    """What `--help` prints, and whoever gives a flag that cannot be read."""
    lines = ["usage: neurogate-model-server --flag=value ...", "", "Flags (as TensorFlow Serving's):"]
    for field in dataclasses.fields(Flags):
        default = str(field.default).lower() if isinstance(field.default, bool) else repr(field.default)
        lines.append(f"  --{field.name}={default}\n      {field.metadata['help']}")
    return "\n".join(lines)
