import hashlib

import numpy as np
import pytest
from neurogate_core.preprocessing.transform import default_spec, transform
from neurogate_testing.data_folders import write_folder
from neurogate_trainer.data.index import build_index
from neurogate_trainer.data.inputs import (
    EpochBatches,
    Examples,
    InputError,
    as_dataset,
    balanced_weights,
    decode_examples,
)
from neurogate_trainer.progress import Reporter

SPEC = default_spec(32, 32)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    root = write_folder(tmp_path_factory.mktemp("data"), {"a": 7, "b": 5})
    return build_index(root, reporter=Reporter())


def decoded(index, cache, records=None) -> Examples:
    return decode_examples(
        records or index.records,
        index.root,
        SPEC,
        classes=index.classes,
        cache=cache,
        reporter=Reporter(),
    )


def test_pixels_are_those_of_the_transform_in_order(index, tmp_path):
    examples = decoded(index, tmp_path)
    assert examples.pixels.dtype == np.uint8
    assert isinstance(examples.pixels, np.memmap)
    for record, pixels, label in zip(index.records, examples.pixels, examples.labels, strict=True):
        np.testing.assert_array_equal(pixels, transform((index.root / record.path).read_bytes(), SPEC))
        assert index.classes[label] == record.class_id


def test_images_are_decoded_once(index, tmp_path, monkeypatch):
    first = decoded(index, tmp_path)
    monkeypatch.setattr("neurogate_trainer.data.inputs.transform", None)
    np.testing.assert_array_equal(decoded(index, tmp_path).pixels, first.pixels)
    assert len(list(tmp_path.iterdir())) == 1


def test_other_images_are_another_file(index, tmp_path):
    decoded(index, tmp_path)
    part = decoded(index, tmp_path, index.records[2:5])
    assert len(part) == 3
    assert len(list(tmp_path.iterdir())) == 2


def test_a_changed_or_vanished_image_is_named_and_nothing_stays(index, tmp_path):
    victim = index.root / index.records[3].path
    original = victim.read_bytes()
    try:
        victim.write_bytes((index.root / index.records[0].path).read_bytes())
        with pytest.raises(InputError, match="has changed since"):
            decoded(index, tmp_path)
        victim.unlink()
        with pytest.raises(InputError, match=r"a/003\.jpg was readable when indexed"):
            decoded(index, tmp_path)
    finally:
        victim.write_bytes(original)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "place", ["neurogate_trainer.data.inputs.np.lib.format.open_memmap", "os.posix_fallocate"]
)
def test_a_full_disk_is_an_error_that_names_the_file_and_nothing_stays(index, tmp_path, monkeypatch, place):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(place, full)
    with pytest.raises(InputError, match=r"pixels-[0-9a-f]+\.npy: No space left on device"):
        decoded(index, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_every_block_of_the_file_is_there_before_the_first_pixel(index, tmp_path, monkeypatch):
    found = []

    def look(*_: object) -> None:
        (path,) = tmp_path.iterdir()
        found.append(path.stat().st_blocks * 512 >= path.stat().st_size)
        raise InputError("enough")

    monkeypatch.setattr("neurogate_trainer.data.inputs.transform", look)
    with pytest.raises(InputError, match="enough"):
        decoded(index, tmp_path)
    assert all(found)


def make(count: int) -> Examples:
    pixels = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    return Examples(pixels, np.arange(count) % 2)


def order(batches: EpochBatches) -> list[int]:
    return [int(image[0, 0, 0]) for at in range(len(batches)) for image in batches[at][0]]


def test_an_epoch_shows_each_image_at_most_once_and_leaves_out_a_remainder():
    weights = balanced_weights(make(11).labels, 2)
    batches = [EpochBatches(make(11), weights, batch_size=4, seed=1, epoch=epoch) for epoch in (1, 1, 2)]
    first, again, second = map(order, batches)
    assert len(first) == len(set(first)) == 8
    assert first == again
    assert first != second
    images, targets, sample_weights = batches[0][0]
    assert targets.tolist() == [[1.0, 0.0] if image[0, 0, 0] % 2 == 0 else [0.0, 1.0] for image in images]
    np.testing.assert_allclose(sample_weights, [weights[target.argmax()] for target in targets])


def test_the_dataset_gives_the_batches_in_order_and_knows_how_many():
    batches = EpochBatches(make(11), np.ones(2, np.float32), batch_size=4, seed=1, epoch=1)
    dataset = as_dataset(batches)
    assert int(dataset.cardinality()) == len(batches) == 2
    for at, parts in enumerate(dataset.as_numpy_iterator()):
        for found, expected in zip(parts, batches[at], strict=True):
            np.testing.assert_array_equal(found, expected)
            assert found.dtype == expected.dtype
    # With it, every second epoch would end with seconds of waiting.
    assert dataset.options().autotune.enabled is False


def test_a_set_smaller_than_a_batch_is_one_batch():
    batches = EpochBatches(make(3), np.ones(2, np.float32), batch_size=32, seed=0, epoch=0)
    assert len(batches) == 1
    assert sorted(order(batches)) == [0, 1, 2]


def test_classes_count_the_same_in_all():
    labels = np.array([0] * 6 + [1] * 2)
    weights = balanced_weights(labels, 2)
    assert weights[labels].sum() == pytest.approx(8)
    assert weights[0] * 6 == pytest.approx(weights[1] * 2)
    with pytest.raises(ValueError, match="no training image"):
        balanced_weights(labels, 3)


def test_the_cache_name_depends_on_the_transform(index, tmp_path):
    decoded(index, tmp_path)
    other = default_spec(32, 64)
    decode_examples(
        index.records, index.root, other, classes=index.classes, cache=tmp_path, reporter=Reporter()
    )
    names = {hashlib.sha256(path.name.encode()).hexdigest() for path in tmp_path.iterdir()}
    assert len(names) == 2
