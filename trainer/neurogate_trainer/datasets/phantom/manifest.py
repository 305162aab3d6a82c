"""The phantom's manifest, and the journal that takes its place while images are being rendered."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from neurogate_trainer._files import write_atomically
from neurogate_trainer.datasets.phantom.render import Description

MANIFEST_FILE = "manifest.csv"
JOURNAL_FILE = ".rendered.jsonl"


@dataclass(frozen=True, slots=True)
class Row:
    """One finished image, as the manifest lists it."""

    path: str
    split: str
    description: Description
    seed: str
    size_bytes: int
    sha256: str

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
        }


def read_journal(out: Path) -> Iterator[Row]:
    """What an interrupted run finished: the journal's whole lines whose files have the noted size."""
    with contextlib.suppress(FileNotFoundError):
        for line in (out / JOURNAL_FILE).read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError, KeyError, OSError):
                flat = json.loads(line)
                description = Description(**{field.name: flat[field.name] for field in fields(Description)})
                row = Row(
                    flat["path"], flat["split"], description, flat["seed"], flat["size_bytes"], flat["sha256"]
                )
                if (out / row.path).stat().st_size == row.size_bytes:
                    yield row


def write_manifest(out: Path, rows: Sequence[Row]) -> None:
    """Writes manifest.csv, which says that the data set is complete."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0].flat()), lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.flat() for row in rows)
    write_atomically(out / MANIFEST_FILE, text.getvalue().encode())


def read_sizes(out: Path) -> dict[str, int]:
    """Size in bytes of every image that manifest.csv lists.

    Raises:
        OSError, KeyError, TypeError, ValueError: There is no manifest, or it is damaged.
    """
    with (out / MANIFEST_FILE).open(newline="", encoding="utf-8") as handle:
        return {row["path"]: int(row["size_bytes"]) for row in csv.DictReader(handle)}
