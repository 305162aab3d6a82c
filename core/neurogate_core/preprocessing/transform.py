"""Encoded image bytes to the pixels that a model sees: the only decode and resize in the project.

Training and serving both call `transform`, so a model never meets pixels in production that were made in
another way than those that it learnt from. docs/transform.md defines the result for every kind of image.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import sys
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
from neurogate.v1 import manifest_pb2
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from ._containers import Container, describe_foreign, reduce_container, sniff
from ._pixels import Samples, flatten, gray_samples, picture
from .dicom import decode_dicom
from .errors import (
    FrameOutOfRangeError,
    ImageCorruptError,
    ImageEmptyError,
    ImageFormatUnsupportedError,
    ImageTooManyPixelsError,
)
from .errors import TransformError as TransformError  # noqa: PLC0414 - callers find it beside `transform`

TRANSFORM_REVISION: Final = 2
"""Revision of what new versions are trained with; any change of a resulting pixel raises it."""

REVISIONS: Final = (1, 2)
"""Every revision that this module computes: the present and the one before, so that an upgrade serves on."""

FORMATS: Final = ("BMP", "DICOM", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""Every container that a specification may accept."""

DEFAULT_MAX_PIXELS: Final = 50_000_000
MAX_PIXELS_CEILING: Final = 89_000_000
"""Largest `max_pixels` of a specification; above it Pillow begins to warn and to refuse by itself."""

MAX_SIDE: Final = 65_535
"""Longest side of an image in pixels: the resize needs memory for each pixel of a side."""

MAX_TARGET_SIDE: Final = 4_096
"""Longest side of a result in pixels."""

Pixels = npt.NDArray[np.uint8]

_DECODERS: dict[str, type[ImageFile.ImageFile]] = {
    "BMP": BmpImageFile,
    "GIF": GifImageFile,
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "TIFF": TiffImageFile,
    "WEBP": WebPImageFile,
}
_FILTERS = {
    manifest_pb2.RESAMPLING_BILINEAR: Image.Resampling.BILINEAR,
    manifest_pb2.RESAMPLING_BICUBIC: Image.Resampling.BICUBIC,
    manifest_pb2.RESAMPLING_BOX: Image.Resampling.BOX,
    manifest_pb2.RESAMPLING_LANCZOS: Image.Resampling.LANCZOS,
}
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LYING = frozenset({5, 6, 7, 8})


def default_spec(width: int = 224, height: int = 224) -> manifest_pb2.TransformSpec:
    """What new models use: colour, bilinear, JPEG draft scaling, every format, up to 50 million pixels."""
    return manifest_pb2.TransformSpec(
        revision=TRANSFORM_REVISION,
        width=width,
        height=height,
        color_mode=manifest_pb2.COLOR_MODE_RGB,
        resampling=manifest_pb2.RESAMPLING_BILINEAR,
        jpeg_draft=True,
        max_pixels=DEFAULT_MAX_PIXELS,
        formats=FORMATS,
    )


def check_spec(spec: manifest_pb2.TransformSpec) -> None:
    """Refuses a specification that this code cannot follow to the letter.

    Raises:
        ValueError: The message names the field, its value and the accepted ones.
    """
    if spec.revision not in REVISIONS:
        known = " and ".join(map(str, REVISIONS))
        raise ValueError(f"transform.revision is {spec.revision}, this code implements {known}")
    for name, side in (("width", spec.width), ("height", spec.height)):
        if not 1 <= side <= MAX_TARGET_SIDE:
            raise ValueError(f"transform.{name} is {side}, expected 1 to {MAX_TARGET_SIDE}")
    if spec.color_mode not in {manifest_pb2.COLOR_MODE_RGB, manifest_pb2.COLOR_MODE_GRAY}:
        raise ValueError(
            f"transform.color_mode is {spec.color_mode}, expected COLOR_MODE_RGB or COLOR_MODE_GRAY"
        )
    if spec.resampling not in _FILTERS:
        names = ", ".join(manifest_pb2.Resampling.Name(value) for value in _FILTERS)
        raise ValueError(f"transform.resampling is {spec.resampling}, expected one of {names}")
    if not 1 <= spec.max_pixels <= MAX_PIXELS_CEILING:
        raise ValueError(f"transform.max_pixels is {spec.max_pixels}, expected 1 to {MAX_PIXELS_CEILING}")
    formats = tuple(spec.formats)
    if formats != FORMATS and (not formats or formats != tuple(name for name in FORMATS if name in formats)):
        raise ValueError(
            f"transform.formats is {list(formats)}, expected a sorted selection of {', '.join(FORMATS)}"
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded image before it is resized.

    Attributes:
        image: Upright, of mode "L" or "RGB", at its own size or a JPEG draft's.
        attributes: Of a DICOM file, what is kept of its header, by DICOM's keywords; of others nothing.
    """

    image: Image.Image
    attributes: Mapping[str, str]


def transform(
    data: bytes, spec: manifest_pb2.TransformSpec, frame: int = 0, *, allow_burned_in: bool = False
) -> Pixels:
    """The pixels of one encoded image, as the specification defines them: what `decode` gives, resized.

    Safe to call from many threads at once; decoding and resizing run without the interpreter lock.

    Returns:
        uint8 [height, width, 3], read-only, in row order.

    Raises:
        TransformError: As `decode` does; and what else that raises.
    """
    return resize(decode(data, spec, frame, allow_burned_in=allow_burned_in).image, spec)


def decode(
    data: bytes, spec: manifest_pb2.TransformSpec, frame: int = 0, *, allow_burned_in: bool = False
) -> Decoded:
    """One encoded image, decoded as the specification defines it.

    Args:
        data: The image file's bytes.
        spec: What to make of them (`check_spec` says what it may hold).
        frame: Number of the frame, from 1; 0 for the only one of a DICOM file, or the first of others.
        allow_burned_in: Whether to read DICOM images that say that a person's data are drawn into them.

    Raises:
        TransformError: The image is refused; `reason` says why in one word, the message in a sentence.
        TypeError: `data` is not bytes.
        ValueError: The specification is not one that this code can follow.
        MemoryError: The machine, not the image, is at fault.
    """
    if not isinstance(data, bytes):
        raise TypeError(f"the image must be bytes, not {type(data).__name__}")
    check_spec(spec)
    if not data:
        raise ImageEmptyError(f"the image is empty (0 bytes), expected {_names(spec)}")
    name = sniff(data)
    if name is None:
        raise ImageFormatUnsupportedError(
            f"not an accepted image: found {describe_foreign(data)}, expected {_names(spec)}"
        )
    if name not in spec.formats:
        raise ImageFormatUnsupportedError(f"not an accepted image: found {name}, expected {_names(spec)}")
    if frame < 0:
        raise FrameOutOfRangeError(f"frame {frame} is asked for, frames count from 1")
    if name == "DICOM":
        levels, attributes = decode_dicom(
            data, frame, max_pixels=spec.max_pixels, max_side=MAX_SIDE, allow_burned_in=allow_burned_in
        )
        return Decoded(Image.fromarray(levels), attributes)
    if frame > 1:
        raise FrameOutOfRangeError(f"frame {frame} is asked for, of {name} images only the first is read")
    container = reduce_container(name, data)
    _check_size(container.size, spec)
    try:
        upright = _decode(container, spec)
        again = None
        if container.again is not None:
            again = _decode(dataclasses.replace(container, data=container.again), spec)
    except (TransformError, MemoryError):
        raise
    except Exception as error:
        # Decoders let through whatever their parsing met: OSError, SyntaxError, struct.error, zlib.error,
        # OverflowError, … and which one differs between releases. All mean the same to the caller.
        detail = str(error) or type(error).__name__
        raise ImageCorruptError(f"{name} image of {len(data)} bytes cannot be decoded: {detail}") from error
    if again is not None and upright.tobytes() != again.tobytes():
        raise ImageCorruptError("JPEG image is truncated: it has no end marker, and pixels are missing")
    return Decoded(upright, {})


def upright_size(data: bytes) -> tuple[int, int]:
    """Width and height of an image as it is shown, by its header alone.

    Args:
        data: An image that a transform has accepted. Anything else counts as a square; so does a DICOM file,
            whose header is not read in this process.
    """
    try:
        container = reduce_container(sniff(data) or "", data)
    except (TransformError, KeyError):
        return 1024, 1024
    width, height = container.size
    return (height, width) if container.orientation in _LYING else (width, height)


def pixels_digest(pixels: Pixels) -> str:
    """Hex SHA-256 of the pixels in row order, by which goldens compare transforms."""
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def _names(spec: manifest_pb2.TransformSpec) -> str:
    *others, last = spec.formats
    return f"{', '.join(others)} or {last}" if others else last


def _check_size(size: tuple[int, int], spec: manifest_pb2.TransformSpec) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageCorruptError(f"the image's header says {width} x {height} pixels")
    if width * height > spec.max_pixels:
        raise ImageTooManyPixelsError(
            f"the image has {width} x {height} = {width * height} pixels, expected at most {spec.max_pixels}"
        )
    if max(width, height) > MAX_SIDE:
        raise ImageTooManyPixelsError(
            f"the image has {width} x {height} pixels, expected at most {MAX_SIDE} a side"
        )


def _open(container: Container) -> ImageFile.ImageFile:
    try:
        return _DECODERS[container.format](io.BytesIO(container.data))
    except (OSError, SyntaxError) as error:
        if container.format not in {"BMP", "TIFF"}:
            raise
        # Their headers were found sound, so what is wrong with them is their combination of values.
        raise ImageFormatUnsupportedError(
            f"{container.format} image of a kind that is not read: {error}"
        ) from error


def _decode(container: Container, spec: manifest_pb2.TransformSpec) -> Image.Image:
    """The upright image at its own size (or a draft's), of mode "L" or "RGB"."""
    flat = _flat(container, spec)
    turn = _UPRIGHT.get(container.orientation)
    return flat if turn is None else flat.transpose(turn)


def _flat(container: Container, spec: manifest_pb2.TransformSpec) -> Image.Image:
    """The image as it lies in the file, of mode "L" or "RGB"."""
    with _open(container) as image:
        # The decoder may have found another header than the walk did.
        _check_size(image.size, spec)
        if isinstance(image, JpegImageFile) and spec.jpeg_draft:
            lying = container.orientation in _LYING
            image.draft(None, (spec.height, spec.width) if lying else (spec.width, spec.height))
        raw_mode, key = _raw_mode(image), image.info.get("transparency")
        if image.mode in {"RGB", "RGBA"} and raw_mode.endswith((";16B", ";16L", ";16N")):
            samples, alpha = _samples_of_16_bits(container, raw_mode)
            shown = None if key is None else (samples != key).any(axis=2)
            return picture(samples, alpha, revision=spec.revision, shown=shown)
        image.load()
        if not image.mode.startswith("I") and image.mode != "F":
            return flatten(image)
        samples = gray_samples(image, unsigned=raw_mode == "I;32N", inverted=container.inverted)
        return picture(samples, revision=spec.revision, shown=None if key is None else samples != key)


def _raw_mode(image: ImageFile.ImageFile) -> str:
    args = image.tile[0].args if image.tile else ""
    return str(args[0] if isinstance(args, tuple) else args)


def _samples_of_16_bits(container: Container, raw_mode: str) -> tuple[Samples, Pixels | None]:
    """Colours, or gray beside alpha, uint16 [h, w, c], and alpha; Pillow reads one byte of each at a time."""

    def decoded(other: str) -> Pixels:
        with _open(container) as image:
            image.tile = [
                tile._replace(args=(other, *tile.args[1:]) if isinstance(tile.args, tuple) else other)
                for tile in image.tile
            ]
            image.load()
            return np.asarray(image)

    if raw_mode == "LA;16B":
        stored = decoded("RGBA")
        return stored[:, :, :1] * np.uint16(256) + stored[:, :, 1:2], stored[:, :, 2]
    little = raw_mode[-1] == "L" or (raw_mode[-1] == "N" and sys.byteorder == "little")
    high, low = (decoded(raw_mode[:-1] + order) for order in ("LB" if little else "BL"))
    samples = high[:, :, :3].astype(np.uint16)
    samples <<= 8
    samples |= low[:, :, :3]
    return samples, high[:, :, 3] if high.shape[2] == 4 else None


def resize(image: Image.Image, spec: manifest_pb2.TransformSpec) -> Pixels:
    """A decoded image as the pixels that the specification asks for."""
    if spec.color_mode == manifest_pb2.COLOR_MODE_GRAY and image.mode != "L":
        image = image.convert("L")
    # The filters treat each channel alone, so gray is resized once and repeated.
    resized = np.asarray(image.resize((spec.width, spec.height), _FILTERS[spec.resampling]))
    if resized.ndim == 2:
        pixels = np.empty((*resized.shape, 3), np.uint8)
        for channel in range(3):  # thrice as fast as one assignment to all channels
            pixels[:, :, channel] = resized
    else:
        pixels = np.ascontiguousarray(resized)
    pixels.flags.writeable = False
    return pixels
