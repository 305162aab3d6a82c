"""What lies in the demo's folder: whether it is complete, and what was held out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurogate_cli.local_stack.servers import published_versions


class DemoError(Exception):
    """The demo's folder holds something that the demo cannot use; the message says what to do."""


class Paths:
    """Where things lie in the demo's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.models = folder / "models"
        self.run = folder / "run"
        self.records = folder / "records"
        self.logs = folder / "logs"
        # The loop's: labelled images that come later, and what its gate asks for.
        self.new = folder / "new"
        self.policy = folder / "policy.toml"
        # An answer's evidence, and one of the held-out images as a DICOM file.
        self.evidence = folder / "evidence.png"
        self.dicom = folder / "slice.dcm"


@dataclass(frozen=True, slots=True)
class HeldOut:
    """One image of the test split."""

    name: str
    path: Path
    class_id: str


def has_version(paths: Paths, model: str) -> bool:
    """Whether the run has published a version that is still there."""
    try:
        version = published_version(paths)
        held_out_images(paths)
    except DemoError:
        return False
    return version in published_versions(paths.models, model)


def published_version(paths: Paths) -> int:
    """The version that the run has published.

    Raises:
        DemoError: it has not.
    """
    path = paths.run / "published.json"
    version = _read(path).get("version")
    if not isinstance(version, int) or version < 1:
        raise _useless(path, "it names no version")
    return version


def held_out_images(paths: Paths) -> list[HeldOut]:
    """The images of the run's test split, in the split's order.

    Raises:
        DemoError: there is no such split.
    """
    path = paths.run / "splits.json"
    entries = _read(path).get("test")
    try:
        images = [HeldOut(each["path"], paths.data / each["path"], each["class"]) for each in entries or ()]
    except (TypeError, KeyError):
        images = []
    if not images:
        raise _useless(path, "it names no test images")
    return images


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _useless(path, str(error)) from error
    return document if isinstance(document, dict) else {}


def _useless(path: Path, why: str) -> DemoError:
    return DemoError(f"{path} cannot be used ({why}); remove {path.parent} and run the demo again")
