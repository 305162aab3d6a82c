"""What happens around every call of the gateway's own services.

A call that cannot be taken, because the gateway drains or is full, is refused before its message is read.
The others get a record for the log; whatever they raise leaves as a status with details, and never with
the inner life of the gateway.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from neurogate.v1 import error_pb2
from neurogate.v1.classification_pb2 import BatchClassifyRequest

from neurogate_gateway.errors import (
    GatewayError,
    InternalError,
    OverloadedError,
)
from neurogate_gateway.inference.admission import Admission
from neurogate_gateway.observability.logging import (
    CallRecord,
    RefusalLog,
    call_record,
    current_call,
    internal_error,
    log,
)
from neurogate_gateway.observability.metrics import Metrics

from .wire_guard import limit_repeated

_PACKAGE: Final = "/neurogate.v1."
_MAX_IDENTIFIER: Final = 128
_REFLECTION: Final = "/grpc.reflection."
_CLASSIFICATION: Final = _PACKAGE + "ClassificationService/"
_SINGLE: Final = {_CLASSIFICATION + "Classify", _CLASSIFICATION + "Explain"}
_BATCH: Final = _CLASSIFICATION + "BatchClassify"
_BULK: Final = {
    _BATCH,
    _CLASSIFICATION + "StreamClassify",
    _PACKAGE + "TrainingService/UploadExamples",
}
_MAKE_HANDLER: Final[dict[tuple[bool, bool], Callable[..., Any]]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}
_STATUS_KEY: Final = "grpc-status-details-bin"
_STATUS_BY_NUMBER: Final = {status.value[0]: status for status in grpc.StatusCode}

# An interceptor does not know the messages of the handlers that it wraps.
_Handler = Any
_Message = Any
Context = grpc.aio.ServicerContext[Any, Any]


class CallMetrics:
    """Counts every call that has ended."""

    def __init__(self, metrics: Metrics) -> None:
        self._calls = metrics.counter(
            "neurogate_requests_total", "Calls that have ended, by method and status.", "method", "code"
        )
        self._seconds = metrics.histogram(
            "neurogate_request_seconds", "Time from a call's message to its end, streams whole.", "method"
        )
        self._refusals = metrics.counter(
            "neurogate_refusals_total", "Calls that ended with an error, by its reason.", "reason"
        )

    def ended(self, method: str, error: GatewayError | None, seconds: float) -> None:
        """One call has ended; `method` is a path that the gateway serves."""
        name = method.removeprefix(_PACKAGE)
        self._calls.labels(name, "OK" if error is None else _STATUS_BY_NUMBER[error.code].name).inc()
        if error is not None:
            self._refusals.labels(error.reason_name()).inc()
        self._seconds.labels(name).observe(seconds)


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Refuses early, maps errors, logs, and knows how many calls are running."""

    def __init__(
        self, admission: Admission, *, max_batch_items: int, metrics: CallMetrics | None = None
    ) -> None:
        self._admission = admission
        self._max_batch_items = max_batch_items
        self._metrics = metrics
        self._handlers: dict[str, _Handler] = {}
        self._draining = False
        self._cutting = False
        self._refusals = RefusalLog()
        self._active: set[asyncio.Task[object]] = set()
        self._reflecting: set[asyncio.Task[object]] = set()
        self._reflection_ends = False
        self._idle = asyncio.Event()
        self._idle.set()

    def drain(self) -> None:
        """Refuses new calls from now on."""
        self._draining = True

    def cut(self) -> None:
        """Ends the calls that are running; their callers are told that the gateway is shutting down."""
        self._cutting = True
        for task in self._active:
            task.cancel()

    def end_reflection(self) -> None:
        """Ends streams of reflection, which some clients keep open for as long as they live."""
        self._reflection_ends = True
        for task in self._reflecting:
            task.cancel()

    def flush_log(self) -> None:
        """Writes the refusals that were counted but not written yet."""
        self._refusals.flush()

    async def idle(self) -> None:
        """Waits until no call is running."""
        await self._idle.wait()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        """The handler of a call, wrapped, or one that refuses."""
        method = handler_call_details.method
        if not method.startswith(_PACKAGE):
            handler = await continuation(handler_call_details)
            return self._wrap_reflection(handler) if method.startswith(_REFLECTION) else handler
        try:
            self._check(method)
        except GatewayError as error:
            self._refusals.note(error)
            # Whoever calls what does not exist must not make up metrics.
            if self._metrics is not None and method in self._handlers:
                self._metrics.ended(method, error, 0.0)
            return _refusing(method, error)
        if method not in self._handlers:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            self._handlers[method] = self._wrap(method, handler)
        return self._handlers[method]

    def _check(self, method: str) -> None:
        if self._draining:
            raise GatewayError(error_pb2.ERROR_REASON_SHUTTING_DOWN, "the gateway is shutting down")
        if method in _SINGLE:
            self._admission.check_single()
        elif method in _BULK:
            self._admission.bulk_calls.check()

    def _wrap_reflection(self, handler: _Handler) -> _Handler:
        if handler is None:
            return None

        # It writes by itself: what ends it while it writes would pass by a generator.
        async def run(requests: AsyncIterator[_Message], context: Context) -> None:
            task = asyncio.current_task()
            assert task is not None  # noqa: S101 - coroutines run in tasks
            self._reflecting.add(task)
            try:
                if not self._reflection_ends:
                    async with contextlib.aclosing(_behaviour(handler)(requests, context)) as responses:
                        async for response in responses:
                            await context.write(response)
                    return
            except asyncio.CancelledError:
                if not self._reflection_ends:
                    raise
            finally:
                self._reflecting.discard(task)
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the gateway is shutting down")

        return grpc.stream_stream_rpc_method_handler(
            run, handler.request_deserializer, handler.response_serializer
        )

    def _wrap(self, method: str, handler: _Handler) -> _Handler:
        """The handler, given raw bytes, so that undecodable ones are an error like any other."""
        decode = handler.request_deserializer

        # A function and not an expression, which would begin to iterate even if nobody reads.
        async def messages(raw: AsyncIterator[bytes]) -> AsyncIterator[_Message]:
            async for message in raw:
                yield _decode(decode, message)

        async def call(raw: Any, context: Context) -> _Message:  # noqa: ANN401 - bytes, or an iterator of them
            if handler.request_streaming:
                request = messages(raw)
            else:
                if method == _BATCH:
                    limit_repeated(raw, BatchClassifyRequest.ITEMS_FIELD_NUMBER, self._max_batch_items)
                request = _decode(decode, raw)
                check_identifiers(request)
            answer = _behaviour(handler)(request, context)
            if not inspect.isasyncgen(answer):
                return await answer
            async with contextlib.aclosing(answer):
                async for response in answer:
                    await context.write(response)
            return None

        async def run(raw: Any, context: Context) -> _Message:  # noqa: ANN401 - as above
            return await self._run(method, call(raw, context), context)

        make = _MAKE_HANDLER[handler.request_streaming, handler.response_streaming]
        return make(run, None, handler.response_serializer)

    async def _run(self, method: str, call: Awaitable[_Message], context: Context) -> _Message:
        record = CallRecord(method, caller=context.peer)
        token = current_call.set(record)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - coroutines run in tasks
        self._active.add(task)
        self._idle.clear()
        start = time.perf_counter()
        try:
            response = await call
        except GatewayError as error:
            self._end(record, start, error)
            await _abort(context, error, record)
        except asyncio.CancelledError:
            if self._cutting:
                ended = GatewayError(
                    error_pb2.ERROR_REASON_SHUTTING_DOWN,
                    "the gateway is shutting down and could not wait for this call",
                )
                self._end(record, start, ended)
                await _abort(context, ended, record)
            self._end(
                record, start, GatewayError(error_pb2.ERROR_REASON_CALL_CANCELLED, "the caller has gone")
            )
            raise
        except Exception as defect:  # noqa: BLE001 - the last line before the caller
            internal = internal_error(defect)
            self._end(record, start, internal)
            await _abort(context, internal, record)
        else:
            self._end(record, start)
            return response
        finally:
            current_call.reset(token)
            self._active.discard(task)
            if not self._active:
                self._idle.set()

    def _end(self, record: CallRecord, start: float, error: GatewayError | None = None) -> None:
        seconds = time.perf_counter() - start
        if isinstance(error, OverloadedError):
            self._refusals.note(error)
        else:
            _log_end(record, seconds, error)
        if self._metrics is not None:
            self._metrics.ended(record.method, error, seconds)


def check_identifiers(message: _Message, prefix: str = "") -> None:
    """Checks a message's request_id and routing_key, where it has them, and notes the request_id for the log.

    The interceptor does so for every message of a unary call; `prefix` is the path to the message of a
    stream.

    Raises:
        GatewayError (REQUEST_ID_INVALID, ROUTING_KEY_INVALID): It is too long, or not printable ASCII.
    """
    request_id: str = getattr(message, "request_id", "")
    for name, value, reason in (
        ("request_id", request_id, error_pb2.ERROR_REASON_REQUEST_ID_INVALID),
        ("routing_key", getattr(message, "routing_key", ""), error_pb2.ERROR_REASON_ROUTING_KEY_INVALID),
    ):
        if len(value) > _MAX_IDENTIFIER:
            complaint = f"{name} has {len(value)} characters, the limit is {_MAX_IDENTIFIER}"
            raise GatewayError(reason, complaint, field=prefix + name)
        if value and not (value.isascii() and value.isprintable()):
            complaint = f"{name} has characters that are not printable ASCII"
            raise GatewayError(reason, complaint, field=prefix + name)
    call_record().request_id = request_id


def _behaviour(handler: _Handler) -> Callable[[_Message, Context], Any]:
    """The function behind a handler, whichever of the four kinds it is."""
    kinds = (handler.unary_unary, handler.unary_stream, handler.stream_unary, handler.stream_stream)
    return cast("Callable[[_Message, Context], Any]", next(kind for kind in kinds if kind is not None))


def _decode(decode: Callable[[bytes], _Message], raw: bytes) -> _Message:
    try:
        return decode(raw)
    except DecodeError:
        raise GatewayError(
            error_pb2.ERROR_REASON_REQUEST_MALFORMED, "the request's bytes are not the message of this method"
        ) from None


def _refusing(method: str, error: GatewayError) -> _Handler:
    # On the wire all calls are streams, so this form fits every method, and unlike a unary handler it does
    # not read the message first.
    async def refuse(_: AsyncIterator[bytes], context: Context) -> None:
        await _abort(context, error, CallRecord(method))

    return grpc.stream_stream_rpc_method_handler(refuse)


async def _abort(context: Context, error: GatewayError, record: CallRecord) -> None:
    if isinstance(error, InternalError):
        error.metadata["request_id"] = record.identify()
    await context.abort(
        _STATUS_BY_NUMBER[error.code],
        error.message,
        trailing_metadata=((_STATUS_KEY, error.to_status().SerializeToString()),),
    )


def _log_end(record: CallRecord, seconds: float, error: GatewayError | None) -> None:
    if error is None:
        level = logging.DEBUG
    elif isinstance(error, InternalError):
        level = logging.ERROR
        record.identify()
    else:
        level = logging.INFO
    log(
        level,
        "call",
        method=record.method,
        request_id=record.request_id,
        code="OK" if error is None else _STATUS_BY_NUMBER[error.code].name,
        reason="" if error is None else error.reason_name(),
        message="" if error is None else error.message,
        version=record.version,
        images=record.images,
        milliseconds=round(seconds * 1000, 2),
    )
