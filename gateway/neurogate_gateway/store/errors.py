"""Why the records cannot be used at all; free of what they are made with, so that everybody may import it."""

from __future__ import annotations


class RecordsSetupError(Exception):
    """The records cannot be used at all; the message says what to do about it."""
