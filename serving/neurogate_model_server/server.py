"""Puts the parts together: models first, and only when every one has a version, the port."""

from __future__ import annotations

import logging
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import grpc
from google.protobuf import text_format
from google.protobuf.message import Message
from tensorflow.core.protobuf import config_pb2 as session_pb2
from tensorflow_serving.config import model_server_config_pb2 as config_pb2

from .background import run_at_once, run_low_priority
from .core import ServerCore
from .errors import ServingError, invalid_argument, not_found
from .flags import Flags
from .predict import warm_up
from .servable import Servable, load_servable
from .services import Services, ThreadLimit
from .states import StoppedError, VersionId

MessageT = TypeVar("MessageT", bound=Message)

_log = logging.getLogger(__name__)

_HOST = "127.0.0.1"
_MAX_SEND = "grpc.max_send_message_length"
# Beside those of the calls that run, and started as needed: a refused call takes one for a moment, a watch of
# the health and a call whose message has not arrived as long as they last.
_SPARE_THREADS = 1000
# Requests that run when the server is told to stop may take so long to end. Containers are killed after ten.
_GRACE_SECONDS = 8.0


class ModelServer:
    """The embedded model server.

    Args:
        flags: Its settings.

    Raises:
        ServingError: A setting, or a file that it names, is bad.
    """

    def __init__(self, flags: Flags) -> None:
        if flags.port <= 0:
            raise invalid_argument("server_options.grpc_port is not set.")
        if not flags.model_base_path and not flags.model_config_file:
            raise invalid_argument(
                "Both server_options.model_base_path and server_options.model_config_file are empty!"
            )
        if flags.grpc_max_threads == 0:
            raise invalid_argument(
                "--grpc_max_threads=0 leaves no thread that listens (TensorFlow Serving aborts); -1: no limit"
            )
        self._flags = flags
        self._config = self._read_config()
        self._session_config = _session_config(flags)
        # Threads that a version brings along, or the first one for all, would inherit the low priority.
        self._loads_give_way = not (
            self._session_config.use_per_session_threads or self._session_config.session_inter_op_thread_pool
        )
        self._has_loaded = False
        self._tags = [tag for tag in flags.saved_model_tags.split(",") if tag]
        self._core = ServerCore(self._load, flags)
        self._channel_arguments = _channel_arguments(flags.grpc_channel_arguments)
        max_answer = self._channel_arguments[_MAX_SEND]
        self._services = Services(
            self._core,
            ThreadLimit(flags.grpc_max_threads),
            max_answer=max_answer if isinstance(max_answer, int) else -1,
            health=flags.enable_grpc_healthcheck_service,
        )
        self._stopping = threading.Event()
        self._grpc: grpc.Server | None = None
        self._config_poller: threading.Thread | None = None

    @property
    def address(self) -> str:
        """Where the server listens."""
        return f"{_HOST}:{self._flags.port}"

    def start(self) -> None:
        """Loads the models and opens the port; returns when calls are accepted.

        Raises:
            ServingError: A model failed to load, or the port is taken.
            StoppedError: `stop` was called meanwhile.
        """
        # The port stays closed until models are loaded, which may take long: look now whether it can be had.
        _check_port(_HOST, self._flags.port)
        self._core.reload(self._config)
        if self._stopping.is_set():
            raise StoppedError
        self._grpc = self._open()
        if self._flags.model_config_file and self._flags.model_config_file_poll_wait_seconds > 0:
            self._config_poller = threading.Thread(
                target=self._poll_config, name="config-poller", daemon=True
            )
            self._config_poller.start()
        _log.info("Running gRPC ModelServer at %s", self.address)

    def stop(self) -> None:
        """Takes no new calls and lets running ones end, for some seconds. Waiting reloads end at once."""
        self._stopping.set()
        self._services.stop()
        stopped = self._grpc.stop(_GRACE_SECONDS) if self._grpc is not None else None
        self._core.stop()
        if stopped is not None:
            stopped.wait()

    def _open(self) -> grpc.Server:
        server = grpc.server(
            ThreadPoolExecutor(
                max(0, self._flags.grpc_max_threads) + _SPARE_THREADS, thread_name_prefix="grpc"
            ),
            handlers=[self._services],
            options=list(self._channel_arguments.items()),
        )
        addresses = [self.address]
        if self._flags.grpc_socket_path:
            addresses.append(f"unix:{self._flags.grpc_socket_path}")
        for address in addresses:
            try:
                server.add_insecure_port(address)
            except RuntimeError as error:
                raise invalid_argument(f"Failed to BuildAndStart gRPC server: {error}") from None
        server.start()
        return server

    def _load(self, version: VersionId, path: Path) -> Servable:
        _log.info("loading servable %s from %s", version, path)
        run = run_low_priority if self._loads_give_way and self._has_loaded else run_at_once
        servable = load_servable(path, tags=self._tags, config=self._session_config, run=run)
        flags = self._flags
        if flags.enable_model_warmup:
            iterations = max(1, flags.num_request_iterations_for_warmup)
            check = flags.enable_signature_method_name_check
            try:
                run(lambda: warm_up(servable, path, iterations=iterations, check_method=check))
            except ServingError:
                servable.close()
                raise
        self._has_loaded = True
        return servable

    def _read_config(self) -> config_pb2.ModelServerConfig:
        if self._flags.model_config_file:
            return read_text_proto(Path(self._flags.model_config_file), config_pb2.ModelServerConfig())
        config = config_pb2.ModelServerConfig()
        config.model_config_list.config.add(
            name=self._flags.model_name, base_path=self._flags.model_base_path, model_platform="tensorflow"
        )
        return config

    def _poll_config(self) -> None:
        while not self._stopping.wait(self._flags.model_config_file_poll_wait_seconds):
            try:
                self._core.reload(self._read_config())
            except ServingError as error:
                _log.error("the model configuration was not applied: %s", error)
            except StoppedError:
                return


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


def _session_config(flags: Flags) -> session_pb2.ConfigProto:
    config = session_pb2.ConfigProto()
    if flags.tensorflow_session_config_file:
        read_text_proto(Path(flags.tensorflow_session_config_file), config)
    intra, inter = flags.tensorflow_intra_op_parallelism, flags.tensorflow_inter_op_parallelism
    both = flags.tensorflow_session_parallelism
    if intra > 0 and inter > 0 and both > 0:
        raise invalid_argument(
            "Either configure server_options.tensorflow_session_parallelism or "
            "(server_options.tensorflow_intra_op_parallelism, "
            "server_options.tensorflow_inter_op_parallelism) separately. You cannot configure all."
        )
    if intra > 0 or inter > 0:
        config.intra_op_parallelism_threads, config.inter_op_parallelism_threads = intra, inter
    elif both or not flags.tensorflow_session_config_file:
        config.intra_op_parallelism_threads = config.inter_op_parallelism_threads = both
    return config


def _channel_arguments(text: str) -> dict[str, int | str]:
    arguments: dict[str, int | str] = {
        "grpc.so_reuseport": 0,
        _MAX_SEND: -1,
        # With it, calls that have just ended count for grpc.max_concurrent_streams, and others are refused.
        "grpc.http.overload_protection": 0,
    }
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise invalid_argument(f"--grpc_channel_arguments: expected key=value, got {part}")
        arguments[key] = int(value) if value.lstrip("+-").isdigit() else value
    # The real server sets its own limit afterwards, too.
    arguments["grpc.max_receive_message_length"] = -1
    # It knows a single limit. Newer versions of gRPC refuse some calls between two, and all beyond the other.
    arguments["grpc.absolute_max_metadata_size"] = arguments.setdefault("grpc.max_metadata_size", 8192)
    return arguments


def _check_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise invalid_argument(f"cannot listen on {host}:{port}: {error}") from None
