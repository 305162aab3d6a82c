"""What one request is, for each protocol under test: how it is prepared, sent, and its answer read.

Request bytes are made once and sent many times, so that the generator costs little and costs all contenders
the same.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol, TypeVar

import grpc
import numpy as np
from neurogate.tfs.v1 import tfs_pb2
from neurogate.v1 import classification_pb2, manifest_pb2
from neurogate_core.preprocessing import transform

CLASSIFY = "/neurogate.v1.ClassificationService/Classify"
BATCH_CLASSIFY = "/neurogate.v1.ClassificationService/BatchClassify"
STREAM_CLASSIFY = "/neurogate.v1.ClassificationService/StreamClassify"
PREDICT = "/tensorflow.serving.PredictionService/Predict"
# As the gateway's clients are told to: the largest message that any scenario sends, with room to spare.
CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.use_local_subchannel_pool", 1),
]


class Answer(NamedTuple):
    """What is compared: the winning class, its probability, and the version if the protocol tells it."""

    winner: int
    probability: float
    version: int | None


class RefusedError(Exception):
    """The server answered with an error; `name` is its status, as short as it can be."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Call(Protocol):
    """One kind of request over one connection."""

    async def open(self) -> None:
        """Connects, and fails if nobody is there."""

    async def send(self, image: int) -> list[Answer]:
        """Sends picture number `image` (or a batch beginning with it) and returns the answers in order."""

    async def close(self) -> None:
        """Ends the connection."""


def answer_of(classification: classification_pb2.Classification, version: int) -> Answer:
    """The first score, which is the highest."""
    if not classification.scores:
        return Answer(-1, 0.0, version)
    best = classification.scores[0]
    return Answer(best.index, best.probability, version)


T = TypeVar("T")
_Method = grpc.aio.UnaryUnaryMultiCallable[bytes, T]


class _Grpc:
    def __init__(self, target: str, timeout: float) -> None:
        self._target = target
        self._timeout = timeout
        self._channel: grpc.aio.Channel

    async def open(self) -> None:
        self._channel = grpc.aio.insecure_channel(self._target, options=CHANNEL_OPTIONS)
        await asyncio.wait_for(self._channel.channel_ready(), 30)

    async def close(self) -> None:
        await self._channel.close()

    async def _unary(self, method: _Method[T], request: bytes) -> T:
        try:
            return await method(request, timeout=self._timeout)
        except grpc.aio.AioRpcError as error:
            raise RefusedError(error.code().name) from None


class Classify(_Grpc):
    """Classify: one picture, one answer."""

    def __init__(self, target: str, images: list[bytes], timeout: float) -> None:
        super().__init__(target, timeout)
        self._requests = [
            classification_pb2.ClassifyRequest(image=image).SerializeToString() for image in images
        ]

    async def open(self) -> None:
        await super().open()
        self._method: _Method[classification_pb2.ClassifyResponse] = self._channel.unary_unary(
            CLASSIFY, response_deserializer=classification_pb2.ClassifyResponse.FromString
        )

    async def send(self, image: int) -> list[Answer]:
        response = await self._unary(self._method, self._requests[image % len(self._requests)])
        return [answer_of(response.classification, response.model.version)]


class BatchClassify(_Grpc):
    """BatchClassify with `size` pictures a request."""

    def __init__(self, target: str, images: list[bytes], timeout: float, size: int) -> None:
        super().__init__(target, timeout)
        self._requests = []
        for first in range(len(images)):
            batch = [images[(first + offset) % len(images)] for offset in range(size)]
            items = [classification_pb2.BatchClassifyItem(image=image) for image in batch]
            self._requests.append(classification_pb2.BatchClassifyRequest(items=items).SerializeToString())

    async def open(self) -> None:
        await super().open()
        self._method: _Method[classification_pb2.BatchClassifyResponse] = self._channel.unary_unary(
            BATCH_CLASSIFY, response_deserializer=classification_pb2.BatchClassifyResponse.FromString
        )

    async def send(self, image: int) -> list[Answer]:
        response = await self._unary(self._method, self._requests[image % len(self._requests)])
        version = response.model.version
        return [
            answer_of(result.classification, version)
            if result.HasField("classification")
            else Answer(-1, 0.0, version)
            for result in response.results
        ]


class Predict(_Grpc):
    """Predict straight to the model server: D0 with tensors made beforehand, D1 with the transform in each
    call."""

    def __init__(
        self,
        target: str,
        images: list[bytes],
        timeout: float,
        *,
        side: int,
        in_call: bool,
        model: str,
        dtype: str,
        tensor: str,
    ) -> None:
        super().__init__(target, timeout)
        # Any version's own size may differ; all else of the transform is the project's default.
        self._spec: manifest_pb2.TransformSpec = transform.default_spec(side, side)
        self._images = images
        self._model = model
        self._dtype = dtype
        self._tensor = tensor
        self._pool = ThreadPoolExecutor(2) if in_call else None
        self._ready = [] if in_call else [self._request(self._pixels(image)) for image in images]

    def _pixels(self, image: bytes) -> np.ndarray:
        return transform.transform(image, self._spec)

    def _request(self, pixels: np.ndarray) -> bytes:
        floats = self._dtype == "float32"
        content = pixels.astype(np.float32) if floats else pixels
        request = tfs_pb2.PredictRequest(
            model_spec=tfs_pb2.ModelSpec(name=self._model, signature_name="serving_default"),
            output_filter=[] if floats else ["probabilities", "ood_score"],
        )
        tensor = request.inputs[self._tensor]
        tensor.dtype = tfs_pb2.DATA_TYPE_FLOAT if floats else tfs_pb2.DATA_TYPE_UINT8
        for size in (1, *pixels.shape):
            tensor.tensor_shape.dim.add(size=size)
        tensor.tensor_content = content.tobytes()
        return request.SerializeToString()

    async def open(self) -> None:
        await super().open()
        self._method: _Method[tfs_pb2.PredictResponse] = self._channel.unary_unary(
            PREDICT, response_deserializer=tfs_pb2.PredictResponse.FromString
        )

    async def close(self) -> None:
        await super().close()
        if self._pool is not None:
            self._pool.shutdown()

    async def send(self, image: int) -> list[Answer]:
        number = image % len(self._images)
        if self._pool is None:
            request = self._ready[number]
        else:
            loop = asyncio.get_running_loop()
            pixels = await loop.run_in_executor(self._pool, self._pixels, self._images[number])
            request = self._request(pixels)
        response = await self._unary(self._method, request)
        name = "probabilities" if "probabilities" in response.outputs else next(iter(response.outputs))
        tensor = response.outputs[name]
        values = (
            np.frombuffer(tensor.tensor_content, "<f4")
            if tensor.tensor_content
            else np.array(tensor.float_val)
        )
        index = int(values.argmax())
        return [Answer(index, float(values[index]), response.model_spec.version.value)]


_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_IDLE_SECONDS = 1.0


class Http:
    """POST over one kept-alive HTTP/1.1 connection per request in flight, as small as such a client can
    be."""

    def __init__(self, target: str, images: list[bytes], timeout: float, *, path: str, body: str) -> None:
        self._host, _, port = target.partition(":")
        self._port = int(port)
        self._timeout = timeout
        self._idle: list[tuple[float, _Connection]] = []
        self._requests = []
        for image in images:
            encoded = (
                image if body == "bytes" else json.dumps({"image": base64.b64encode(image).decode()}).encode()
            )
            kind = "application/octet-stream" if body == "bytes" else "application/json"
            head = f"POST {path} HTTP/1.1\r\nHost: {target}\r\nContent-Type: {kind}\r\n"
            self._requests.append(f"{head}Content-Length: {len(encoded)}\r\n\r\n".encode() + encoded)

    async def open(self) -> None:
        self._idle.append((time.monotonic(), await self._connect()))

    async def close(self) -> None:
        while self._idle:
            self._idle.pop()[1][1].close()

    async def _connect(self) -> _Connection:
        # Servers close connections that nobody has used for some seconds, as between two bursts.
        while self._idle:
            since, connection = self._idle.pop()
            if time.monotonic() - since < _IDLE_SECONDS:
                return connection
            connection[1].close()
        return await asyncio.open_connection(self._host, self._port)

    async def send(self, image: int) -> list[Answer]:
        connection = await self._connect()
        try:
            async with asyncio.timeout(self._timeout):
                status, body = await self._exchange(connection, self._requests[image % len(self._requests)])
        except BaseException:
            connection[1].close()
            raise
        self._idle.append((time.monotonic(), connection))
        if status != 200:
            raise RefusedError(f"HTTP {status}")
        reply = json.loads(body)
        return [Answer(int(reply["index"]), float(reply["probability"]), None)]

    async def _exchange(self, connection: _Connection, request: bytes) -> tuple[int, bytes]:
        reader, writer = connection
        writer.write(request)
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").lower().split("\r\n")
        lengths = [line.partition(":")[2] for line in lines if line.startswith("content-length:")]
        return int(lines[0].split()[1]), await reader.readexactly(int(lengths[0]))
