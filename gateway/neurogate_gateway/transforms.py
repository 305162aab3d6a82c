"""The transform on a sized pool of threads, so that decoding neither blocks the loop nor takes every core."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from neurogate.v1 import manifest_pb2
from neurogate_serving.transform import TransformError, default_spec, transform, upright_size
from PIL import Image

from .error_table import TABLE
from .overlay import Overlay, render_overlay

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, slots=True)
class Transformed:
    """Pixels, uint8 [height, width, 3], and the seconds that they waited for a thread and took."""

    pixels: npt.NDArray[np.uint8]
    queue_seconds: float
    transform_seconds: float


class TransformPool:
    """Threads that decode and resize. What is cancelled before its turn is never begun."""

    def __init__(self, threads: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="transform")

    def close(self) -> None:
        """Drops what has not begun."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def run(self, image: bytes, spec: manifest_pb2.TransformSpec) -> Transformed:
        """The pixels of one encoded image.

        Raises:
            GatewayError: The image is refused, with the transform's reason.
        """
        asked = time.perf_counter()

        def work() -> Transformed:
            begun = time.perf_counter()
            pixels = transform(image, spec)
            return Transformed(pixels, begun - asked, time.perf_counter() - begun)

        return await self._in_thread(work)

    async def draw(
        self,
        image: bytes,
        spec: manifest_pb2.TransformSpec,
        values: npt.NDArray[np.float32],
        overlay: Overlay,
    ) -> bytes:
        """A map, f32 [h, w], over an image that the transform has accepted, as PNG.

        The picture shows the image as the transform reads it, only larger.

        Raises:
            GatewayError: The image is refused, with the transform's reason.
        """

        def work() -> bytes:
            larger = manifest_pb2.TransformSpec()
            larger.CopyFrom(spec)
            larger.width, larger.height = overlay.picture_size(*upright_size(image))
            return render_overlay(transform(image, larger), values, (spec.width, spec.height), overlay)

        return await self._in_thread(work)

    async def thumbnail(self, image: bytes, longest_side: int) -> bytes:
        """A small JPEG of an image that a transform has accepted, as it is shown.

        Raises:
            GatewayError: The image is refused, with the transform's reason.
        """

        def work() -> bytes:
            width, height = upright_size(image)
            scale = min(1.0, longest_side / max(width, height))
            spec = default_spec(max(1, round(width * scale)), max(1, round(height * scale)))
            file = io.BytesIO()
            Image.fromarray(transform(image, spec)).save(file, "JPEG", quality=80)
            return file.getvalue()

        return await self._in_thread(work)

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, work)
        except TransformError as error:
            raise TABLE[error.reason](str(error), field="image") from error
