"""A programmable TensorFlow Serving on a real socket, inside the test's own loop and without TensorFlow.

It answers Predict (`serving_default` and `describe`) and GetModelStatus at the real method paths, with the
statuses and texts of the real server. Its "model" is a small function of the pixels, so that goldens, answers
and the differences between versions are all predictable. Versions come, go, break and pause as a test says.

    async with FakeBackend() as backend:
        backend.add_version(1)
        ... backend.address ...
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import functools
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Self

import grpc
import grpc.aio
import numpy as np
from neurogate.tfs.v1 import tfs_pb2
from neurogate.v1 import manifest_pb2
from neurogate_core.manifest import serialize_manifest

from .fake_model import CAM_SIDE, CLASSES, Outputs, build_manifest, fake_outputs, sample_image

__all__ = [
    "CAM_SIDE",
    "CLASSES",
    "FakeBackend",
    "FakeVersion",
    "Outputs",
    "State",
    "build_manifest",
    "fake_outputs",
    "sample_image",
]

State = tfs_pb2.ModelVersionStatus


@dataclasses.dataclass
class FakeVersion:
    """One version of the fake; tests change it while it serves."""

    number: int
    manifest: manifest_pb2.ModelManifest
    state: State.State = State.STATE_AVAILABLE
    error_code: int = 0
    error_message: str = ""
    describes: bool = True
    """Whether it has the signature "describe"."""
    tensor_content: bool = False
    """Whether outputs come as tensor_content, as with --enable_serialization_as_tensor_content."""
    gate: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    """Predictions wait until it is set, as it is from the beginning."""
    change: Callable[[Outputs], Outputs | None] = lambda outputs: outputs
    """What becomes of the outputs before they are sent."""
    refusal: tuple[grpc.StatusCode, str] | None = None
    """With which status predictions fail."""


class FakeBackend:
    """The server; use it as an async context manager."""

    def __init__(self, *, model: str = "brain_tumor", port: int = 0) -> None:
        self.model = model
        self.versions: dict[int, FakeVersion] = {}
        self.predicts: list[int] = []
        """Version of every prediction that was begun, goldens included."""
        self.deadlines: list[float | None] = []
        """Seconds that each prediction had left."""
        self.filters: list[list[str]] = []
        """output_filter of each prediction."""
        self.running = 0
        """Predictions that are waiting or being worked on."""
        self.most_running = 0
        self.cancelled = 0
        """Predictions whose caller went away."""
        self.polls = 0
        """Calls of GetModelStatus."""
        self.polls_answered = asyncio.Event()
        """Polls wait until it is set, as it is from the beginning."""
        self.polls_answered.set()
        self.reloads: list[tfs_pb2.ModelServerConfig] = []
        """Configurations that were given, refused ones included."""
        self.reload_refusal: tuple[grpc.StatusCode, str] | None = None
        """With which status configurations are refused."""
        self.threads: int | None = None
        """As --grpc_max_threads: one fewer calls are let in at a time. None lets any number in."""
        self.busy = 0
        """Threads that calls hold; a test may hold some itself, as another client would."""
        self.refused: collections.Counter[str] = collections.Counter()
        """Calls that found no thread, by method."""
        self.port = port
        self._server: grpc.aio.Server | None = None
        self._progress = asyncio.Condition()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Opens the port: the one of the time before, when it was stopped."""
        options = [("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]
        self._server = grpc.aio.server(options=options)
        for service, methods in {
            "PredictionService": {"Predict": (self._predict, tfs_pb2.PredictRequest)},
            "ModelService": {
                "GetModelStatus": (self._status, tfs_pb2.GetModelStatusRequest),
                "HandleReloadConfigRequest": (self._reload, tfs_pb2.ReloadConfigRequest),
            },
        }.items():
            handlers = {
                name: grpc.unary_unary_rpc_method_handler(
                    functools.partial(self._in_thread, name, handler),
                    request_deserializer=request.FromString,
                    response_serializer=lambda message: message.SerializeToString(),
                )
                for name, (handler, request) in methods.items()
            }
            name = f"tensorflow.serving.{service}"
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        """Closes the port and cuts what is running."""
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(None)

    def add_version(
        self, number: int, manifest: manifest_pb2.ModelManifest | None = None, **changes: Any
    ) -> FakeVersion:
        """Loads a version; `changes` are fields of `FakeVersion`."""
        manifest = manifest or build_manifest(number, model=self.model)
        version = self.versions[number] = FakeVersion(number, manifest, **changes)
        version.gate.set()
        return version

    def unload(self, number: int) -> None:
        """Unloads a version; it stays listed as END, as on the real server."""
        self.versions[number].state = State.STATE_END

    def break_version(self, number: int, code: int = 5, message: str = "no such file: /models/m/1/x") -> None:
        """A version that the server could not load."""
        version = self.add_version(number, state=State.STATE_END)
        version.error_code, version.error_message = code, message

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits until something that the fake counts has come about."""
        async with self._progress:
            await self._progress.wait_for(condition)

    async def _advanced(self) -> None:
        async with self._progress:
            self._progress.notify_all()

    async def _in_thread(
        self,
        name: str,
        handler: Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[Any]],
        request: Any,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> Any:
        if self.threads is not None and self.busy >= self.threads - 1:
            self.refused[name] += 1
            await self._advanced()
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")
        self.busy += 1
        try:
            return await handler(request, context)
        finally:
            self.busy -= 1

    async def _status(
        self, request: tfs_pb2.GetModelStatusRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> tfs_pb2.GetModelStatusResponse:
        self.polls += 1
        await self._advanced()
        await self.polls_answered.wait()
        name = request.model_spec.name
        if name != self.model or not self.versions:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {name}")
        response = tfs_pb2.GetModelStatusResponse()
        for number in sorted(self.versions, reverse=True):
            version = self.versions[number]
            status = tfs_pb2.StatusProto(error_code=version.error_code, error_message=version.error_message)
            response.model_version_status.add(version=number, state=version.state, status=status)
        return response

    async def _reload(
        self, request: tfs_pb2.ReloadConfigRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> tfs_pb2.ReloadConfigResponse:
        self.reloads.append(request.config)
        await self._advanced()
        if self.reload_refusal is not None:
            await context.abort(*self.reload_refusal)
        return tfs_pb2.ReloadConfigResponse(status=tfs_pb2.StatusProto())

    async def _predict(
        self, request: tfs_pb2.PredictRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> tfs_pb2.PredictResponse:
        spec = request.model_spec
        version = self.versions.get(spec.version.value)
        if spec.name != self.model or version is None or version.state != State.STATE_AVAILABLE:
            text = f"Servable not found for request: Specific({spec.name}, {spec.version.value})"
            await context.abort(grpc.StatusCode.NOT_FOUND, text)
            raise AssertionError
        if spec.signature_name == "describe" and version.describes:
            return self._describe(request, version)
        if spec.signature_name not in {"", "serving_default"}:
            text = f'Serving signature key "{spec.signature_name}" not found.'
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, text)
        self.predicts.append(version.number)
        self.deadlines.append(context.time_remaining())
        self.filters.append(list(request.output_filter))
        with self._counted():
            await self._advanced()
            try:
                await version.gate.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                await asyncio.shield(self._advanced())
                raise
        if version.refusal is not None:
            await context.abort(*version.refusal)
        if version.state != State.STATE_AVAILABLE:
            text = f"Servable not found for request: Specific({spec.name}, {version.number})"
            await context.abort(grpc.StatusCode.NOT_FOUND, text)
        return self._answer(request, version)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            yield
        finally:
            self.running -= 1

    def _describe(self, request: tfs_pb2.PredictRequest, version: FakeVersion) -> tfs_pb2.PredictResponse:
        assert request.inputs["index"].dtype == tfs_pb2.DATA_TYPE_INT32
        response = _response(request, version)
        tensor = response.outputs["manifest"]
        tensor.dtype = tfs_pb2.DATA_TYPE_STRING
        tensor.tensor_shape.dim.add(size=1)
        manifest = serialize_manifest(version.manifest)
        if version.tensor_content:
            length = len(manifest)
            while length >= 0x80:
                tensor.tensor_content += bytes([length & 0x7F | 0x80])
                length >>= 7
            tensor.tensor_content += bytes([length]) + manifest
        else:
            tensor.string_val.append(manifest)
        return response

    def _answer(self, request: tfs_pb2.PredictRequest, version: FakeVersion) -> tfs_pb2.PredictResponse:
        tensor = request.inputs["images"]
        assert tensor.dtype == tfs_pb2.DATA_TYPE_UINT8
        pixels = np.frombuffer(tensor.tensor_content, np.uint8).reshape(
            [d.size for d in tensor.tensor_shape.dim]
        )
        outputs = fake_outputs(pixels, version.number, len(version.manifest.classes))
        response = _response(request, version)
        changed = version.change({name: outputs[name] for name in request.output_filter or outputs})
        for name, values in (changed or {}).items():
            output = response.outputs[name]
            output.dtype = tfs_pb2.DATA_TYPE_FLOAT
            for size in values.shape:
                output.tensor_shape.dim.add(size=size)
            if version.tensor_content:
                output.tensor_content = values.astype("<f4").tobytes()
            else:
                output.float_val.extend(values.ravel().tolist())
        return response


def _response(request: tfs_pb2.PredictRequest, version: FakeVersion) -> tfs_pb2.PredictResponse:
    response = tfs_pb2.PredictResponse()
    response.model_spec.name = request.model_spec.name
    response.model_spec.version.value = version.number
    response.model_spec.signature_name = request.model_spec.signature_name or "serving_default"
    return response
