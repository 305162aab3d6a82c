"""What one request is, for each protocol under test: how it is prepared, sent, and its answer read.

Request bytes are made once and sent many times, so that the generator costs little and costs all contenders
the same.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
from neurogate.tfs.v1 import tfs_pb2
from neurogate.v1 import classification_pb2
from neurogate_core.preprocessing import transform

from neurogate_bench.load import Answer

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


class RefusedError(Exception):
    """The server answered with an error; `name` is its status, as short as it can be."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@asynccontextmanager
async def connected(target: str) -> AsyncIterator[grpc.aio.Channel]:
    """A channel with a connection of its own.

    Raises:
        TimeoutError: nobody is there.
    """
    async with grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS) as channel:
        await asyncio.wait_for(channel.channel_ready(), 30)
        yield channel


def answer_of(classification: classification_pb2.Classification, version: int) -> Answer:
    """The first score, which is the highest."""
    if not classification.scores:
        return Answer(-1, 0.0, version)
    best = classification.scores[0]
    return Answer(best.index, best.probability, version)


class _Grpc:
    """A unary method over a connection of its own; requests are bytes that subclasses make once."""

    _path: str
    _response: Any

    def __init__(self, target: str, timeout: float) -> None:
        self._connection = connected(target)
        self._timeout = timeout
        self._requests: list[bytes] = []

    async def open(self) -> None:
        channel = await self._connection.__aenter__()
        self._method = channel.unary_unary(self._path, response_deserializer=self._response.FromString)

    async def close(self) -> None:
        await self._connection.__aexit__(None, None, None)

    async def _call(self, request: bytes) -> Any:  # noqa: ANN401 - each subclass knows its response
        try:
            return await self._method(request, timeout=self._timeout)
        except grpc.aio.AioRpcError as error:
            raise RefusedError(error.code().name) from None


class Classify(_Grpc):
    """Classify: one picture, one answer."""

    _path, _response = CLASSIFY, classification_pb2.ClassifyResponse

    def __init__(self, target: str, images: list[bytes], timeout: float) -> None:
        super().__init__(target, timeout)
        requests = [classification_pb2.ClassifyRequest(image=image) for image in images]
        self._requests = [request.SerializeToString() for request in requests]

    async def send(self, image: int) -> list[Answer]:
        response = await self._call(self._requests[image % len(self._requests)])
        return [answer_of(response.classification, response.model.version)]


class BatchClassify(_Grpc):
    """BatchClassify with `size` pictures a request."""

    _path, _response = BATCH_CLASSIFY, classification_pb2.BatchClassifyResponse

    def __init__(self, target: str, images: list[bytes], timeout: float, size: int) -> None:
        super().__init__(target, timeout)
        for first in range(len(images)):
            batch = [images[(first + offset) % len(images)] for offset in range(size)]
            items = [classification_pb2.BatchClassifyItem(image=image) for image in batch]
            self._requests.append(classification_pb2.BatchClassifyRequest(items=items).SerializeToString())

    async def send(self, image: int) -> list[Answer]:
        response = await self._call(self._requests[image % len(self._requests)])
        # A result without a classification has no scores, and answers no picture.
        return [answer_of(result.classification, response.model.version) for result in response.results]


class Predict(_Grpc):
    """Predict straight to the model server, with tensors made beforehand, or with the transform in each
    call."""

    _path, _response = PREDICT, tfs_pb2.PredictResponse

    def __init__(self, target: str, images: list[bytes], timeout: float, job: dict[str, Any]) -> None:
        super().__init__(target, timeout)
        # Any version's own size may differ; all else of the transform is the project's default.
        self._spec = transform.default_spec(job["side"], job["side"])
        self._images = images
        self._model = job["model"]
        # A plain export takes float32 under the input layer's own name, and has nothing but probabilities.
        self._plain_input: str | None = job.get("plain_input")
        self._pool = ThreadPoolExecutor(2) if job["in_call"] else None
        if not self._pool:
            self._requests = [self._request(self._pixels(number)) for number in range(len(images))]

    def _pixels(self, number: int) -> np.ndarray:
        return transform.transform(self._images[number], self._spec)

    def _request(self, pixels: np.ndarray) -> bytes:
        plain = self._plain_input
        request = tfs_pb2.PredictRequest(
            model_spec=tfs_pb2.ModelSpec(name=self._model, signature_name="serving_default"),
            output_filter=[] if plain else ["probabilities", "ood_score"],
        )
        tensor = request.inputs[plain or "images"]
        tensor.dtype = tfs_pb2.DATA_TYPE_FLOAT if plain else tfs_pb2.DATA_TYPE_UINT8
        for size in (1, *pixels.shape):
            tensor.tensor_shape.dim.add(size=size)
        tensor.tensor_content = (pixels.astype(np.float32) if plain else pixels).tobytes()
        return request.SerializeToString()

    async def close(self) -> None:
        await super().close()
        if self._pool:
            self._pool.shutdown()

    async def send(self, image: int) -> list[Answer]:
        number = image % len(self._images)
        if self._pool:
            loop = asyncio.get_running_loop()
            request = self._request(await loop.run_in_executor(self._pool, self._pixels, number))
        else:
            request = self._requests[number]
        response = await self._call(request)
        name = "probabilities" if "probabilities" in response.outputs else next(iter(response.outputs))
        tensor = response.outputs[name]
        packed = tensor.tensor_content
        values = np.frombuffer(packed, "<f4") if packed else np.array(tensor.float_val)
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


Call = Classify | BatchClassify | Predict | Http
