"""Samples deeper than 8 bits: the window that an image's own samples ask for."""

from __future__ import annotations

import io

import numpy as np
import pytest
from neurogate_core.preprocessing._pixels import apply_window, robust_window
from neurogate_core.preprocessing.transform import default_spec, transform
from neurogate_testing import images
from PIL import Image

SLICE = np.asarray(Image.open(io.BytesIO(images.brain_slice(3, container="PNG")))).astype(float)
SPEC = default_spec(96, 96)
MAXIMA = sorted({*np.geomspace(200, 65_535, 36).round().astype(int).tolist(), 255, 256, 4095, 4096})


def png(samples: np.ndarray) -> bytes:
    return images.encode(Image.fromarray(samples.astype(np.uint16)), "PNG")


def tiff(samples: np.ndarray) -> bytes:
    return images.encode(Image.fromarray(samples), "TIFF")


def scaled(largest: float) -> np.ndarray:
    return np.rint(SLICE / SLICE.max() * largest)


def shown(data: bytes) -> np.ndarray:
    return transform(data, SPEC).astype(int)


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int16])
@pytest.mark.parametrize("size", [1, 2, 50, 99, 100, 101, 3000])
def test_counted_and_sorted_samples_have_the_same_window(kind: type, size: int) -> None:
    """Integers of up to 16 bits are counted, wider ones are sorted."""
    rng = np.random.default_rng(size)
    limits = np.iinfo(kind)
    for _ in range(20):
        low, high = sorted(rng.integers(limits.min, limits.max, 2, endpoint=True))
        samples = rng.integers(low, high, size, endpoint=True).astype(kind)
        if rng.random() < 0.5:
            samples[rng.random(size) < 0.7] = low
        shown = None if rng.random() < 0.5 else rng.random(size) < 0.8
        assert robust_window(samples, shown) == robust_window(samples.astype(np.int32), shown)


def test_a_slice_gives_the_same_picture_at_40_maxima() -> None:
    assert len(MAXIMA) == 40
    pictures = np.stack([shown(png(scaled(largest))) for largest in MAXIMA])
    assert np.abs(pictures - pictures[-1]).max() <= 2
    assert np.abs(pictures - pictures[-1]).mean() < 0.3


@pytest.mark.parametrize(("below", "above"), [(255, 256), (4095, 4096), (16_383, 16_384)])
def test_one_gray_level_more_is_no_cliff(below: int, above: int) -> None:
    samples = scaled(below)
    more = samples.copy()
    more[np.unravel_index(samples.argmax(), samples.shape)] = above
    changed = np.abs(shown(png(more)) - shown(png(samples)))
    assert changed.max() <= 1


@pytest.mark.parametrize("value", [1.000_000_1, 7.0, 3e38, np.inf, -np.inf, np.nan, -3e38])
def test_a_sample_outside_changes_itself_only(value: float) -> None:
    samples = (SLICE / SLICE.max()).astype(np.float32)
    one = samples.copy()
    one[0, 0] = value
    whole = default_spec(SLICE.shape[1], SLICE.shape[0])
    changed = transform(tiff(one), whole) != transform(tiff(samples), whole)
    assert not changed.reshape(-1)[3:].any()


@pytest.mark.parametrize("dtype", ["<u2", "<i4", "<f4"])
def test_the_kind_of_number_does_not_matter(dtype: str) -> None:
    samples = scaled(3000)
    assert (shown(tiff(samples.astype(dtype))) == shown(png(samples))).all()


def test_a_shift_does_not_matter_so_that_signs_do_not() -> None:
    samples = scaled(3000).astype(np.int32)
    assert (shown(tiff(samples - 1024)) == shown(tiff(samples))).all()


def test_a_wider_border_does_not_matter() -> None:
    samples = scaled(3000)
    padded = np.pad(samples, 300)
    inner = transform(png(padded), default_spec(*padded.shape[::-1]))[300:-300, 300:-300]
    assert (inner == transform(png(samples), default_spec(*samples.shape[::-1]))).all()


def levels(samples: np.ndarray) -> np.ndarray:
    return apply_window(samples, *robust_window(samples))


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.uint32, np.float32])
@pytest.mark.parametrize("value", [0, 1, 300])
def test_a_constant_image_is_black(dtype: type, value: int) -> None:
    assert (levels(np.full((20, 30), value, dtype)) == 0).all()


def test_two_values_are_black_and_white() -> None:
    samples = np.zeros((40, 40), np.uint16)
    samples[10:20, 10:20] = 7
    assert (levels(samples) == np.where(samples, 255, 0)).all()
    assert (levels(samples.astype(np.float32) / 9) == np.where(samples, 255, 0)).all()


def test_nothing_but_what_is_not_a_number_is_black() -> None:
    assert (levels(np.full((3, 4), np.nan, np.float32)) == 0).all()
    assert robust_window(np.empty(0, np.uint16)) == (0, 0)


def test_ranks_and_rounding_are_exact() -> None:
    samples = np.arange(1000, dtype=np.uint16)
    assert robust_window(samples) == (10, 999 - 5)
    assert apply_window(np.array([9, 10, 11, 12, 994, 995]), 10, 12).tolist() == [0, 0, 128, 255, 255, 255]
    wide = np.array([0, 2**31, 2**32 - 1], np.uint32)
    assert apply_window(wide, 0, 2**32 - 1).tolist() == [0, 128, 255]


def test_colours_share_one_window() -> None:
    colors = np.stack([scaled(3000), scaled(1500), scaled(300)], axis=2).astype(">u2")
    rows = [row.tobytes() for row in colors]
    data = images.png(
        [images.png_header(colors.shape[1], colors.shape[0], 16, 2), images.png_rows(rows), (b"IEND", b"")]
    )
    pixels = shown(data)
    assert pixels[:, :, 0].max() > 240
    assert 100 < pixels[:, :, 1].max() < 160
    assert pixels[:, :, 2].max() < 40


def test_what_is_transparent_has_no_part_in_the_window() -> None:
    gray = scaled(3000)
    alpha = np.full(gray.shape, 0xFFFF)
    beside = np.pad(gray, ((0, 0), (0, 60)), constant_values=60_000)
    stored = np.dstack([beside, np.pad(alpha, ((0, 0), (0, 60)))]).astype(">u2")
    height, width = beside.shape
    data = images.png(
        [
            images.png_header(width, height, 16, 4),
            images.png_rows([r.tobytes() for r in stored]),
            (b"IEND", b""),
        ]
    )
    pixels = transform(data, default_spec(width, height))[:, :, 0]
    assert (pixels[:, -60:] == 0).all()
    assert (pixels[:, :-60] == levels(gray.astype(np.uint16))).all()
