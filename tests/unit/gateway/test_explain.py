"""The picture of the evidence: colours, opacity, places, sizes, limits."""

from __future__ import annotations

import io

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neurogate.v1 import classification_pb2 as pb
from neurogate_core.preprocessing.transform import upright_size
from neurogate_gateway.inference import explain as drawing
from neurogate_gateway.inference.explain import Overlay, render_overlay
from neurogate_testing.fake_backend import sample_image
from neurogate_testing.refusals import refused
from PIL import Image

INPUT = (96, 96)
MAPS = {
    pb.COLOR_MAP_JET: "jet",
    pb.COLOR_MAP_VIRIDIS: "viridis",
    pb.COLOR_MAP_INFERNO: "inferno",
}


def options(**fields: object) -> pb.OverlayOptions:
    return pb.OverlayOptions(**fields)  # type: ignore[arg-type]


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image)


def test_defaults() -> None:
    assert Overlay.from_options(options()) == Overlay(pb.COLOR_MAP_JET, 0.5, 0)
    assert Overlay.from_options(options(alpha=0)).alpha == 0


@pytest.mark.parametrize(
    "wrong",
    [
        options(alpha=1.001),
        options(alpha=-0.001),
        options(alpha=float("nan")),
        options(alpha=float("inf")),
        options(max_side=63),
        options(max_side=2049),
        options(max_side=-1),
        options(max_side=2**31 - 1),
        options(color_map=4),
        options(color_map=-1),
    ],
)
def test_limits(wrong: pb.OverlayOptions) -> None:
    with refused("OVERLAY_INVALID", match="expected"):
        Overlay.from_options(wrong)


@pytest.mark.parametrize("color_map", MAPS)
def test_colours_are_matplotlibs(color_map: pb.ColorMap) -> None:
    image = np.zeros((4, 256, 3), np.uint8)
    ramp = np.repeat(np.linspace(0, 1, 256, dtype=np.float32)[np.newaxis], 4, axis=0)
    table = drawing._TABLES[color_map]
    expected = mpl.colormaps[MAPS[color_map]](np.linspace(0, 1, 256))[:, :3] * 255
    assert np.abs(table - expected).max() < 8
    # Over black and fully opaque, a value's colour is dimmed by the value itself.
    drawn = pixels(render_overlay(image, ramp, INPUT, Overlay(color_map, 1.0, 0)))
    assert np.abs(drawn[0] - np.rint(table * ramp[0][:, np.newaxis])).max() <= 1


def test_nothing_is_drawn_where_there_is_no_evidence() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    for values, alpha in ((np.zeros((7, 7), np.float32), 1.0), (np.ones((7, 7), np.float32), 0.0)):
        drawn = pixels(render_overlay(image, values, INPUT, Overlay(pb.COLOR_MAP_JET, alpha, 0)))
        assert (drawn == image).all()


def test_a_map_is_relative_to_its_own_maximum() -> None:
    image = np.full((20, 20, 3), 100, np.uint8)
    values = np.random.default_rng(0).random((7, 7), dtype=np.float32)
    one = render_overlay(image, values, INPUT, Overlay(pb.COLOR_MAP_INFERNO, 0.7, 0))
    assert one == render_overlay(
        image, values * np.float32(1024), INPUT, Overlay(pb.COLOR_MAP_INFERNO, 0.7, 0)
    )
    tiny = np.full((7, 7), np.finfo(np.float32).smallest_subnormal)
    assert pixels(render_overlay(image, tiny, INPUT, Overlay(pb.COLOR_MAP_JET, 1.0, 0))).shape == (20, 20, 3)


@pytest.mark.parametrize(
    ("cells", "input_side", "cell", "looks_at"),
    [
        # A grid of its own: the middle of the cell. The last feature map: pixel 32 i + 31, whose centre is
        # half a pixel further.
        (28, 224, (13, 20), (108.0, 164.0)),
        (24, 96, (0, 23), (2.0, 94.0)),
        (7, 224, (1, 5), (63.5, 191.5)),
        (3, 96, (1, 1), (63.5, 63.5)),
    ],
)
def test_the_map_lies_where_it_belongs(
    cells: int, input_side: int, cell: tuple[int, int], looks_at: tuple[float, float]
) -> None:
    values = np.zeros((cells, cells), np.float32)
    values[cell] = 1
    image = np.zeros((400, 800, 3), np.uint8)
    options = Overlay(pb.COLOR_MAP_VIRIDIS, 1.0, 0)
    drawn = pixels(render_overlay(image, values, (input_side, input_side), options)).sum(axis=2)
    rows, columns = np.nonzero(drawn == drawn.max())
    # At the border a cell's plateau goes on to the edge.
    expected = np.array(looks_at) / input_side * (400, 800) - 0.5
    for found, place in zip((rows, columns), expected, strict=True):
        assert found.min() - 2 <= place <= found.max() + 2


def test_a_map_of_one_cell_covers_the_picture() -> None:
    image = np.zeros((10, 20, 3), np.uint8)
    drawn = pixels(
        render_overlay(image, np.ones((1, 1), np.float32), (32, 32), Overlay(pb.COLOR_MAP_JET, 1, 0))
    )
    assert (drawn == drawn[0, 0]).all()
    assert drawn.any()


@pytest.mark.parametrize(
    ("size", "max_side", "expected"),
    [
        ((400, 300), 0, (400, 300)),
        ((4000, 3000), 0, (1024, 768)),
        ((400, 300), 800, (800, 600)),
        ((300, 400), 100, (75, 100)),
        ((10_000, 1), 64, (64, 1)),
        ((1, 1), 0, (1, 1)),
        ((224, 224), 2048, (2048, 2048)),
    ],
)
def test_sizes(size: tuple[int, int], max_side: int, expected: tuple[int, int]) -> None:
    assert Overlay(pb.COLOR_MAP_JET, 0.5, max_side).picture_size(*size) == expected


@given(st.integers(1, 65_535), st.integers(1, 65_535), st.just(0) | st.integers(64, 2048))
@settings(max_examples=200)
def test_no_picture_exceeds_its_limit(width: int, height: int, max_side: int) -> None:
    size = Overlay(pb.COLOR_MAP_JET, 0.5, max_side).picture_size(width, height)
    assert min(size) >= 1
    assert max(size) <= (max_side or 1024)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP"])
def test_the_size_is_read_from_the_header(kind: str) -> None:
    assert upright_size(sample_image(size=(64, 48), kind=kind)) == (64, 48)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize(
    ("orientation", "expected"), [(1, (40, 20)), (3, (40, 20)), (6, (20, 40)), (8, (20, 40))]
)
def test_the_size_is_that_of_the_upright_image(
    kind: str, orientation: int, expected: tuple[int, int]
) -> None:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (40, 20)).save(buffer, kind, exif=exif)
    assert upright_size(buffer.getvalue()) == expected


def test_what_cannot_be_read_counts_as_a_square() -> None:
    assert upright_size(b"\x89PNG\r\n\x1a\n") == (1024, 1024)
