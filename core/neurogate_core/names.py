"""Names that become directories, and those of classes and of sets of images."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_VERSION = re.compile(r"[ \t\n\v\f\r]*([+-]?[0-9]+)[ \t\n\v\f\r]*")
_CLASS_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

MODEL_NAME_RULE = "1 to 128 letters, digits, '_', '-' or '.', not starting with '-' or '.'"
CLASS_ID_RULE = "up to 64 letters (A-Z, a-z), digits, '_', '-' or '.', the first a letter or digit"


def version_number(name: str) -> int | None:
    """The version that TensorFlow Serving reads from a name: any decimal of 64 bits, as 7, 007, +8 or -4."""
    match = _VERSION.fullmatch(name)
    number = int(match[1]) if match else None
    return number if number is not None and -(2**63) <= number < 2**63 else None


def is_model_name(name: str) -> bool:
    """Whether `name` can name a model, or a run: one plain path component, the same on every system."""
    return _NAME.fullmatch(name) is not None


def is_class_id(name: str) -> bool:
    """Whether `name` can name a class: the same to every program, shell and file system."""
    return _CLASS_ID.fullmatch(name) is not None


def images_digest(digests: Iterable[str]) -> str:
    """Names a set of images: hex SHA-256 of their digests, sorted and joined by newlines.

    Gateway and trainer compare what they have from each other by it.
    """
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()
