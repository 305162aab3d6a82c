"""The manifest of a model version: read, write and check it against the files that it describes.

A manifest is one serialized `neurogate.v1.ModelManifest`, stored as an asset of the version's SavedModel
so that the model server can answer it. Nothing here trusts one: whoever parses a manifest learns at once
whether every number in it makes sense, and `verify_version` whether it is about these files.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError
from neurogate.v1 import manifest_pb2

from ._manifest_rules import MAX_GATE_POLICY, complaints
from .files import replace_file

MANIFEST_FILE: Final = "assets/neurogate_manifest.binpb"
"""Where the manifest lies in a version's directory."""

MANIFEST_REVISION: Final = 1
"""The revision of the manifest's meaning that this code reads and writes."""

LONGEST_GATE_POLICY: Final = MAX_GATE_POLICY
"""Characters of `lineage.gate_policy`."""


class ManifestError(ValueError):
    """A manifest is missing, unreadable or makes no sense; the message names the field."""


class VersionCorrupt(ManifestError):  # noqa: N818 - it states what the version is
    """A version's files are not those that its manifest describes; the message names the file."""


def parse_manifest(data: bytes) -> manifest_pb2.ModelManifest:
    """The manifest in `data`, checked.

    Raises:
        ManifestError: The bytes are no manifest, or one of its fields is out of its range.
    """
    if not data:
        raise ManifestError("the manifest is empty")
    try:
        manifest = manifest_pb2.ModelManifest.FromString(data)
    except DecodeError as error:
        raise ManifestError(
            f"the manifest's {len(data)} bytes are not a serialized ModelManifest: {error}"
        ) from None
    check_manifest(manifest)
    return manifest


def check_manifest(manifest: manifest_pb2.ModelManifest) -> None:
    """Refuses a manifest whose fields do not make sense by themselves or together.

    Raises:
        ManifestError: Every complaint, each naming its field, the value and what would be right.
    """
    if manifest.manifest_revision != MANIFEST_REVISION:
        raise ManifestError(
            f"manifest_revision is {manifest.manifest_revision}, this code knows only {MANIFEST_REVISION}"
        )
    found = list(complaints(manifest))
    if manifest.model_digest != model_digest(manifest.files):
        found.append("model_digest is not the digest of files")
    if any(file.path == MANIFEST_FILE for file in manifest.files):
        found.append(f"files lists the manifest itself ({MANIFEST_FILE})")
    if found:
        raise ManifestError("; ".join(found))


def read_manifest(version_dir: Path) -> manifest_pb2.ModelManifest:
    """The checked manifest of the version in `version_dir`; its files are not looked at.

    Raises:
        ManifestError: There is none, or it is not valid.
        OSError: It cannot be read.
    """
    path = version_dir / MANIFEST_FILE
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ManifestError(f"{version_dir} has no manifest ({MANIFEST_FILE})") from None
    try:
        return parse_manifest(data)
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from None


def digest_files(version_dir: Path) -> list[manifest_pb2.FileDigest]:
    """Size and SHA-256 of every file of a version but the manifest, sorted by path.

    Raises:
        ManifestError: Something in there is neither a file nor a directory (links are refused too: what they
            point to may change).
        OSError: A file cannot be read.
    """
    digests = []
    for relative in sorted(_files(version_dir, follow=False)):
        if relative == MANIFEST_FILE:
            continue
        size, sha256 = _digest_file(version_dir / relative)
        digests.append(manifest_pb2.FileDigest(path=relative, size_bytes=size, sha256=sha256))
    return digests


def model_digest(files: Iterable[manifest_pb2.FileDigest]) -> str:
    r"""Hex SHA-256 over one line per file, in the order given: "<sha256> <size> <path>\n"."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.sha256} {file.size_bytes} {file.path}\n".encode())
    return digest.hexdigest()


def manifest_digest(data: bytes) -> str:
    """Hex SHA-256 of a serialized manifest: the fingerprint by which replies name a version's truth."""
    return hashlib.sha256(data).hexdigest()


def verify_version(version_dir: Path, *, model_name: str | None = None) -> manifest_pb2.ModelManifest:
    """Reads every file of a version and holds it to the manifest, behind whatever links it lies.

    Args:
        version_dir: A published version; its name is the version number.
        model_name: The model that it should belong to; None asks nothing.

    Returns:
        The manifest.

    Raises:
        VersionCorrupt: A file is missing, additional, of another size or content, or the manifest belongs to
            another version or model.
        ManifestError: There is no manifest, or it is not valid.
        OSError: A file cannot be read.
    """
    manifest = read_manifest(version_dir)
    if version_dir.name != str(manifest.version):
        raise VersionCorrupt(
            f"{version_dir}: the manifest is of version {manifest.version}, not {version_dir.name}"
        )
    if model_name is not None and manifest.model_name != model_name:
        raise VersionCorrupt(
            f"{version_dir}: the manifest is of model {manifest.model_name!r}, expected {model_name!r}"
        )
    expected = {file.path: file for file in manifest.files}
    present = set(version_files(version_dir)) - {MANIFEST_FILE}
    if missing := sorted(expected.keys() - present):
        raise VersionCorrupt(f"{version_dir}: {missing[0]} is missing")
    if additional := sorted(present - expected.keys()):
        raise VersionCorrupt(f"{version_dir}: {additional[0]} is not in the manifest")
    for relative, file in expected.items():
        path = version_dir / relative
        # Sizes first and cheaply: a truncated file need not be read to be known as such.
        if (size := path.stat().st_size) != file.size_bytes:
            raise VersionCorrupt(
                f"{version_dir}: {relative} has {size} bytes, its manifest says {file.size_bytes}"
            )
    for relative, file in expected.items():
        _, sha256 = _digest_file(version_dir / relative)
        if sha256 != file.sha256:
            raise VersionCorrupt(
                f"{version_dir}: {relative} has digest {sha256}, its manifest says {file.sha256}"
            )
    return manifest


def write_manifest(version_dir: Path, manifest: manifest_pb2.ModelManifest) -> manifest_pb2.ModelManifest:
    """Stores a manifest for the files that lie in `version_dir` now.

    Args:
        version_dir: The version's directory, complete but for the manifest.
        manifest: Everything but `manifest_revision`, `files` and `model_digest`, which a copy gets filled in.

    Returns:
        The manifest as it was stored. Equal manifests give equal bytes.

    Raises:
        ManifestError: The manifest does not make sense; nothing was written.
        OSError: It could not be written; a manifest that was there before still is.
    """
    complete = manifest_pb2.ModelManifest()
    complete.CopyFrom(manifest)
    complete.manifest_revision = MANIFEST_REVISION
    del complete.files[:]
    complete.files.extend(digest_files(version_dir))
    complete.model_digest = model_digest(complete.files)
    check_manifest(complete)
    path = version_dir / MANIFEST_FILE
    path.parent.mkdir(exist_ok=True)
    replace_file(path, serialize_manifest(complete))
    return complete


def serialize_manifest(manifest: manifest_pb2.ModelManifest) -> bytes:
    """The manifest's bytes, map entries in order, so that equal manifests have equal digests."""
    return manifest.SerializeToString(deterministic=True)


def version_files(version_dir: Path) -> Iterator[str]:
    """Paths of a published version's files, relative, with "/" between parts; links are followed.

    Names at the top that begin with ".." are left out: a volume of Kubernetes keeps there what its links lead
    to, and no model server looks at them.

    Raises:
        VersionCorrupt: Something is neither a file nor a folder, leads nowhere, or leads to a folder twice.
        OSError: A folder cannot be read; FileNotFoundError where there is none.
    """
    return _files(version_dir, follow=True)


def _files(root: Path, *, follow: bool) -> Iterator[str]:
    pending, seen = [""], {_identity(root.stat())}
    while pending:
        prefix = pending.pop()
        with os.scandir(root / prefix) as entries:
            for entry in entries:
                if follow and not prefix and entry.name.startswith(".."):
                    continue
                relative = prefix + entry.name
                if not relative.isprintable():
                    # Also names that are not UTF-8, which no manifest could hold.
                    raise VersionCorrupt(f"{root}: {relative!a} is not a name of printable characters")
                try:
                    status = entry.stat(follow_symlinks=follow)
                except OSError as error:
                    if not entry.is_symlink():
                        raise
                    raise VersionCorrupt(f"{root}: {relative} is a link that leads nowhere") from error
                if stat.S_ISDIR(status.st_mode):
                    if _identity(status) in seen:
                        raise VersionCorrupt(f"{root}: {relative} leads to a folder that is there already")
                    seen.add(_identity(status))
                    pending.append(f"{relative}/")
                elif stat.S_ISREG(status.st_mode):
                    yield relative
                else:
                    raise VersionCorrupt(f"{root}: {relative} is neither a file nor a directory")


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _digest_file(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return file.tell(), digest.hexdigest()
