from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from neurogate_client import errors, folder_images, labelled_images
from neurogate_client.images import load_image


def test_bytes_and_paths_of_every_kind(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"abc")
    for image in (b"abc", bytearray(b"abc"), memoryview(b"abc"), path, str(path)):
        assert load_image(image, 3) == b"abc"
    with pytest.raises(
        errors.ImageTooLargeError, match="the image has 4 bytes; the client's limit is 3"
    ) as caught:
        load_image(b"abcd", 3)
    assert caught.value.reason == "IMAGE_TOO_LARGE"
    assert caught.value.metadata == {"size_bytes": "4", "max_image_bytes": "3"}
    for other in (None, 3, ["a.jpg"]):
        with pytest.raises(TypeError, match="an image is bytes or a path, not"):
            load_image(other, 3)  # type: ignore[arg-type]


def test_a_huge_file_is_refused_by_its_size_and_an_endless_one_read_to_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "huge.jpg"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(errors.ImageTooLargeError, match=r"1,099,511,627,776 bytes"):
        load_image(path, 100)
    with pytest.raises(errors.ImageTooLargeError):
        load_image("/dev/zero", 100)


def test_what_is_empty_or_cannot_be_read_names_path_and_cause(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for image in (b"", tmp_path / "empty"):
        with pytest.raises(errors.ImageEmptyError, match="has no bytes"):
            load_image(image, 3)
    for name, why in (("missing.jpg", "No such file"), ("", "Is a directory"), ("a\0b", "null byte")):
        with pytest.raises(errors.ImageUnreadableError, match=rf"cannot read .*{why}") as caught:
            load_image(tmp_path / name, 3)
        assert caught.value.__cause__ is not None


def test_a_folder_is_walked_in_order_without_what_is_hidden_or_no_image(tmp_path: Path) -> None:
    images = ["b/2.png", "b/1.JPG", "a.tiff", "z.webp", "b.bmp", "c/d/e.gif"]
    for name in [*images, "notes.txt", ".hidden.png", ".git/x.png"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "itself.png").symlink_to("itself.png")
    left_out: list[tuple[str, str]] = []
    pairs = list(folder_images(str(tmp_path), left_out=lambda path, why: left_out.append((path.name, why))))
    assert [str(key) for key, _ in pairs] == ["a.tiff", "b/1.JPG", "b/2.png", "b.bmp", "c/d/e.gif", "z.webp"]
    assert all(image == tmp_path / key for key, image in pairs)
    assert left_out == [
        ("dangling.png", "no file, or a link to none"),
        ("itself.png", "no file, or a link to none"),
        ("loop", "a link to a folder that is read elsewhere"),
        ("notes.txt", "no image by its suffix .txt"),
    ]


def test_images_by_other_names(tmp_path: Path) -> None:
    for name in ("a.jfif", "b.JPE", "c.dcm", "__MACOSX/d.jpg", "Thumbs.db", "desktop.ini"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    starts = {
        "jpeg": b"\xff\xd8\xff\xe0", "png": b"\x89PNG\r\n", "webp": b"RIFF1234WEBP", "tiff": b"II*\0",
        "1.2.840.113619.2": b"\0" * 128 + b"DICM", "README": b"# hello", "empty": b"",
    }  # fmt: skip
    for name, start in starts.items():
        (tmp_path / name).write_bytes(start)
    left_out: list[str] = []
    found = [
        str(key) for key, _ in folder_images(tmp_path, left_out=lambda path, _: left_out.append(path.name))
    ]
    assert found == ["1.2.840.113619.2", "a.jfif", "b.JPE", "c.dcm", "jpeg", "png", "tiff", "webp"]
    assert left_out == ["README", "empty"]


def test_linked_folders_are_taken_once(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "1.png").write_bytes(b"x")
    (tmp_path / "set" / "notumor").mkdir(parents=True)
    (tmp_path / "set" / "glioma").symlink_to(tmp_path / "store")
    (tmp_path / "set" / "notumor" / "back").symlink_to(tmp_path / "set")
    assert [str(key) for key, _ in folder_images(tmp_path / "set")] == ["glioma/1.png"]
    assert [each.class_id for each in labelled_images(tmp_path / "set")] == ["glioma"]


def test_no_folder_is_an_error_and_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        next(folder_images(tmp_path / "missing"))
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        next(folder_images(tmp_path / "file"))


@pytest.mark.skipif(sys.platform != "linux", reason="names that are not text exist on Linux")
def test_file_names_that_are_not_text(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.png")).write_bytes(b"x")
    ((key, image),) = folder_images(tmp_path)
    assert load_image(image, 9) == b"x"
    assert os.fsencode(key) == b"\xff.png"


def test_class_folders(tmp_path: Path) -> None:
    for name in ("glioma/b.jpg", "glioma/a/7.png", "notumor/x.JPG", "notumor/notes.txt", ".git/y.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = list(labelled_images(tmp_path))
    assert [(each.class_id, each.key) for each in found] == [
        ("glioma", Path("glioma/a/7.png")),
        ("glioma", Path("glioma/b.jpg")),
        ("notumor", Path("notumor/x.JPG")),
    ]
    (tmp_path / "loose.png").touch()
    with pytest.raises(ValueError, match=r"loose\.png lies in no class folder"):
        list(labelled_images(tmp_path))
    with pytest.raises(FileNotFoundError):
        list(labelled_images(tmp_path / "nowhere"))
