"""The phantom's manifest, and the journal that takes its place while images are being rendered."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from neurogate_core.files import replace_file

from neurogate_trainer.data.masks import mask_path

from .render import Description

MANIFEST_FILE = "manifest.csv"
JOURNAL_FILE = ".rendered.jsonl"


@dataclass(frozen=True, slots=True)
class Row:
    """One finished image, as the manifest lists it; `mask_bytes` is the size of its mask, 0 for none."""

    path: str
    split: str
    description: Description
    seed: str
    size_bytes: int
    sha256: str
    mask_bytes: int

    def to_line(self) -> str:
        """The row as the journal holds it."""
        return json.dumps(self.flat()) + "\n"

    def flat(self) -> dict[str, str | int | float]:
        """The row as the manifest holds it, by column."""
        return {
            "path": self.path,
            "split": self.split,
            **asdict(self.description),
            "seed": self.seed,
            "size_bytes": self.size_bytes,
            "sha256": self.sha256,
            "mask_bytes": self.mask_bytes,
        }

    def is_there(self, out: Path) -> bool:
        """Whether image and mask have the noted sizes, which a crash may have cut short."""
        try:
            return (out / self.path).stat().st_size == self.size_bytes and (
                not self.mask_bytes or (out / mask_path(self.path)).stat().st_size == self.mask_bytes
            )
        except OSError:
            return False


def read_journal(out: Path) -> Iterator[Row]:
    """What an interrupted run finished: the journal's whole lines whose files have the noted sizes."""
    with contextlib.suppress(FileNotFoundError):
        for line in (out / JOURNAL_FILE).read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                flat = json.loads(line)
                names = [field.name for field in fields(Description)]
                description = Description(**{name: flat.pop(name) for name in names})
                row = Row(description=description, **flat)
                if row.is_there(out):
                    yield row


def write_manifest(out: Path, rows: Sequence[Row]) -> None:
    """Writes manifest.csv, which says that the data set is complete."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0].flat()), lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.flat() for row in rows)
    replace_file(out / MANIFEST_FILE, text.getvalue().encode())


@dataclass(frozen=True, slots=True)
class Listed:
    """What manifest.csv says of an image's files; `mask_bytes` is None in sets of before there were masks."""

    size_bytes: int
    sha256: str
    mask_bytes: int | None


def read_listed(out: Path) -> dict[str, Listed]:
    """Every image that manifest.csv lists, by path, if all of them are there; else nothing."""
    try:
        with (out / MANIFEST_FILE).open(newline="", encoding="utf-8") as handle:
            listed = {
                row["path"]: Listed(
                    int(row["size_bytes"]),
                    row["sha256"],
                    int(row["mask_bytes"]) if row.get("mask_bytes") else None,
                )
                for row in csv.DictReader(handle)
            }
        whole = all((out / path).stat().st_size == each.size_bytes for path, each in listed.items())
    except (OSError, KeyError, TypeError, ValueError):
        return {}
    return listed if whole else {}


def masks_are_there(out: Path, listed: Mapping[str, Listed]) -> bool:
    """Whether every mask that the manifest lists has the listed size."""
    try:
        return all(
            each.mask_bytes == 0
            or (each.mask_bytes and (out / mask_path(path)).stat().st_size == each.mask_bytes)
            for path, each in listed.items()
        )
    except OSError:
        return False
