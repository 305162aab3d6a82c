from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from neurogate_core.files import is_disk_full, locked, replace_file, replace_json, replacing, sha256_of


def test_a_file_is_replaced_and_keeps_its_permissions(tmp_path):
    path = tmp_path / "f.json"
    replace_json(path, {"a": [1]})
    assert json.loads(path.read_text()) == {"a": [1]}
    path.chmod(0o640)
    replace_file(path, b"new")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"new", 0o640)
    assert sha256_of(path) == "11507a0e2f5e69d5dfa40a62a1bd7b6ee57e6bcd85c67c9b8431b36fff21c437"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mask", [0o000, 0o002, 0o077])
def test_others_may_not_write_a_new_file_whatever_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        replace_file(tmp_path / "f", b"new")
    finally:
        os.umask(before)
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o644 & ~mask


@pytest.mark.parametrize("error", [RuntimeError("no data"), KeyboardInterrupt()])
def test_a_block_that_raises_leaves_the_old_content_alone(tmp_path, error):
    path = tmp_path / "f"
    path.write_bytes(b"old")

    def write():
        with replacing(path) as temporary:
            temporary.write_bytes(b"half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*audit\.json'") as raised:
        replace_file(tmp_path / "audit.json", b"{}")
    assert is_disk_full(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_made_for_a_file_and_not_for_a_lock(tmp_path):
    replace_file(tmp_path / "new" / "f", b"")
    assert (tmp_path / "new" / "f").is_file()
    with pytest.raises(FileNotFoundError), locked(tmp_path / "gone" / "lock"):
        pass


def test_a_lock_is_held_against_others_and_ends_with_its_process(tmp_path):
    path = tmp_path / "lock"
    hold = f"""
from pathlib import Path
from neurogate_core.files import locked
with locked(Path({str(path)!r})):
    print("held", flush=True)
    input()
"""
    holder = [sys.executable, "-c", hold]
    with subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(BlockingIOError), locked(path, wait=False):
            pass
        process.kill()
        process.wait()
    with locked(path, wait=False), pytest.raises(BlockingIOError), locked(path, wait=False):
        pass
