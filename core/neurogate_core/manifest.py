"""The manifest of a model version: read, write and check it against the files that it describes.

A manifest is one serialized `neurogate.v1.ModelManifest`, stored as an asset of the version's SavedModel
so that the model server can answer it. Nothing here trusts one: whoever parses a manifest learns at once
whether every number in it makes sense, and `verify_version` whether it is about these files.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError, Message
from neurogate.v1 import manifest_pb2

from .files import replace_file, sha256_of
from .names import CLASS_ID_RULE, MODEL_NAME_RULE, is_class_id, is_model_name
from .preprocessing.transform import check_spec

MANIFEST_FILE: Final = "assets/neurogate_manifest.binpb"
"""Where the manifest lies in a version's directory."""

MANIFEST_REVISION: Final = 1
"""The revision of the manifest's meaning that this code reads and writes."""

LONGEST_GATE_POLICY: Final = 4096
"""Characters of `lineage.gate_policy`, which comes with every event of a retraining, too."""

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_BASE_WEIGHTS: Final = ("file", "imagenet", "offline-imagenet", "version", "random")
_MAX_GOLDEN_BYTES: Final = 256 * 1024
_MAX_VERSION: Final = 2**63 - 1


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
    _check(manifest)
    return manifest


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
        path = version_dir / relative
        size = path.stat().st_size
        digests.append(manifest_pb2.FileDigest(path=relative, size_bytes=size, sha256=sha256_of(path)))
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
    """Compares every file of a version with its manifest; links are followed.

    Args:
        version_dir: A published version; its name is the version number.
        model_name: The model that it has to belong to; None for any.

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
        sha256 = sha256_of(version_dir / relative)
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
    _check(complete)
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


# --- what has to hold within a manifest: one sentence for each complaint -------------------------


def _check(manifest: manifest_pb2.ModelManifest) -> None:
    if manifest.manifest_revision != MANIFEST_REVISION:
        raise ManifestError(
            f"manifest_revision is {manifest.manifest_revision}, this code knows only {MANIFEST_REVISION}"
        )
    if found := [*_complaints(manifest)]:
        raise ManifestError("; ".join(found))


def _complaints(manifest: manifest_pb2.ModelManifest) -> Iterator[str]:
    if not is_model_name(manifest.model_name):
        yield f"model_name is {manifest.model_name!r}, expected {MODEL_NAME_RULE}"
    if not 1 <= manifest.version <= _MAX_VERSION:
        yield f"version is {manifest.version}, expected at least 1"
    if not manifest.HasField("created_at") or manifest.created_at.seconds <= 0:
        yield "created_at is not set"
    elif not 0 <= manifest.created_at.nanos < 1_000_000_000:
        yield f"created_at.nanos is {manifest.created_at.nanos}, expected 0 to 999999999"
    yield from _files_complaints(manifest)
    yield from _classes_complaints(manifest)
    try:
        check_spec(manifest.transform)
    except ValueError as error:
        yield str(error)
    for part in ("calibration", "thresholds", "metrics", "localisation", "lineage"):
        yield from _ranges(part, getattr(manifest, part))
    temperature, thresholds = manifest.calibration.temperature, manifest.thresholds
    if not (temperature > 0 and math.isfinite(temperature)):
        yield f"calibration.temperature is {temperature:g}, expected a finite number above 0"
    if thresholds.HasField("out_of_distribution_above"):
        if not math.isfinite(limit := thresholds.out_of_distribution_above):
            yield f"thresholds.out_of_distribution_above is {limit:g}, expected a finite number or none"
        if not thresholds.ood_method:
            yield "thresholds.ood_method is empty, expected the name of the score that the limit is for"
    low, high = manifest.metrics.accuracy_ci_low, manifest.metrics.accuracy_ci_high
    if low > high:
        yield f"metrics.accuracy_ci_low is {low:g}, above accuracy_ci_high ({high:g})"
    yield from _lineage_complaints(manifest.lineage)
    yield from _goldens_complaints(manifest)


def _files_complaints(manifest: manifest_pb2.ModelManifest) -> Iterator[str]:
    paths = [file.path for file in manifest.files]
    if not paths:
        yield "files is empty, expected every file of the version"
    if paths != sorted(set(paths)):
        yield "files is not sorted by path, or names a path twice"
    if MANIFEST_FILE in paths:
        yield f"files lists the manifest itself ({MANIFEST_FILE})"
    for file in manifest.files:
        if not file.path.isprintable() or not {"", ".", ".."}.isdisjoint(file.path.split("/")):
            yield f"files has path {file.path!r}, expected a relative path of plain parts"
        if file.size_bytes < 0:
            yield f"files[{file.path}].size_bytes is {file.size_bytes}, expected at least 0"
        if not _SHA256.fullmatch(file.sha256):
            yield f"files[{file.path}].sha256 is {file.sha256!r}, expected 64 lower-case hex digits"
    if manifest.model_digest != model_digest(manifest.files):
        yield "model_digest is not the digest of files"


def _classes_complaints(manifest: manifest_pb2.ModelManifest) -> Iterator[str]:
    if len(manifest.classes) < 2:
        yield f"classes has {len(manifest.classes)} entries, expected at least 2"
    indices = [entry.index for entry in manifest.classes]
    if indices != list(range(len(indices))):
        yield f"classes have indices {indices}, expected 0 to {len(indices) - 1} in order"
    names = [entry.id for entry in manifest.classes]
    for entry in manifest.classes:
        if not is_class_id(entry.id):
            yield f"classes[{entry.index}].id is {entry.id!r}, expected {CLASS_ID_RULE}"
        if not entry.display_name.strip():
            yield f"classes[{entry.index}].display_name is empty"
    yield from (f"classes has id {name!r} twice" for name in sorted(set(names)) if names.count(name) > 1)
    measured = [entry.class_id for entry in manifest.metrics.per_class]
    if measured and measured != names:
        yield f"metrics.per_class is about {measured}, expected {names}"


_NO_SHARES: Final = ("temperature", "out_of_distribution_above")


def _ranges(where: str, message: Message) -> Iterator[str]:
    """Complaints about numbers: shares are 0 to 1, counts are not negative, all the way down."""
    for field, value in message.ListFields():
        name = f"{where}.{field.name}"
        if field.type == field.TYPE_DOUBLE and field.name not in _NO_SHARES:
            if not 0.0 <= value <= 1.0:  # also true of NaN
                yield f"{name} is {value:g}, expected 0 to 1"
        elif field.type == field.TYPE_INT64 and value < 0:
            yield f"{name} is {value}, expected at least 0"
        elif field.name == "per_class":
            for entry in value:
                yield from _ranges(f"{name}[{entry.class_id}]", entry)
        elif isinstance(value, Message):
            yield from _ranges(name, value)


def _lineage_complaints(lineage: manifest_pb2.Lineage) -> Iterator[str]:
    for name in ("dataset_digest", "base_weights_digest", "examples_digest"):
        value = getattr(lineage, name)
        if value and not _SHA256.fullmatch(value):
            yield f"lineage.{name} is {value!r}, expected 64 lower-case hex digits or nothing"
    if lineage.base_weights and lineage.base_weights not in _BASE_WEIGHTS:
        yield f"lineage.base_weights is {lineage.base_weights!r}, expected one of {', '.join(_BASE_WEIGHTS)}"
    if lineage.HasField("parent_version") and lineage.parent_version < 1:
        yield f"lineage.parent_version is {lineage.parent_version}, expected at least 1 or none"
    if (length := len(lineage.gate_policy)) > LONGEST_GATE_POLICY:
        yield f"lineage.gate_policy has {length} characters, expected at most {LONGEST_GATE_POLICY}"


def _goldens_complaints(manifest: manifest_pb2.ModelManifest) -> Iterator[str]:
    if len(manifest.goldens) < len(manifest.classes):
        yield f"goldens has {len(manifest.goldens)} entries, expected at least one per class"
    seen = set()
    for index, golden in enumerate(manifest.goldens):
        where = f"goldens[{golden.name or index}]"
        if not golden.name:
            yield f"goldens[{index}].name is empty"
        if golden.name in seen:
            yield f"goldens has name {golden.name!r} twice"
        seen.add(golden.name)
        if not 1 <= len(golden.image) <= _MAX_GOLDEN_BYTES:
            yield f"{where}.image has {len(golden.image)} bytes, expected 1 to {_MAX_GOLDEN_BYTES}"
        if not _SHA256.fullmatch(golden.pixels_sha256):
            yield f"{where}.pixels_sha256 is {golden.pixels_sha256!r}, expected 64 lower-case hex digits"
        if len(golden.probabilities) != len(manifest.classes):
            yield f"{where} has {len(golden.probabilities)} probabilities, expected {len(manifest.classes)}"
        elif not all(0.0 <= value <= 1.0 for value in golden.probabilities):
            yield f"{where} has a probability outside 0 to 1"
        elif abs(sum(golden.probabilities) - 1.0) > 0.01:
            yield f"{where} has probabilities that add up to {sum(golden.probabilities):g}, expected 1"
        if not 0.0 <= golden.tolerance < 1.0:
            yield f"{where}.tolerance is {golden.tolerance:g}, expected 0 (the default) or more, below 1"
