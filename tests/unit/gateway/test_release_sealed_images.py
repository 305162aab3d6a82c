"""The sealed images: a folder of class folders, or the list by the trainer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from neurogate_gateway.release.sealed_images import ImagesError, fingerprint, load_images
from neurogate_testing.sealed_images import sealed_folder, write_list


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return sealed_folder(tmp_path)


def test_a_list_and_its_folder_are_the_same_images(folder: Path) -> None:
    from_list = load_images(write_list(folder, lambda _: None))
    from_folder = load_images(folder)
    assert from_list.digest == from_folder.digest
    assert {image.sha256 for image in from_list.images} == {image.sha256 for image in from_folder.images}
    assert [image.read() for image in from_list.images]


def test_a_folder_as_it_was_unpacked(folder: Path) -> None:
    before = load_images(folder).digest
    for name in ("__MACOSX/x/._1.jpg", "@eaDir/1.jpg", "glioma/.ipynb_checkpoints/1.jpg", "glioma/._2.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"left behind")
    assert load_images(folder).digest == before
    (folder / "glioma" / "new.JFIF").write_bytes(b"glioma")
    assert load_images(folder).digest != before


def test_a_list_that_was_moved_with_its_folder(folder: Path, tmp_path: Path) -> None:
    gone = str(tmp_path / "as it was")
    images = load_images(write_list(folder, lambda d: d.update(root=gone, root_beside=folder.name))).images
    assert [image.read() for image in images]
    (tmp_path / "other").mkdir()
    for root, beside, found in (
        # Something else may be at the old place by now.
        (tmp_path / "other", folder.name, folder),
        (folder, "elsewhere", folder),
        # What is nowhere is named as it was.
        (gone, "elsewhere", gone),
        (gone, "", gone),
        (gone, "x" * 300, gone),
        ("x" * 300, "", "x" * 300),
    ):
        change = {"root": str(root), "root_beside": beside}
        image = load_images(write_list(folder, lambda d, change=change: d.update(change))).images[0]  # type: ignore[misc]
        assert image.path.is_relative_to(folder.parent / found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(revision=2), "revision 1"),
        (lambda d: d.pop("root"), '"root"'),
        (lambda d: d.update(images={}), '"images"'),
        (lambda d: d.update(images=[]), "was changed"),
        (lambda d: d.update(images=[], digest=hashlib.sha256(b"").hexdigest()), "no images"),
        (lambda d: d["images"].append(3), "image 12 lacks"),
        (lambda d: d["images"][4].pop("sha256"), "image 4 lacks"),
        (lambda d: d["images"][4].update(path=7), "image 4 lacks"),
        (lambda d: d["images"].pop(), "was changed"),
    ],
)
def test_invalid_lists(folder: Path, change: Callable[[dict[str, object]], object], message: str) -> None:
    with pytest.raises(ImagesError, match=message) as error:
        load_images(write_list(folder, change))
    assert str(folder.parent) not in error.value.message


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 5000])
def test_files_that_are_not_lists(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(ImagesError):
        load_images(path)
    with pytest.raises(ImagesError, match="cannot be read"):
        load_images(tmp_path / "none.json")
    with pytest.raises(ImagesError, match="cannot be read"):
        fingerprint(tmp_path / "none.json")


def test_hidden_and_foreign_files_do_not_count(folder: Path) -> None:
    before = load_images(folder).digest
    (folder / "glioma" / ".hidden.png").write_bytes(b"x")
    (folder / "glioma" / "notes.txt").write_bytes(b"x")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x.png").write_bytes(b"x")
    (folder / "readme.png").write_bytes(b"x")
    assert load_images(folder).digest == before


def test_an_image_that_has_changed_is_not_read(folder: Path) -> None:
    image = load_images(folder).images[0]
    image.path.write_bytes(b"other")
    with pytest.raises(ImagesError, match="digest differs"):
        image.read()
    image.path.unlink()
    with pytest.raises(ImagesError, match="cannot be read"):
        image.read()


@pytest.mark.parametrize("root", ["x" * 300, "a file/below"])
def test_a_root_that_cannot_be_looked_at_is_told(folder: Path, root: str) -> None:
    (folder.parent / "a file").touch()
    image = load_images(write_list(folder, lambda d: d.update(root=root, root_beside=root))).images[0]
    with pytest.raises(ImagesError, match="cannot be read"):
        image.read()
