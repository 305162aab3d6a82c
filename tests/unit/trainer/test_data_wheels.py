from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading
import zipfile
from pathlib import Path

import pytest
from neurogate_trainer.data import wheels
from neurogate_trainer.data.wheels import WheelError, cache_dir, fetch_wheel_members

CONTENT = {"little/data/a.bin": b"first" * 100, "little/data/b.bin": b"second" * 100}
DIGESTS = {name: hashlib.sha256(data).hexdigest() for name, data in CONTENT.items()}
METADATA = "little-1.0.dist-info"


@pytest.fixture(scope="module")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one wheel, which pip can be pointed at instead of an index."""
    folder = tmp_path_factory.mktemp("wheels")
    with zipfile.ZipFile(folder / "little-1.0-py3-none-any.whl", "w") as wheel:
        for name, data in CONTENT.items():
            wheel.writestr(name, data)
        wheel.writestr("little/__init__.py", "raise RuntimeError('nothing of a wheel is executed')")
        wheel.writestr(
            f"{METADATA}/METADATA",
            "Metadata-Version: 2.1\nName: little\nVersion: 1.0\nRequires-Dist: torch\n",
        )
        wheel.writestr(f"{METADATA}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{METADATA}/RECORD", "")
    return folder


@pytest.fixture
def digest(wheelhouse: Path) -> str:
    return hashlib.sha256(next(wheelhouse.iterdir()).read_bytes()).hexdigest()


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, wheelhouse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROGATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheelhouse))


def no_pip(*_: object, **__: object) -> None:
    raise AssertionError("pip was called")


def test_members_lie_at_their_own_paths_and_pip_is_called_once(digest, monkeypatch):
    folder = fetch_wheel_members("little==1.0", digest, DIGESTS)
    assert {name: (folder / name).read_bytes() for name in CONTENT} == CONTENT
    assert not list(folder.rglob("*.py"))
    monkeypatch.setattr(wheels.subprocess, "run", no_pip)
    assert fetch_wheel_members("little==1.0", digest, DIGESTS) == folder


def test_a_damaged_cached_file_is_fetched_again(digest):
    folder = fetch_wheel_members("little==1.0", digest, DIGESTS)
    name = next(iter(CONTENT))
    (folder / name).write_bytes(b"damaged")
    fetch_wheel_members("little==1.0", digest, DIGESTS)
    assert (folder / name).read_bytes() == CONTENT[name]


def test_a_wheel_other_than_the_pinned_one_is_not_used():
    with pytest.raises(WheelError, match=r"not the pinned file.*expected 0000"):
        fetch_wheel_members("little==1.0", "0" * 64, DIGESTS)
    assert not [path for path in cache_dir().rglob("*") if path.suffix in {".bin", ".whl"}]


def test_a_member_with_another_digest_is_not_kept(digest):
    name = next(iter(CONTENT))
    with pytest.raises(WheelError, match=f"{name} .* has SHA-256"):
        fetch_wheel_members("little==1.0", digest, {name: "0" * 64})
    assert not list(cache_dir().rglob("*.bin"))
    assert not list(cache_dir().rglob("*.tmp"))


def test_a_member_that_is_not_there_is_named(digest):
    with pytest.raises(WheelError, match="no member 'little/nothing'"):
        fetch_wheel_members("little==1.0", digest, {"little/nothing": "0" * 64})


def test_a_package_that_the_index_lacks_is_explained():
    with pytest.raises(
        WheelError, match=r"absent==3 could not be downloaded: no configured package index offers it"
    ):
        fetch_wheel_members("absent==3", "0" * 64, DIGESTS)


def test_no_network_is_explained(digest, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(WheelError, match="could not be reached; check the network"):
        fetch_wheel_members("little==1.0", digest, DIGESTS)


@pytest.mark.parametrize("member", ["../outside", "/etc/outside", "little/../../outside"])
def test_no_member_leaves_the_cache(digest, member):
    with pytest.raises(WheelError, match="leaves the cache folder"):
        fetch_wheel_members("little==1.0", digest, {member: "0" * 64})


def test_a_requirement_must_be_pinned(digest):
    with pytest.raises(WheelError, match="name==version"):
        fetch_wheel_members("little>=1.0", digest, DIGESTS)


def test_a_full_disk_is_named_and_leaves_nothing_half_written(digest, monkeypatch):
    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", no_space)
    with pytest.raises(WheelError, match=r"is full.*NEUROGATE_CACHE"):
        fetch_wheel_members("little==1.0", digest, DIGESTS)
    assert not [path for path in cache_dir().rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_a_cache_that_cannot_be_used_is_named(digest, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("NEUROGATE_CACHE", str(tmp_path / "file"))
    with pytest.raises(WheelError, match=r"cannot be used.*NEUROGATE_CACHE"):
        fetch_wheel_members("little==1.0", digest, DIGESTS)


def test_what_a_killed_download_left_is_swept(digest):
    leftover = cache_dir() / "wheels" / f".download-{digest[:16]}-abc"
    leftover.mkdir(parents=True)
    (leftover / "half.whl").write_bytes(b"half")
    fetch_wheel_members("little==1.0", digest, DIGESTS)
    assert not leftover.exists()


def test_two_at_once_download_once(digest, monkeypatch):
    original, calls = wheels.subprocess.run, []

    def counting(command, **settings):
        calls.append(command)
        return original(command, **settings)

    monkeypatch.setattr(wheels.subprocess, "run", counting)
    threads = [
        threading.Thread(target=fetch_wheel_members, args=("little==1.0", digest, DIGESTS)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


def test_the_cache_is_the_users_unless_said_otherwise(monkeypatch):
    monkeypatch.delenv("NEUROGATE_CACHE")
    assert cache_dir().name == "neurogate"
    monkeypatch.setenv("NEUROGATE_CACHE", "~/elsewhere")
    assert cache_dir() == Path(os.environ["HOME"]) / "elsewhere"
