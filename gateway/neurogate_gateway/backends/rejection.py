"""Why a version may not serve: for people in a sentence, for counters and programs in a kind."""

from __future__ import annotations

import enum
import re


class Rejection(enum.StrEnum):
    """Kinds of rejection, as metrics and the log name them."""

    LOAD_FAILED = "load_failed"
    """The model server could not load it, as when it was copied half."""
    NOT_DESCRIBED = "not_described"
    """It does not answer the signature "describe", so nothing is known about it."""
    MANIFEST_INVALID = "manifest_invalid"
    """Its manifest cannot be read, or makes no sense."""
    MANIFEST_OF_ANOTHER = "manifest_of_another"
    """Its manifest is another model's or version's."""
    TRANSFORM_UNKNOWN = "transform_unknown"
    """It asks for a revision of the transform that this gateway does not implement."""
    FILES_DIFFER = "files_differ"
    """Its files are not those that its manifest lists."""
    GOLDENS_DIFFER = "goldens_differ"
    """It does not give here what it gave where it was trained."""
    NUMBER_TAKEN = "number_taken"
    """Another model server already serves something else under this number."""
    PROOF_FAILED = "proof_failed"
    """Its proof broke off too often."""


class UnprovenError(Exception):
    """The version must not serve; the message says why, for people."""

    def __init__(self, kind: Rejection, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def tidy(text: str) -> str:
    """The first line of the model server's words, without paths: those are its own affair."""
    return re.sub(r"(?:/[\w.@+-]+){2,}/?", "(path)", text.partition("\n")[0])[:300]
