from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neurogate_core.preprocessing.transform import default_spec, transform
from neurogate_testing.data_folders import encoded, picture
from neurogate_trainer.data.phash import block_means, distances, mirrored, perceptual_hash, to_gray
from PIL import ImageEnhance


def hash_of(data: bytes) -> int:
    return perceptual_hash(to_gray(transform(data, default_spec())))


def distance(a: int, b: int) -> int:
    return (a ^ b).bit_count()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "change",
    [
        lambda image: encoded(image, quality=30),
        lambda image: encoded(image, "PNG"),
        lambda image: encoded(image.resize((300, 260))),
        lambda image: encoded(image.convert("RGB"), "WEBP", quality=50),
        lambda image: encoded(ImageEnhance.Contrast(image).enhance(0.6)),
    ],
)
def test_the_same_picture_in_other_bytes_keeps_its_hash(seed, change):
    image = picture(seed, (224, 200))
    assert distance(hash_of(encoded(image)), hash_of(change(image))) <= 4


def test_other_pictures_have_other_hashes():
    hashes = np.array([hash_of(encoded(picture(seed))) for seed in range(40)], np.uint64)
    between = distances(hashes, hashes)
    assert between[np.triu_indices(40, 1)].min() > 10
    assert np.all(np.diag(between) == 0)


@pytest.mark.parametrize("seed", range(4))
def test_a_mirrored_picture_is_found_by_its_hash(seed):
    image = picture(seed)
    turned = hash_of(encoded(image.transpose(0)))
    expected = mirrored(np.array([hash_of(encoded(image))], np.uint64))
    assert distance(turned, int(expected[0])) <= 2


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
@settings(max_examples=50, deadline=None)
def test_mirroring_twice_changes_nothing_and_keeps_distances(a, b):
    pair = np.array([a, b], np.uint64)
    assert np.array_equal(mirrored(mirrored(pair)), pair)
    assert distances(mirrored(pair[:1]), mirrored(pair[1:]))[0, 0] == distance(a, b)


def test_no_structure_has_hash_zero():
    assert perceptual_hash(np.full((224, 224), 87, np.float32)) == 0


def test_blocks_must_fit():
    with pytest.raises(ValueError, match="100 x 100 pixels cannot be cut into 32 x 32"):
        block_means(np.zeros((100, 100), np.float32), 32)
