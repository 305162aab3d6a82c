"""What lies in the demo's folder: whether it is complete, and what was held out."""

from __future__ import annotations

import contextlib
import enum
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from neurogate_cli.local_stack._version_files import published_versions


class DemoError(Exception):
    """The demo's folder holds something that the demo cannot use; the message says what to do."""


class Missing(enum.Enum):
    """What has to be made before images can be classified."""

    IMAGES = "the held-out images, or some of them"
    VERSION = "a published version of a finished run"


@dataclass(frozen=True, slots=True)
class Paths:
    """Where things lie in the demo's folder."""

    folder: Path

    @property
    def data(self) -> Path:
        """The data set."""
        return self.folder / "data"

    @property
    def models(self) -> Path:
        """The model repository."""
        return self.folder / "models"

    @property
    def run(self) -> Path:
        """The training run."""
        return self.folder / "run"

    @property
    def records(self) -> Path:
        """What the gateway keeps: examples and retrainings."""
        return self.folder / "records"

    @property
    def new(self) -> Path:
        """Labelled images that come later, for the loop."""
        return self.folder / "new"

    @property
    def policy(self) -> Path:
        """What the loop's gate asks for."""
        return self.folder / "policy.toml"

    @property
    def evidence(self) -> Path:
        """The picture of an answer's evidence."""
        return self.folder / "evidence.png"

    @property
    def dicom(self) -> Path:
        """One of the held-out images as a DICOM file."""
        return self.folder / "slice.dcm"

    @property
    def logs(self) -> Path:
        """Logs of the servers."""
        return self.folder / "logs"


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
    if version not in published_versions(paths.models, model):
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


@contextlib.contextmanager
def log_files(folder: Path) -> Iterator[Callable[[str, str], None]]:
    """Writes lines into one file a process, begun anew."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as files:
        opened: dict[str, TextIO] = {}

        def write(name: str, line: str) -> None:
            # Lines still arrive while the servers stop, and then nobody reads them any more.
            with contextlib.suppress(ValueError, OSError):
                if name not in opened:
                    opened[name] = files.enter_context(
                        (folder / f"{name}.log").open("w", encoding="utf-8", errors="backslashreplace")
                    )
                opened[name].write(f"{line}\n")
                opened[name].flush()

        yield write
