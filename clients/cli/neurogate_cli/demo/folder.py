"""What lies in the demo's folder: whether it is complete, and what was held out."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurogate_core.repository import ModelRepository


class DemoError(Exception):
    """The demo's folder holds something that the demo cannot use; the message says what to do."""


class Missing(enum.Enum):
    """What has to be made before images can be classified."""

    IMAGES = "the held-out images, or some of them"
    VERSION = "a published version of a finished run"


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


def what_is_missing(paths: Paths, model: str) -> Missing | None:
    """What a demo in this folder has to make first; None when everything is there."""
    try:
        version = published_version(paths)
        images = held_out_images(paths)
    except DemoError:
        return Missing.VERSION
    if version not in ModelRepository(paths.models).versions(model):
        return Missing.VERSION
    return None if all(each.path.is_file() for each in images) else Missing.IMAGES


def published_version(paths: Paths) -> int:
    """The version that the run has published.

    Raises:
        DemoError: it has not.
    """
    record = _read(paths.run / "published.json")
    version = record.get("version")
    if not isinstance(version, int) or version < 1:
        raise DemoError(
            f"{paths.run / 'published.json'} names no version; remove {paths.run} and run the demo again"
        )
    return version


def held_out_images(paths: Paths) -> list[HeldOut]:
    """The images of the run's test split, in the split's order.

    Raises:
        DemoError: there is no such split.
    """
    entries = _read(paths.run / "splits.json").get("test")
    try:
        images = [HeldOut(each["path"], paths.data / each["path"], each["class"]) for each in entries or ()]
    except (TypeError, KeyError):
        images = []
    if not images:
        raise DemoError(
            f"{paths.run / 'splits.json'} names no test images; remove {paths.run} and run the demo again"
        )
    return images


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DemoError(
            f"cannot read {path} ({error}); remove {path.parent} and run the demo again"
        ) from error
    return document if isinstance(document, dict) else {}
