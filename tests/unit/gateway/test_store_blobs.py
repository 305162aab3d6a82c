"""The image store: once each, whole or not at all, bounded, and swept without racing those who add."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import pytest
from neurogate_gateway.errors import RecordsUnavailableError
from neurogate_gateway.store.blobs import ImageGoneError, ImageStore


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def put(store: ImageStore, *images: bytes) -> dict[str, object]:
    with store.adding():
        return dict(store.put({digest(data): data for data in images}))


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]


def test_an_image_is_kept_once_under_its_digest(tmp_path: Path) -> None:
    store = ImageStore(tmp_path, 1000)
    assert put(store, b"one", b"two") == put(store, b"one") == {}
    name = digest(b"one")
    assert (tmp_path / name[:2] / name[2:]).read_bytes() == b"one" == store.read(name)
    assert len(files(tmp_path)) == 2
    assert store.used_bytes == 6
    with pytest.raises(ImageGoneError):
        store.read(digest(b"three"))
    store.close()


def test_the_limit_refuses_what_does_not_fit_and_keeps_the_rest(tmp_path: Path) -> None:
    store = ImageStore(tmp_path, 10)
    assert set(put(store, b"12345678", b"xyz", b"ab")) == {digest(b"xyz")}
    assert store.used_bytes == 10
    assert put(store, b"12345678") == {}
    store.close()
    again = ImageStore(tmp_path, 10)
    assert again.used_bytes == 10
    assert set(put(again, b"!")) == {digest(b"!")}
    again.close()


def test_a_full_disk_refuses_and_leaves_nothing_half(tmp_path: Path) -> None:
    store = ImageStore(tmp_path, 1000)
    sync = os.fsync

    def full(descriptor: int) -> None:
        if os.fstat(descriptor).st_size == 5:
            raise OSError(errno.ENOSPC, "full")
        sync(descriptor)

    with mock.patch("os.fsync", full):
        refused = put(store, b"12345", b"fits")
    assert set(refused) == {digest(b"12345")}
    assert [path.read_bytes() for path in files(tmp_path)] == [b"fits"]
    with (
        mock.patch("os.fsync", side_effect=OSError(errno.EIO, "broken")),
        pytest.raises(RecordsUnavailableError),
    ):
        put(store, b"more")
    assert store.used_bytes == 4
    store.close()


def test_what_a_dead_process_left_aside_goes_and_a_living_ones_stays(tmp_path: Path) -> None:
    store = ImageStore(tmp_path, 1000)
    left = tmp_path / ".incoming" / "left"
    left.write_bytes(b"ha")
    with ThreadPoolExecutor(1) as threads, store.adding():
        starting = threads.submit(ImageStore, tmp_path, 1000)
        store.put({digest(b"one"): b"one"})
        assert left.exists()
        assert not starting.done()
    assert not left.exists()
    other = starting.result()
    assert put(store, b"two") == put(other, b"three") == {}
    store.close()
    other.close()


def test_what_older_gateways_left_aside_goes_and_what_they_use_stays(tmp_path: Path) -> None:
    dead, alive = tmp_path / ".incoming-dead", tmp_path / ".incoming-alive"
    for folder in (dead, alive):
        folder.mkdir()
        (folder / "left").write_bytes(b"ha")
    descriptor = os.open(alive, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    ImageStore(tmp_path, 1000).close()
    os.close(descriptor)
    assert not dead.exists()
    assert (alive / "left").exists()


def test_a_sweep_removes_what_nothing_names_and_counts_anew(tmp_path: Path) -> None:
    store = ImageStore(tmp_path, 1000)
    put(store, b"stays", b"goes", b"goes too")
    (tmp_path / digest(b"stays")[:2] / "stray").write_bytes(b"by hand")
    assert store.remove_unless(lambda _: {digest(b"stays")}) == 3
    assert [path.read_bytes() for path in files(tmp_path)] == [b"stays"]
    assert store.used_bytes == 5
    store.close()


def test_a_sweep_waits_for_those_who_add(tmp_path: Path) -> None:
    store = ImageStore(tmp_path, 1000)
    named: set[str] = set()
    with ThreadPoolExecutor(1) as threads:
        with store.adding():
            sweep = threads.submit(store.remove_unless, lambda _: named)
            store.put({digest(b"new"): b"new"})
            assert not sweep.done()
            named.add(digest(b"new"))
        assert sweep.result() == 0
    assert store.read(digest(b"new")) == b"new"
    store.close()


def test_a_folder_whose_gateway_ends_meanwhile_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "glob", lambda folder, _: iter([folder / ".incoming-gone"]))
    store = ImageStore(tmp_path, 1000)
    assert store.used_bytes == 0
    store.close()
