"""Versions are held to their files, once, and again when a file has changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from neurogate_core.manifest import MANIFEST_FILE, manifest_digest, serialize_manifest, write_manifest
from neurogate_gateway.backends import integrity
from neurogate_gateway.backends.integrity import FilesUnreadableError, RepositoryIntegrity
from neurogate_gateway.backends.verification import Rejection, ServedVersion, VerificationError
from neurogate_testing.manifests import fill_version, sound_manifest

VARIABLES = "variables/variables.data-00000-of-00001"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "brain_tumor" / "7"


@pytest.fixture
def version(folder: Path) -> ServedVersion:
    """A version as the model server describes it, and its files."""
    fill_version(folder)
    manifest = write_manifest(folder, sound_manifest(version=7))
    return ServedVersion("brain_tumor", 7, manifest, manifest_digest(serialize_manifest(manifest)))


@pytest.fixture
def checker(tmp_path: Path) -> Iterator[RepositoryIntegrity]:
    made = RepositoryIntegrity(tmp_path)
    yield made
    made.close()


def tamper(folder: Path) -> None:
    path = folder / VARIABLES
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)


def link(folder: Path) -> None:
    other = folder.parent / "moved"
    other.write_bytes((folder / VARIABLES).read_bytes()[::-1])
    (folder / VARIABLES).unlink()
    (folder / VARIABLES).symlink_to(other)


def link_nowhere(folder: Path) -> None:
    (folder / VARIABLES).unlink()
    (folder / VARIABLES).symlink_to("nowhere")


def move_behind_link(folder: Path) -> None:
    folder.symlink_to(folder.rename(folder.parent / "one"))


def lead_to_tampered_copy(folder: Path) -> None:
    copy = Path(shutil.copytree(folder, folder.parent / "two"))
    tamper(copy)
    folder.unlink()
    folder.symlink_to(copy)


def replace_manifest(folder: Path) -> None:
    manifest = sound_manifest(version=7)
    manifest.notice = "Another one."
    write_manifest(folder, manifest)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (tamper, f"{VARIABLES} has digest"),
        (lambda folder: (folder / VARIABLES).write_bytes(b"short"), f"{VARIABLES} has 5 bytes"),
        (lambda folder: (folder / VARIABLES).unlink(), f"{VARIABLES} is missing"),
        (lambda folder: (folder / "extra").write_bytes(b""), "extra is not in the manifest"),
        (link, f"{VARIABLES} has digest"),
        (link_nowhere, f"{VARIABLES} is a link that leads nowhere"),
        (lambda folder: folder.rename(folder.with_name("0007")), "its folder is called '0007', expected '7'"),
        (replace_manifest, "the repository's manifest has digest"),
        (lambda folder: (folder / MANIFEST_FILE).unlink(), "no manifest"),
    ],
)
async def test_other_files(
    checker: RepositoryIntegrity,
    version: ServedVersion,
    folder: Path,
    change: Callable[[Path], object],
    reason: str,
) -> None:
    await checker.check(version)
    change(folder)
    for _ in range(2):
        with pytest.raises(VerificationError, match=reason) as caught:
            await checker.check(version)
        assert caught.value.kind is Rejection.FILES_DIFFER
        assert str(folder) not in str(caught.value)


async def test_a_link_that_moves_is_looked_at_anew(
    checker: RepositoryIntegrity, version: ServedVersion, folder: Path
) -> None:
    move_behind_link(folder)
    await checker.check(version)
    lead_to_tampered_copy(folder)
    with pytest.raises(VerificationError, match="has digest"):
        await checker.check(version)


async def test_what_cannot_be_seen_is_not_judged(
    checker: RepositoryIntegrity, version: ServedVersion
) -> None:
    other = ServedVersion("brain_tumor", 8, version.manifest, version.digest)
    with pytest.raises(FilesUnreadableError, match="version 8 cannot be read: No such file"):
        await checker.check(other)


async def test_files_are_read_once_and_again_when_one_has_changed(
    checker: RepositoryIntegrity, version: ServedVersion, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    verify = integrity.verify_version

    def counting(folder: Path, *, model_name: str) -> object:
        read.append(folder)
        return verify(folder, model_name=model_name)

    monkeypatch.setattr(integrity, "verify_version", counting)
    for _ in range(3):
        await checker.check(version)
    assert len(read) == 1
    (folder / VARIABLES).touch()
    await checker.check(version)
    assert len(read) == 2
