"""The gRPC methods: PredictionService, ModelService, and health where it is switched on.

Requests are decoded here and not by gRPC, because an undecodable one must give the status that the real
server gives; for the same reason unknown methods are answered here.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn, TypeAlias, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    predict_pb2,
)

from .core import ServerCore
from .errors import ServingError, invalid_argument, not_found
from .predict import predict
from .states import StoppedError, VersionId, VersionState
from .wire import write_field, write_varint

MessageT = TypeVar("MessageT", bound=Message)
Call = Callable[[bytes, grpc.ServicerContext], bytes]
Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"

_PREDICTION_SERVICE = "/tensorflow.serving.PredictionService/"
_MODEL_SERVICE = "/tensorflow.serving.ModelService/"
_HEALTH = "/grpc.health.v1.Health/"
_HEALTH_SERVICES = ("", "PredictionService", "ModelService")
_HEALTH_NAME_LIMIT = 200
_FOREVER_SECONDS = 1e8
_CODE_TAG = b"\x08"  # field 1, a number


class ThreadLimit:
    """Counts the calls that hold a thread of the server; thread-safe.

    Args:
        threads: The limit. One of them listens, so that one call fewer runs at once. Negative: no limit.
    """

    def __init__(self, threads: int) -> None:
        self._lock = threading.Lock()
        self._free: float = math.inf if threads < 0 else threads - 1

    @contextlib.contextmanager
    def hold(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Holds a thread for a call that runs in the block.

        It is free again when the block has ended *and* the call is over for its caller. So a cancelled call
        goes on running and keeps its thread, and an answered one gives it back a moment after the answer.

        Raises:
            ServingError: RESOURCE_EXHAUSTED: all are taken.
        """
        with self._lock:
            if self._free < 1:
                raise ServingError(grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")
            self._free -= 1
        awaited = 2

        def end() -> None:
            nonlocal awaited
            with self._lock:
                awaited -= 1
                if not awaited:
                    self._free += 1

        if not context.add_callback(end):
            # Over for its caller before it began.
            end()
        try:
            yield
        finally:
            end()


class Services(grpc.GenericRpcHandler):
    """Every method that the server answers, by its path.

    Args:
        core: The models.
        limit: How many calls run at once.
        max_answer: Bytes of the largest answer; negative: any. gRPC has this limit, too, with another text.
        health: Whether to serve `grpc.health.v1`.
    """

    def __init__(self, core: ServerCore, limit: ThreadLimit, *, max_answer: int, health: bool) -> None:
        self._core = core
        self._limit = limit
        self._max_answer = max_answer
        self._stopping = threading.Event()
        self._handlers: dict[str, Handler] = {
            _PREDICTION_SERVICE + "Predict": _unary(self._limited(self._predict)),
            **{
                _PREDICTION_SERVICE + name: _unary(self._limited(_examples_only(name)))
                for name in ("Classify", "Regress", "MultiInference")
            },
            _PREDICTION_SERVICE + "GetModelMetadata": _unary(self._limited(self._metadata)),
            _MODEL_SERVICE + "GetModelStatus": _unary(self._limited(self._status)),
            _MODEL_SERVICE + "HandleReloadConfigRequest": _unary(self._limited(self._reload)),
        }
        if health:
            self._handlers[_HEALTH + "Check"] = _unary(self._check)
            self._handlers[_HEALTH + "Watch"] = grpc.unary_stream_rpc_method_handler(self._watch)
        self._unknown: Handler = grpc.stream_stream_rpc_method_handler(_unimplemented)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler:
        """The handler of a method; unknown methods have one too, which answers UNIMPLEMENTED."""
        return self._handlers.get(handler_call_details.method, self._unknown)

    def stop(self) -> None:
        """Ends the streams that would go on for ever."""
        self._stopping.set()

    def _limited(self, call: Call) -> Call:
        def run(data: bytes, context: grpc.ServicerContext) -> bytes:
            with self._limit.hold(context):
                answer = call(data, context)
                if 0 <= self._max_answer < len(answer):
                    text = f"Sent message larger than max ({len(answer)} vs. {self._max_answer})"
                    raise ServingError(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
                return answer

        return run

    # --- PredictionService -------------------------------------------------------------------

    def _predict(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        request = _parse(predict_pb2.PredictRequest(), data)
        _require_spec(request)
        left = context.time_remaining()
        # A call without a deadline has one in the far future.
        deadline = None if left is None or left > _FOREVER_SECONDS else time.monotonic() + left
        # Held until the answer is serialized.
        with self._core.hold(request.model_spec) as (version, servable):
            return _serialized(
                predict(
                    servable,
                    request,
                    version=version.version,
                    check_method=self._core.flags.enable_signature_method_name_check,
                    as_content=self._core.flags.enable_serialization_as_tensor_content,
                    deadline=deadline,
                )
            )

    def _metadata(self, data: bytes, _context: grpc.ServicerContext) -> bytes:
        request = _parse(get_model_metadata_pb2.GetModelMetadataRequest(), data)
        _require_spec(request)
        if not request.metadata_field:
            raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise invalid_argument(f"Metadata field {field} is not supported")
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        with self._core.hold(request.model_spec) as (version, servable):
            signatures = get_model_metadata_pb2.SignatureDefMap()
            for name, signature in servable.signatures.items():
                signatures.signature_def[name].CopyFrom(signature)
        response.model_spec.name = version.name
        response.model_spec.version.value = version.version
        response.metadata["signature_def"].Pack(signatures)
        return _serialized(response)

    # --- ModelService ------------------------------------------------------------------------

    def _status(self, data: bytes, _context: grpc.ServicerContext) -> bytes:
        request = _parse(get_model_status_pb2.GetModelStatusRequest(), data)
        _require_spec(request)
        spec = request.model_spec
        if spec.HasField("version"):
            number = spec.version.value
            state = self._core.monitor.state(VersionId(spec.name, number))
            if state is None:
                raise not_found(f"Could not find version {number} of model {spec.name}")
            return version_status(number, state)
        versions = self._core.monitor.versions(spec.name)
        if not versions:
            raise not_found(f"Could not find any versions of model {spec.name}")
        return b"".join(version_status(number, state) for number, state in versions)

    def _reload(self, data: bytes, _context: grpc.ServicerContext) -> bytes:
        request = _parse(model_management_pb2.ReloadConfigRequest(), data)
        if request.config.WhichOneof("config") != "model_config_list":
            raise invalid_argument(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is "
                "currently supported"
            )
        self._core.reload(request.config)
        response = model_management_pb2.ReloadConfigResponse()
        response.status.SetInParent()
        for name in dict.fromkeys(request.metric_names):
            response.metric.add(name=name, int64_value_increase=0)
        return _serialized(response)

    # --- health ------------------------------------------------------------------------------

    def _check(self, data: bytes, _context: grpc.ServicerContext) -> bytes:
        if _health_service(data) not in _HEALTH_SERVICES:
            raise not_found("service name unknown")
        return _health_answer("SERVING")

    def _watch(self, data: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            known = _health_service(data) in _HEALTH_SERVICES
        except ServingError as error:
            _abort(context, error)
        ended = threading.Event()
        context.add_callback(ended.set)
        yield _health_answer("SERVING" if known else "SERVICE_UNKNOWN")
        while not ended.wait(0.2) and not self._stopping.is_set():
            pass


def _examples_only(name: str) -> Call:
    def refuse(_data: bytes, _context: grpc.ServicerContext) -> bytes:
        raise ServingError(
            grpc.StatusCode.UNIMPLEMENTED,
            f"{name} takes tf.Example: TensorFlow Serving answers it, the embedded model server does not",
        )

    return refuse


def _unary(call: Call) -> Handler:
    def handle(data: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            return call(data, context)
        except ServingError as error:
            _abort(context, error)
        except StoppedError:
            _abort(context, ServingError(grpc.StatusCode.UNAVAILABLE, "The server is stopping"))

    return grpc.unary_unary_rpc_method_handler(handle)


def _abort(context: grpc.ServicerContext, error: ServingError) -> NoReturn:
    # gRPC takes text or the bytes of it; only bytes carry what is not UTF-8.
    context.abort(error.code, error.details)  # type: ignore[arg-type]


def _unimplemented(_requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    context.abort(grpc.StatusCode.UNIMPLEMENTED, "")


def _parse(message: MessageT, data: bytes) -> MessageT:
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise ServingError(grpc.StatusCode.INTERNAL, "") from None
    return message


def _serialized(message: Message) -> bytes:
    return message.SerializeToString()


def _require_spec(request: Message) -> None:
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")


def version_status(number: int, state: VersionState) -> bytes:
    """A serialized `model_version_status` field of GetModelStatusResponse.

    The text of its `StatusProto` need not be UTF-8: the real server puts the raw bytes of a broken warm-up
    record into it, which Python's protobuf would refuse.
    """
    fields = get_model_status_pb2.ModelVersionStatus(version=number, state=int(state.state))
    status = b""
    if state.error is not None:
        text = state.error.message_bytes
        status = _CODE_TAG + write_varint(state.error.number) + (write_field(2, text) if text else b"")
    return write_field(1, _serialized(fields) + write_field(3, status))


def _health_service(data: bytes) -> str:
    request = health_pb2.HealthCheckRequest()
    try:
        request.ParseFromString(data)
    except DecodeError:
        raise invalid_argument("could not parse request") from None
    if len(request.service) > _HEALTH_NAME_LIMIT:
        raise invalid_argument("could not parse request")
    return str(request.service)


def _health_answer(status: str) -> bytes:
    return _serialized(health_pb2.HealthCheckResponse(status=status))
