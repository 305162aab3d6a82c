from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from neurogate_client import labelled_images
from neurogate_testing.data_folders import encoded, picture, write_folder
from neurogate_trainer.data.index import DatasetIndex, build_index
from neurogate_trainer.data.layout import DatasetError
from neurogate_trainer.data.masks import mask_path, masked, read_mask
from neurogate_trainer.progress import LogReporter, Reporter
from PIL import Image

SIZE = (96, 80)


def build(root: Path) -> DatasetIndex:
    return build_index(root, reporter=Reporter())


def drawn(mode: str = "1", size: tuple[int, int] = SIZE) -> Image.Image:
    """A mask with the pixels from (10, 20) to (30, 50), or of its left upper part, marked."""
    mask = Image.new(mode, size)
    mask.paste({"RGB": (0, 0, 9), "RGBA": (0, 7, 0, 255), "LA": (3, 255)}.get(mode, 1), (10, 20, 30, 50))
    return mask


def put(root: Path, image_path: str, mask: Image.Image | bytes) -> Path:
    path = root / mask_path(image_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(mask if isinstance(mask, bytes) else encoded(mask, "PNG"))
    return path


@pytest.fixture
def root(tmp_path):
    return write_folder(tmp_path, {"Training/a": 5, "Training/b": 5, "Testing/a": 2, "Testing/b": 2})


def test_masks_change_nothing_about_the_images(root):
    before = build(root)
    put(root, "Training/a/000.jpg", drawn())
    put(root, "Testing/b/001.jpg", drawn("L"))
    after = build(root)
    assert after == before
    assert after.digest() == before.digest()
    assert [record.path for record in masked(root, after.records)] == [
        "Testing/b/001.jpg",
        "Training/a/000.jpg",
    ]
    assert [image.class_id for image in labelled_images(root / "Training")] == ["a"] * 5 + ["b"] * 5


@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16", "RGB", "RGBA", "LA"])
def test_whatever_is_not_zero_is_lesion(root, mode):
    put(root, "Training/a/000.jpg", drawn(mode))
    index = build(root)
    (record,) = masked(root, index.records)
    expected = np.zeros((80, 96), bool)
    expected[20:50, 10:30] = True
    assert np.array_equal(read_mask(root, record), expected)


def test_a_mask_is_as_upright_as_its_image(tmp_path):
    root = write_folder(tmp_path, {"a": 5, "b": 5})
    exif = Image.Exif()
    exif[0x0112] = 6
    (root / "a" / "turned.jpg").write_bytes(encoded(picture(50), "JPEG", exif=exif))
    put(root, "a/turned.jpg", drawn(size=(80, 96)))
    (record,) = masked(root, build(root).records)
    assert read_mask(root, record).shape == (96, 80)
    put(root, "a/turned.jpg", drawn())
    with pytest.raises(DatasetError, match=r"turned.png has 96 x 80 pixels .* has 80 x 96"):
        build(root)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (drawn(size=(95, 80)), r"000.png has 95 x 80 .*, its image Training/a/000.jpg has 96 x 80"),
        (encoded(drawn("L"), "PNG")[:-20], r"000.png cannot be read"),
        (b"", r"000.png cannot be read"),
        (encoded(drawn("L"), "JPEG"), r"000.png cannot be read"),
    ],
)
def test_a_bad_mask_is_refused_by_its_name(root, mask, words):
    put(root, "Training/a/000.jpg", mask)
    with pytest.raises(DatasetError, match=words):
        build(root)


def test_a_mask_of_two_images_is_refused(root):
    (root / "Training" / "a" / "000.png").write_bytes(encoded(picture(70), "PNG"))
    put(root, "Training/a/000.jpg", drawn())
    with pytest.raises(DatasetError, match=r"would belong to Training/a/000.jpg and to Training/a/000.png"):
        build(root)


def test_masks_without_an_image_are_told(root, capsys):
    put(root, "Training/a/000.jpg", drawn())
    put(root, "Training/a/misspelt.jpg", drawn())
    with LogReporter() as reporter:
        build_index(root, reporter=reporter)
    assert "1 masks belong to no usable image, e.g. .neurogate/masks/Training/a/misspelt.png" in (
        capsys.readouterr().err
    )
