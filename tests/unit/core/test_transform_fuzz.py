"""Damaged images give pixels of the asked shape or a TransformError, and never anything else."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from neurogate_core.preprocessing.transform import FORMATS, TransformError, default_spec, transform
from neurogate_testing import images

SOUND = images.sound()
SPEC = default_spec(16, 12)
SPEC.max_pixels = 1_000_000
REASONS = {"IMAGE_EMPTY", "IMAGE_TOO_MANY_PIXELS", "IMAGE_FORMAT_UNSUPPORTED", "IMAGE_CORRUPT"}


def check(data: bytes) -> None:
    refused: TransformError | None = None
    try:
        pixels = transform(data, SPEC)
    except TransformError as error:
        refused = error
    if refused is None:
        assert pixels.shape == (12, 16, 3)
        assert pixels.dtype == np.uint8
    else:
        assert refused.reason in REASONS
        assert str(refused).isprintable()
        assert len(str(refused)) < 500


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(SOUND[draw(st.sampled_from(sorted(SOUND)))])
    for _ in range(draw(st.integers(1, 6))):
        # Headers, and the directory that TIFF keeps at its end, are where the structure is.
        place = draw(
            st.one_of(
                st.integers(0, min(len(data), 120)),
                st.integers(max(0, len(data) - 250), len(data)),
                st.integers(0, len(data)),
            )
        )
        match draw(st.sampled_from(["set", "insert", "delete", "cut", "copy"])):
            case "set":
                data[place : place + 1] = draw(st.binary(min_size=1, max_size=4))
            case "insert":
                data[place:place] = draw(st.binary(max_size=40))
            case "delete":
                del data[place : place + draw(st.integers(1, 60))]
            case "cut":
                del data[place:]
            case "copy":
                source = draw(st.integers(0, len(data)))
                data[place:place] = data[source : source + 60]
    return bytes(data)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(mutated())
def test_mutated_images(data: bytes) -> None:
    check(data)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    st.sampled_from(
        [
            b"\xff\xd8\xff",
            b"\x89PNG\r\n\x1a\n",
            b"BM",
            b"GIF89a",
            b"II*\0",
            b"MM\0*",
            b"RIFF\x20\0\0\0WEBPVP8X",
            b"",
        ]
    ),
    st.binary(max_size=400),
)
def test_noise_behind_a_signature(signature: bytes, noise: bytes) -> None:
    check(signature + noise)


def test_every_container_is_fuzzed() -> None:
    # DICOM files are decoded elsewhere, and fuzzed there.
    assert {name.split("-")[0].upper() for name in SOUND} == {*FORMATS} - {"DICOM"}
