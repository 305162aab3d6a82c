"""The transform on sized pools of threads, so that decoding neither blocks the loop nor takes every core.

DICOM files have threads of their own, which wait for the processes that decode them: however long those take,
no other image waits behind them.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import io
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from neurogate.v1 import manifest_pb2
from neurogate_core.preprocessing.dicom import CHILDREN, close_decoders, is_dicom
from neurogate_core.preprocessing.privacy import deidentified
from neurogate_core.preprocessing.transform import (
    FORMATS,
    TransformError,
    decode,
    default_spec,
    resize,
    transform,
    upright_size,
)
from PIL import Image

from neurogate_gateway.errors import GatewayError, reason_of

from .explain import Overlay, render_overlay

_T = TypeVar("_T")


class Submitted(NamedTuple):
    """An encoded image as a caller sent it, and the number of the frame that is meant; 0 for none named."""

    data: bytes
    frame: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Transformed:
    """What became of an encoded image.

    Attributes:
        pixels: uint8 [height, width, 3].
        image: What stands for the image from now on, encoded: its own bytes, or, of a DICOM file, the frame's
            picture, so that nothing of the file goes on.
        attributes: Of a DICOM file, what may be said of it, by DICOM's keywords; of others nothing.
        transform_seconds: Time that the transform took.
    """

    pixels: npt.NDArray[np.uint8]
    image: bytes
    attributes: Mapping[str, str]
    transform_seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class Storable:
    """What may be kept of an image, hex SHA-256 of that and of the image, and its size as it is shown.

    Attributes:
        attributes: As `Transformed` has them.
    """

    data: bytes
    sha256: str
    sent_sha256: str
    width: int
    height: int
    attributes: Mapping[str, str]


class TransformPool:
    """Threads that decode and resize. What is cancelled before its turn is never begun."""

    def __init__(self, threads: int, *, allow_burned_in: bool = False) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="transform")
        # One for each process that decodes. Neither is started before there is something to do.
        self._dicom = ThreadPoolExecutor(CHILDREN, thread_name_prefix="dicom")
        self._allow_burned_in = allow_burned_in

    def close(self) -> None:
        """Drops what has not begun, and ends the processes that decode."""
        for executor in (self._executor, self._dicom):
            executor.shutdown(wait=False, cancel_futures=True)
        close_decoders()

    async def pixels(self, image: bytes, spec: manifest_pb2.TransformSpec) -> npt.NDArray[np.uint8]:
        """The pixels alone, uint8 [height, width, 3]; otherwise as `run`."""
        return (await self.run(image, spec)).pixels

    async def run(self, image: bytes, spec: manifest_pb2.TransformSpec, frame: int = 0) -> Transformed:
        """The pixels of one encoded image.

        Args:
            image: Encoded.
            spec: The version's transform.
            frame: Number of the frame, from 1; 0 where none is named.

        Raises:
            GatewayError: The image is refused, with the transform's reason.
        """

        def work() -> Transformed:
            begun = time.perf_counter()
            decoded = decode(image, spec, frame, allow_burned_in=self._allow_burned_in)
            pixels = resize(decoded.image, spec)
            stand_in = _encoded(decoded.image, "BMP") if decoded.attributes else image
            return Transformed(pixels, stand_in, decoded.attributes, time.perf_counter() - begun)

        return await self._in_thread(work, self._dicom if is_dicom(image) else self._executor)

    async def storable(self, image: bytes, spec: manifest_pb2.TransformSpec, frame: int = 0) -> Storable:
        """What may be kept of an image that this transform accepts.

        Raises:
            GatewayError: The image is refused, with the transform's reason.
        """
        accepted = await self.run(image, spec, frame)

        def work() -> Storable:
            kept = deidentified(accepted.image)
            sha256, sent_sha256 = (hashlib.sha256(data).hexdigest() for data in (kept, image))
            return Storable(kept, sha256, sent_sha256, *upright_size(kept), accepted.attributes)

        return await self._in_thread(work)

    async def draw(
        self,
        image: bytes,
        spec: manifest_pb2.TransformSpec,
        values: npt.NDArray[np.float32],
        overlay: Overlay,
    ) -> bytes:
        """A map, f32 [h, w], over an image that the transform has accepted (`Transformed.image`), as PNG.

        The picture shows the image as the transform reads it, only larger.

        Raises:
            GatewayError: The image is refused, with the transform's reason.
        """

        def work() -> bytes:
            larger = manifest_pb2.TransformSpec()
            larger.CopyFrom(spec)
            # What stands for a DICOM file is of another format.
            larger.formats[:] = FORMATS
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
            return _encoded(Image.fromarray(transform(image, spec)), "JPEG", quality=80)

        return await self._in_thread(work)

    async def _in_thread(self, work: Callable[[], _T], executor: ThreadPoolExecutor | None = None) -> _T:
        try:
            return await asyncio.get_running_loop().run_in_executor(executor or self._executor, work)
        except TransformError as error:
            field = "frame" if error.reason.startswith("FRAME") else "image"
            raise GatewayError(reason_of(error.reason), str(error), field=field) from error


def _encoded(image: Image.Image, container: str, **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, container, **options)
    return file.getvalue()
