"""Hundreds of variants of each container, against readers that share no code with the transform.

Two outcomes are right: the pixels that the other reader gives, or a refusal by name. Another picture, or a
sound file that is called damaged, is not.
"""

from __future__ import annotations

import io
import itertools
import struct
from collections import Counter
from collections.abc import Callable, Iterator

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from neurogate_core.preprocessing.errors import ImageFormatUnsupportedError
from neurogate_core.preprocessing.transform import TransformError, default_spec, transform
from neurogate_testing import images
from PIL import Image

WIDTH, HEIGHT = 61, 47
SPEC = default_spec(WIDTH, HEIGHT)
Array = np.ndarray
WINDOWS: dict[object, Array] = {}
Variants = Iterator[tuple[str, bytes, Array, float]]  # name, file, picture, tolerance


def window(samples: Array, counted: Array | None = None) -> Array:
    """The rule of docs/transform.md, written down a second time, with sorting and exact integers."""
    # Many variants store the same samples.
    samples = samples.astype(samples.dtype.newbyteorder("="))
    key = (
        samples.dtype.str,
        samples.shape,
        samples.tobytes(),
        None if counted is None else counted.tobytes(),
    )
    if key not in WINDOWS:
        WINDOWS[key] = _window(samples, counted)
    return WINDOWS[key]


def _window(samples: Array, counted: Array | None) -> Array:
    values = (samples if counted is None else samples[counted]).reshape(-1)
    kept = sorted(v.item() for v in values if np.isfinite(v))
    black = kept[min(-(-len(kept) // 100), len(kept) - 1)]
    above = [v for v in kept if v > black]
    if not above:
        return np.zeros(samples.shape, np.uint8)
    white = above[max(len(above) - 1 - -(-len(above) // 200), 0)]

    def level(sample: float) -> int:
        share = min(max(sample, black), white) - black
        if isinstance(sample, int):
            return (510 * share + white - black) // (2 * (white - black))
        return int(np.floor(255.0 * float(share) / float(white - black) + 0.5)) if share == share else 0

    table = {v: level(v) for v in set(samples.reshape(-1).tolist())}
    return np.array([table[v] for v in samples.reshape(-1).tolist()], np.uint8).reshape(samples.shape)


def expected(samples: Array, *, alpha: Array | None = None, down: bool = False) -> Array:
    """Float [h, w, 3] of what a sound reader decoded; `down` says that it counts from white to black."""
    if down:
        samples = ~samples if samples.dtype.kind in "iu" else -samples
    if samples.dtype == bool:
        samples = samples.astype(np.uint8) * 255
    visible = None if alpha is None or not alpha.any() else alpha
    if samples.dtype != np.uint8:
        samples = window(samples, None if visible is None else visible > 0)
    colors = samples if samples.ndim == 3 else np.repeat(samples[:, :, np.newaxis], 3, axis=2)
    if visible is None:
        return colors.astype(float)
    return colors * (visible.astype(float) / np.iinfo(visible.dtype).max)[:, :, np.newaxis]


def verdict(data: bytes, right: Array, tolerance: float = 0.0) -> str:
    try:
        pixels = transform(data, SPEC)
    except ImageFormatUnsupportedError:
        return "refused by name"
    except TransformError as error:
        return f"{error.reason}: {error}"
    difference = np.abs(pixels - right).max()
    return "equal" if difference <= tolerance else f"differs by {difference}"


GRAY = np.asarray(images.picture("L"))
COLORS = images.pattern()


def of_kind(eight: Array, dtype: str) -> Array:
    """The 8-bit picture in the whole range of a kind of number, or as raw values of a scanner."""
    match dtype:
        case "u1":
            return eight
        case "i1":
            return (eight.astype(int) - 128).astype(np.int8)
        case "i2" | "i4":
            return (eight.astype(int) * 9 - 300).astype(dtype)
        case "u2" | "u4":
            return (eight.astype(int) * 21 + 3).astype(dtype)
        case _:
            return (eight / 255 * 3 - 0.25).astype(dtype)


def tiff_file(samples: Array, order: str, **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, samples, byteorder=order, metadata=None, **options)
    return file.getvalue()


def tiffs() -> Variants:
    compressions = [
        (None, None),
        ("lzw", None),
        ("lzw", True),
        ("zlib", None),
        ("zlib", True),
        ("packbits", None),
    ]
    layouts = [{}, {"rowsperstrip": 5}, {"tile": (16, 32)}]
    kinds = ["minisblack", "miniswhite", "contig", "separate"]
    dtypes = ["u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8"]
    for order, dtype, (compression, predictor), layout, kind in itertools.product(
        "<>", dtypes, compressions, layouts, kinds
    ):
        if predictor and dtype == "f8":
            continue
        gray = kind.startswith("mini")
        if not gray and dtype not in {"u1", "u2", "f4"}:
            continue
        samples = of_kind(GRAY if gray else COLORS, dtype)
        if kind == "separate":
            samples = np.ascontiguousarray(samples.transpose(2, 0, 1))
        options = {"compression": compression, "predictor": predictor, **layout}
        options |= {"photometric": kind} if gray else {"photometric": "rgb", "planarconfig": kind}
        data = tiff_file(samples, order, **options)
        read = tifffile.imread(io.BytesIO(data))
        read = read.transpose(1, 2, 0) if kind == "separate" else read
        name = f"{order} {dtype} {compression} {predictor} {layout} {kind}"
        yield name, data, expected(read, down=kind == "miniswhite"), 0.0


def tiffs_with_alpha() -> Variants:
    for order, compression, dtype, color, meaning, planar, visible in itertools.product(
        "<>",
        (None, "lzw", "zlib"),
        ("u1", "u2"),
        (False, True),
        ("unassalpha", "assocalpha", "unspecified"),
        ("contig", "separate"),
        (True, False),
    ):
        colors = of_kind(COLORS if color else GRAY[:, :, np.newaxis], dtype)
        largest = np.iinfo(colors.dtype).max
        alpha = (np.where(GRAY > 90, largest, largest // 5 * (GRAY > 40)) * visible).astype(colors.dtype)
        samples = np.concatenate([colors, alpha[:, :, np.newaxis]], axis=2)
        stored = np.ascontiguousarray(samples.transpose(2, 0, 1)) if planar == "separate" else samples
        options = {"photometric": "rgb" if color else "minisblack", "planarconfig": planar}
        data = tiff_file(stored, order, compression=compression, extrasamples=[meaning], **options)
        right = expected(
            colors if color else colors[:, :, 0], alpha=alpha if meaning == "unassalpha" else None
        )
        yield f"{order} {compression} {dtype} {color} {meaning} {planar} {visible}", data, right, 1.0


def odd_tiffs() -> Variants:
    palette = np.random.default_rng(3).integers(0, 65_536, (3, 256)).astype(np.uint16)
    for order, compression in itertools.product("<>", (None, "lzw", "zlib", "packbits")):
        data = tiff_file(GRAY, order, photometric="palette", colormap=palette, compression=compression)
        yield f"palette {order} {compression}", data, (palette.T >> 8)[GRAY].astype(float), 0.0
    for compression in ("zstd", "lzma", "jpeg2000", "webp", "lerc", "jpegxl", "png"):
        try:
            data = tiff_file(COLORS, "<", photometric="rgb", compression=compression)
        except (ValueError, TypeError, imagecodecs.DelayedImportError):
            continue
        yield compression, data, COLORS.astype(float), 0.0
    for photometric, samples in (("rgb", COLORS), ("minisblack", GRAY), ("ycbcr", COLORS)):
        data = tiff_file(samples, "<", photometric=photometric, compression="jpeg", rowsperstrip=16)
        yield f"jpeg {photometric}", data, expected(tifffile.imread(io.BytesIO(data))), 3.0
        tiled = tiff_file(samples, "<", photometric=photometric, compression="jpeg", tile=(16, 32))
        yield f"jpeg tiles {photometric}", tiled, expected(tifffile.imread(io.BytesIO(tiled))), 3.0
    for order, bits, photometric, fill in itertools.product("<>", (1, 2, 4, 12), (0, 1), (1, 2)):
        counts = (GRAY.astype(int) * (2**bits - 1) // 255).astype(np.uint16 if bits > 8 else np.uint8)
        packed = b"".join(imagecodecs.packints_encode(row, bits) for row in counts)
        if fill == 2:
            packed = imagecodecs.bitorder_encode(packed)
        tags = images.tiff_tags(
            WIDTH, HEIGHT, bits, t262=(3, [photometric]), t266=(3, [fill]), t279=(4, [len(packed)])
        )
        levels = counts if photometric else 2**bits - 1 - counts
        right = window(levels) if bits == 12 else (levels.astype(int) * 255 // (2**bits - 1)).astype(np.uint8)
        yield (
            f"{bits} bits {order} {photometric} {fill}",
            images.tiff(tags, packed, order=order),
            expected(right),
            0.0,
        )


def pngs() -> Variants:
    for depth, color, interlaced, filters, visible in itertools.product(
        (1, 2, 4, 8, 16), (0, 2, 3, 4, 6), (False, True), (0, 1, 2, 3, 4), (True, False)
    ):
        if (color == 3 and depth == 16) or (color in {2, 4, 6} and depth < 8) or (color < 4 and not visible):
            continue
        channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
        source = COLORS if channels > 2 else GRAY[:, :, np.newaxis]
        if depth == 16:
            samples = source.astype(np.uint16) * 13 + 70
        else:
            samples = (source.astype(int) * (2**depth - 1) // 255).astype(np.uint8)
        largest = 2**depth - 1
        alpha = (np.where(GRAY > 90, largest, largest // 5) * visible).astype(samples.dtype)
        stored = samples if color < 4 else np.concatenate([samples, alpha[:, :, np.newaxis]], axis=2)
        chunks = [images.png_header(WIDTH, HEIGHT, depth, color, int(interlaced))]
        palette = np.random.default_rng(5).integers(0, 256, (2 ** min(depth, 8), 3)).astype(np.uint8)
        if color == 3:
            chunks.append((b"PLTE", palette.tobytes()))
        chunks += [(b"IDAT", imagecodecs.zlib_encode(png_passes(stored, depth, interlaced, filters)))]
        data = images.png([*chunks, (b"IEND", b"")])
        flat = samples[:, :, 0] if channels <= 2 else samples
        if color == 3:
            right = palette[flat].astype(float)
        elif depth == 16:
            right = expected(flat, alpha=alpha if color >= 4 else None)
        else:
            eight = (flat.astype(int) * 255 // largest).astype(np.uint8)
            right = expected(eight, alpha=alpha if color >= 4 else None)
        name = f"{depth} {color} {interlaced} {filters} {visible}"
        if depth >= 8 and color in {0, 2, 6}:
            assert (cv2_read(data) == stored.squeeze()).all(), name
        yield name, data, right, 1.0 if color >= 4 else 0.0


def cv2_read(data: bytes) -> Array:
    """OpenCV's reading, with its channels in the order that all others use."""
    read = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if read.ndim == 3:
        read = read[:, :, [2, 1, 0, *range(3, read.shape[2])]]
    return read


def png_passes(samples: Array, depth: int, interlaced: bool, filter_type: int) -> bytes:
    steps = [(0, 0, 1, 1)]
    if interlaced:
        steps = [
            (0, 0, 8, 8),
            (0, 4, 8, 8),
            (4, 0, 8, 4),
            (0, 2, 4, 4),
            (2, 0, 4, 2),
            (0, 1, 2, 2),
            (1, 0, 2, 1),
        ]
    return b"".join(png_filtered(samples[y::dy, x::dx], depth, filter_type) for y, x, dy, dx in steps)


def png_filtered(samples: Array, depth: int, filter_type: int) -> bytes:
    height, width, channels = samples.shape
    if not height or not width:
        return b""
    flat = samples.reshape(height, width * channels)
    if depth == 16:
        rows = flat.astype(">u2").view(np.uint8).astype(int)
    elif depth == 8:
        rows = flat.astype(int)
    else:
        packed = [
            np.frombuffer(imagecodecs.packints_encode(np.ascontiguousarray(row), depth), np.uint8)
            for row in flat
        ]
        rows = np.array(packed).astype(int)
    step = max(1, channels * depth // 8)
    left = np.pad(rows, ((0, 0), (step, 0)))[:, : rows.shape[1]]
    up = np.pad(rows, ((1, 0), (0, 0)))[:height]
    corner = np.pad(left, ((1, 0), (0, 0)))[:height]
    guess = left + up - corner
    distances = np.stack([abs(guess - left), abs(guess - up), abs(guess - corner)])
    paeth = np.choose(distances.argmin(axis=0), [left, up, corner])
    predicted = [0 * rows, left, up, (left + up) // 2, paeth][filter_type]
    filtered = ((rows - predicted) % 256).astype(np.uint8)
    return b"".join(bytes([filter_type]) + row.tobytes() for row in filtered)


def bmps() -> Variants:
    masks = {
        (16, 3): [(0xF800, 0x7E0, 0x1F, 0), (0x7C00, 0x3E0, 0x1F, 0), (0xF000, 0xF00, 0xF0, 0)],
        (32, 3): [
            (0xFF0000, 0xFF00, 0xFF, 0),
            (0xFF, 0xFF00, 0xFF0000, 0),
            (0xFF0000, 0xFF00, 0xFF, 0xFF000000),
            (0x3FF00000, 0xFFC00, 0x3FF, 0),
        ],
    }
    for header, (bits, compression), down, visible in itertools.product(
        (12, 40, 52, 56, 108, 124), [(24, 0), (32, 0), (16, 0), *masks], (False, True), (True, False)
    ):
        if header == 12 and (compression or down or bits != 24):
            continue
        for mask in masks.get(
            (bits, compression), [{16: (0x7C00, 0x3E0, 0x1F, 0)}.get(bits, (0xFF0000, 0xFF00, 0xFF, 0))]
        ):
            if mask[3] and header < 56:
                continue
            alpha = np.full(GRAY.shape, 200 if visible else 0)
            counts = [COLORS[:, :, n].astype(int) * (m >> low_bit(m)) // 255 for n, m in enumerate(mask[:3])]
            words = sum(c << low_bit(m) for c, m in zip(counts, mask, strict=False))
            words = words + ((alpha << 24) if mask[3] else 0)
            pixels = words.astype("<u4").view(np.uint8).reshape(HEIGHT, WIDTH, 4)[:, :, : bits // 8]
            rows = [row.tobytes() + bytes(-(WIDTH * bits // 8) % 4) for row in pixels]
            body = b"".join(rows if down else rows[::-1])
            if header == 12:
                info = struct.pack("<LHHHH", 12, WIDTH, HEIGHT, 1, bits)
            else:
                info = struct.pack(
                    "<LllHHLL16x", header, WIDTH, -HEIGHT if down else HEIGHT, 1, bits, compression, 0
                )
                info = (info + (struct.pack("<4L", *mask) if compression else b"")).ljust(header, b"\0")
                if header > 40:
                    info = info[:header]
                elif compression:
                    info = info[:52]
            start = 14 + len(info)
            data = b"BM" + struct.pack("<LLL", start + len(body), 0, start) + info + body
            wide = np.stack(counts, axis=2)
            tops = np.array([m >> low_bit(m) for m in mask[:3]])
            right = wide * 255 / tops
            if mask[3] and visible:
                right = right * (200 / 255)
            yield f"{header} {bits} {compression} {mask} {down} {visible}", data, right, 1.0


def low_bit(mask: int) -> int:
    return (mask & -mask).bit_length() - 1


def palette_bmps() -> Variants:
    for bits, gray, used in itertools.product((1, 4, 8), (False, True), (False, True)):
        count = 2**bits
        indices = (GRAY.astype(int) * (count - 1) // 255).astype(np.uint8)
        palette = np.random.default_rng(bits).integers(0, 256, (count, 3)).astype(np.uint8)
        if gray:
            palette = np.repeat(np.linspace(0, 255, count).astype(np.uint8)[:, np.newaxis], 3, axis=1)
        rows = [imagecodecs.packints_encode(row, bits) if bits < 8 else row.tobytes() for row in indices]
        body = b"".join(row + bytes(-len(row) % 4) for row in rows[::-1])
        info = struct.pack("<LllHHLLllLL", 40, WIDTH, HEIGHT, 1, bits, 0, 0, 0, 0, count if used else 0, 0)
        info += b"".join(bytes([*color[::-1], 0]) for color in palette)
        data = b"BM" + struct.pack("<LLL", 14 + len(info) + len(body), 0, 14 + len(info)) + info + body
        assert (expected(cv2_read(data)) == palette[indices]).all()
        yield f"palette {bits} {gray} {used}", data, palette[indices].astype(float), 0.0
    yield "run lengths", b"BM" + bytes(12) + struct.pack("<LllHHL", 40, 9, 9, 1, 8, 1) + bytes(40), GRAY, 0.0


def jpegs() -> Variants:
    smooth = np.asarray(Image.fromarray(COLORS).resize((WIDTH, HEIGHT), reducing_gap=None)).copy()
    for source, subsampling, progressive, quality, restart, optimize in itertools.product(
        (GRAY, smooth), ("444", "422", "420", "440"), (0, 1), (60, 95), (0, 3), (0, 1)
    ):
        sampling = getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{subsampling}")
        options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_PROGRESSIVE, progressive]
        options += [cv2.IMWRITE_JPEG_RST_INTERVAL, restart, cv2.IMWRITE_JPEG_OPTIMIZE, optimize]
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
        data = cv2.imencode(".jpg", source[..., ::-1] if source.ndim == 3 else source, options)[1].tobytes()
        read = expected(cv2_read(data))
        name = f"{source.ndim} {subsampling} {progressive} {quality} {restart} {optimize}"
        yield name, data, read, 3.0
        yield f"{name} followed", data + data * 40, read, 3.0
        yield f"{name} without end", data[:-2], read, 3.0
    for codec in ("jpegls", "ljpeg", "jpegsof3", "jpeg2k", "jpegxl", "jpegxr"):
        encode = getattr(imagecodecs, f"{codec}_encode")
        try:
            data = encode(GRAY)
        except (imagecodecs.DelayedImportError, RuntimeError, ValueError):
            continue
        yield codec, data, expected(GRAY), 0.0


def webps() -> Variants:
    rgba = np.dstack([COLORS, np.where(GRAY > 90, 255, 51)]).astype(np.uint8)
    hidden = np.dstack([COLORS, np.zeros_like(GRAY)]).astype(np.uint8)
    for source, lossless, level in itertools.product((COLORS, rgba, hidden), (True, False), (60, 80, 95)):
        image = Image.fromarray(source)
        for method in (0, 4, 6):
            data = images.encode(image, "WEBP", lossless=lossless, quality=level, method=method, exact=True)
            read = imagecodecs.webp_decode(data)
            alpha = read[:, :, 3] if read.shape[2] == 4 else None
            yield (
                f"{source.shape} {lossless} {level} {method} {source[0, 0]}",
                data,
                expected(read[:, :, :3], alpha=alpha),
                2.0,
            )


@pytest.mark.parametrize(
    ("variants", "at_least", "equal"),
    [
        (tiffs, 800, 300),
        (tiffs_with_alpha, 280, 60),
        (odd_tiffs, 50, 30),
        (pngs, 170, 170),
        (bmps, 70, 50),
        (palette_bmps, 13, 12),
        (jpegs, 190, 180),
        (webps, 50, 50),
    ],
)
def test_the_pixels_are_right_or_the_kind_is_refused_by_name(
    variants: Callable[[], Variants], at_least: int, equal: int
) -> None:
    found = {name: verdict(data, right, tolerance) for name, data, right, tolerance in variants()}
    wrong = {name: what for name, what in found.items() if what not in {"equal", "refused by name"}}
    counts = Counter(found.values())
    assert not wrong, f"{len(wrong)} of {len(found)}: {dict(list(wrong.items())[:8])}"
    assert len(found) >= at_least
    assert counts["equal"] >= equal, counts
