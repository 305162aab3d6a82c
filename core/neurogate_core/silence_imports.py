"""Importing TensorFlow without the lines that it writes about its own build."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
    """Holds back what is written to standard error, natively too, and shows it when the block fails.

    TensorFlow's libraries write notices while they are loaded, before any setting of theirs applies.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with tempfile.TemporaryFile() as held:
            os.dup2(held.fileno(), 2)
            try:
                yield
            except BaseException:
                held.seek(0)
                os.write(kept, held.read())
                raise
            finally:
                sys.stderr.flush()
                os.dup2(kept, 2)
    finally:
        os.close(kept)
