"""groups.csv: which images of a data set belong together, e.g. to one patient."""

from __future__ import annotations

import csv
import unicodedata
from pathlib import Path

from .layout import DatasetError

GROUPS_FILE = "groups.csv"


def read_groups(root: Path, known_paths: set[str]) -> dict[str, str]:
    """The group of every image that `root`/groups.csv names; empty when there is no such file.

    Raises:
        DatasetError: Wrong columns, an unknown path, or one path in two groups; the message names the line.
    """
    path = root / GROUPS_FILE
    if not path.is_file():
        return {}
    groups: dict[str, str] = {}
    known = {_plain(image): image for image in known_paths}
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle)
            columns = reader.fieldnames or []
            if "path" not in columns or "group" not in columns:
                raise DatasetError(
                    f"{path} has the columns {', '.join(columns) or 'none'}, expected path,group"
                )
            for row in reader:
                named, group = row["path"] or "", (row["group"] or "").strip()
                # As Windows writes paths, and as macOS writes letters with marks.
                image = known.get(_plain(named), named) if named not in known_paths else named
                if image not in known_paths:
                    raise DatasetError(f"{path}, line {reader.line_num}: there is no image {image!r}")
                if groups.setdefault(image, group) != group:
                    raise DatasetError(f"{path}, line {reader.line_num}: {image!r} is in two groups")
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path} is not a CSV file in UTF-8: {error}") from error
    return {image: group for image, group in groups.items() if group}


def _plain(path: str) -> str:
    return unicodedata.normalize("NFC", path.replace("\\", "/"))
