"""Names that become directories."""

from __future__ import annotations

import re

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")

MODEL_NAME_RULE = "1 to 128 letters, digits, '_', '-' or '.', not starting with '-' or '.'"


def is_model_name(name: str) -> bool:
    """Whether `name` can name a model, or a run: one plain path component, the same on every system."""
    return _NAME.fullmatch(name) is not None
