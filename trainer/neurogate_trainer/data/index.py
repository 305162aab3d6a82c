"""The index of a data set: what every image is, computed once, stored as one SQLite file."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import astuple, dataclass
from itertools import islice
from pathlib import Path

from neurogate_core.files import replacing
from neurogate_core.preprocessing.transform import TransformError, decode, default_spec, resize
from PIL import Image

from neurogate_trainer.progress import Reporter

from .groups import read_groups
from .layout import DatasetError, ImageFile, dataset_name, find_images, listed, shown, turned_round
from .masks import check_masks
from .phash import perceptual_hash, to_gray

MIN_IMAGES_PER_CLASS = 5
"""Fewer readable images than this cannot be spread over training, validation and test."""

MAX_FILE_BYTES = 256 * 2**20
"""Larger files are listed as unreadable without being read."""

_WARNED_ONE_BY_ONE = 20
"""Unusable files that get a warning each; the index lists all."""

_SPEC = default_spec()
_SCHEMA_VERSION = "1"
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE image (
    path TEXT PRIMARY KEY, class_id TEXT NOT NULL, sha256 TEXT NOT NULL, phash TEXT NOT NULL,
    width INTEGER NOT NULL, height INTEGER NOT NULL, mode TEXT NOT NULL, brightness REAL NOT NULL,
    given_split TEXT NOT NULL, group_id TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE unreadable (path TEXT PRIMARY KEY, class_id TEXT NOT NULL, reason TEXT NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One usable image.

    Attributes:
        path: Path relative to the data set's root, with "/" between parts; absolute for an example that lies
            elsewhere, which joining it to the root leaves as it is.
        class_id: Name of its class folder.
        sha256: Hex digest of the file's bytes.
        phash: 64-bit perceptual hash (`data.phash`).
        width: Width in pixels, as the file stores it.
        height: Height in pixels, as the file stores it.
        mode: Pillow's name of the stored pixel format, e.g. "L" or "RGB".
        brightness: Mean luma of the transformed image, 0 to 255.
        given_split: "train" or "test" where the data set says so, else "".
        group: What the image shares with others, e.g. a patient; "" where nothing is known.
    """

    path: str
    class_id: str
    sha256: str
    phash: int
    width: int
    height: int
    mode: str
    brightness: float
    given_split: str
    group: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file that is left out, and why; its class is empty where it lies in no class folder."""

    path: str
    class_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class DatasetIndex:
    """All usable images of a data set, sorted by path, and the files that are not usable."""

    root: Path
    name: str
    classes: tuple[str, ...]
    records: tuple[ImageRecord, ...]
    unreadable: tuple[Unreadable, ...]

    def digest(self) -> str:
        """Hex SHA-256 over classes and images (path, class, content, split, group), not the location."""
        content = [[r.path, r.class_id, r.sha256, r.given_split, r.group] for r in self.records]
        text = json.dumps([self.classes, content], separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def counts(self) -> dict[str, int]:
        """Number of images per class, in class order."""
        counted = Counter(record.class_id for record in self.records)
        return {class_id: counted[class_id] for class_id in self.classes}

    def save(self, path: Path) -> None:
        """Writes the index as one SQLite file, replacing an older one in one step.

        Raises:
            DatasetError: The disk is full or the folder cannot be written.
        """
        try:
            with replacing(path) as temporary:
                self._write(temporary)
        except (OSError, sqlite3.OperationalError) as error:
            raise DatasetError(f"{path} cannot be written: {error}") from error

    def _write(self, path: Path) -> None:
        with contextlib.closing(sqlite3.connect(path)) as database:
            # The file takes its name only when it is complete, so a journal beside it would protect nothing.
            database.execute("PRAGMA journal_mode=OFF")
            database.executescript(_SCHEMA)
            meta = {"schema": _SCHEMA_VERSION, "name": self.name, "classes": json.dumps(self.classes)}
            database.executemany("INSERT INTO meta VALUES (?, ?)", sorted(meta.items()))
            rows = [(*values[:3], f"{values[3]:016x}", *values[4:]) for values in map(astuple, self.records)]
            database.executemany("INSERT INTO image VALUES (?,?,?,?,?,?,?,?,?,?)", rows)
            database.executemany("INSERT INTO unreadable VALUES (?,?,?)", map(astuple, self.unreadable))
            database.commit()

    @classmethod
    def load(cls, path: Path, root: Path) -> DatasetIndex:
        """Reads a saved index of the data set that lies in `root`.

        Raises:
            DatasetError: The file is missing, no index, or one of another revision.
        """
        if not path.is_file():
            raise DatasetError(f"there is no index at {path}")
        try:
            with contextlib.closing(
                sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
            ) as database:
                meta = dict(database.execute("SELECT key, value FROM meta"))
                if meta.get("schema") != _SCHEMA_VERSION:
                    found = meta.get("schema")
                    raise DatasetError(
                        f"{path} has schema {found!r}, expected {_SCHEMA_VERSION!r}; build it anew"
                    )
                rows = database.execute("SELECT * FROM image ORDER BY path")
                records = tuple(
                    ImageRecord(path, class_id, sha256, int(phash, 16), *rest)
                    for path, class_id, sha256, phash, *rest in rows
                )
                unreadable = tuple(
                    Unreadable(*row) for row in database.execute("SELECT * FROM unreadable ORDER BY path")
                )
            return cls(root, meta["name"], tuple(json.loads(meta["classes"])), records, unreadable)
        except (sqlite3.DatabaseError, KeyError, ValueError, TypeError) as error:
            if isinstance(error, DatasetError):
                raise
            raise DatasetError(f"{path} is not an index ({error}); build it anew") from error


def build_index(
    root: Path, *, name: str | None = None, workers: int | None = None, reporter: Reporter
) -> DatasetIndex:
    """Reads every image below `root` once, on all cores.

    `root` is a folder of class folders, or of Training/ and Testing/ with class folders. A file groups.csv in
    it (columns path, group) names what images share, e.g. the patient; `data.masks` says where masks of
    lesions may lie.

    An image counts as readable exactly when the serving transform accepts it, so whatever is indexed can be
    trained on and served. All others are listed with the reason.

    Raises:
        DatasetError: Unknown layout, one class only, a class with too few readable images, a bad groups.csv
            or mask.
    """
    root = root.expanduser().resolve()
    layout = find_images(root)
    counts = Counter(file.class_id for file in layout.files)
    _check_counts(root, {class_id: counts[class_id] for class_id in layout.classes}, layout.files)
    groups = read_groups(root, {file.path for file in layout.files})
    records, unreadable = index_images(root, layout.files, groups, workers=workers, reporter=reporter)
    for reason, count in Counter(entry.reason for entry in layout.left_out).items():
        example = next(entry.path for entry in layout.left_out if entry.reason == reason)
        reporter.message(f"left out {count:,}, e.g. {shown(example)}: {reason}", level="warning")
    unreadable += [Unreadable(entry.path, "", entry.reason) for entry in layout.left_out]
    unreadable.sort(key=lambda entry: entry.path)
    index = DatasetIndex(root, name or dataset_name(root), layout.classes, tuple(records), tuple(unreadable))
    _check_counts(root, index.counts(), layout.files, len(unreadable))
    check_masks(root, index.records, reporter=reporter)
    return index


def index_images(
    root: Path,
    files: Sequence[ImageFile],
    groups: Mapping[str, str],
    *,
    workers: int | None = None,
    reporter: Reporter,
) -> tuple[list[ImageRecord], list[Unreadable]]:
    """Reads the given images, in their order: the usable ones and the others; see `build_index`."""
    records: list[ImageRecord] = []
    unreadable: list[Unreadable] = []
    reporter.phase("index", total=len(files), unit="images")
    with ThreadPoolExecutor(workers or usable_cores()) as pool:
        for found in _bounded_map(pool, root, files, groups):
            if isinstance(found, ImageRecord):
                records.append(found)
            else:
                unreadable.append(found)
                if len(unreadable) <= _WARNED_ONE_BY_ONE:
                    reporter.message(f"left out {shown(found.path)}: {found.reason}", level="warning")
            reporter.advance()
    if (more := len(unreadable) - _WARNED_ONE_BY_ONE) > 0:
        reporter.message(f"left out {more:,} more files; the index lists them", level="warning")
    return records, unreadable


def usable_cores() -> int:
    """Cores that this process may run on, which in a container can be fewer than the machine has."""
    return len(os.sched_getaffinity(0))


def _bounded_map(
    pool: ThreadPoolExecutor, root: Path, files: Sequence[ImageFile], groups: Mapping[str, str]
) -> Iterator[ImageRecord | Unreadable]:
    """Results in the order of `files`; a few hundred are under way at most, none after an interruption."""
    waiting: list[Future[ImageRecord | Unreadable]] = []
    remaining = iter(files)
    try:
        while True:
            waiting += [
                pool.submit(_read, root, file, groups.get(file.path, ""))
                for file in islice(remaining, 256 - len(waiting))
            ]
            if not waiting:
                return
            yield waiting.pop(0).result()
    finally:
        for future in waiting:
            future.cancel()


def _read(root: Path, file: ImageFile, group: str) -> ImageRecord | Unreadable:
    path = root / file.path
    try:
        file.path.encode()
    except UnicodeEncodeError:
        # What cannot be written down cannot be listed, stored or reported under its own name.
        name = file.path.encode(errors="backslashreplace").decode()
        return Unreadable(name, file.class_id, "the file name is not UTF-8")
    try:
        if not path.is_file():
            return Unreadable(file.path, file.class_id, "not a regular file")
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
            return Unreadable(file.path, file.class_id, f"{size} bytes, expected at most {MAX_FILE_BYTES}")
        data = path.read_bytes()
        decoded = decode(data, _SPEC)
        pixels = resize(decoded.image, _SPEC)
        (width, height), mode = decoded.image.size, decoded.image.mode
        # A DICOM file's header is read by its decoder alone.
        if not decoded.attributes:
            with Image.open(io.BytesIO(data)) as image:
                (width, height), mode = image.size, image.mode
    except TransformError as error:
        return Unreadable(file.path, file.class_id, f"{error.reason}: {error}")
    except OSError as error:
        return Unreadable(file.path, file.class_id, error.strerror or str(error))
    gray = to_gray(pixels)
    return ImageRecord(
        path=file.path,
        class_id=file.class_id,
        sha256=hashlib.sha256(data).hexdigest(),
        phash=perceptual_hash(gray),
        width=width,
        height=height,
        mode=mode,
        brightness=round(float(gray.mean(dtype="float64")), 3),
        given_split=file.given_split,
        group=group,
    )


def _check_counts(
    root: Path, counts: Mapping[str, int], files: Sequence[ImageFile], unreadable: int = 0
) -> None:
    short = [class_id for class_id, count in counts.items() if count < MIN_IMAGES_PER_CLASS]
    if not short:
        return
    hint = turned_round(files)
    found = listed(f"{class_id}: {count}" for class_id, count in counts.items())
    raise DatasetError(
        f"{root} has too few readable images of {listed(short)}: found {found}; {unreadable} files are "
        f"unreadable; expected {MIN_IMAGES_PER_CLASS} or more per class{'. ' if hint else ''}{hint}"
    )
