"""SIGTERM ends a run in order, as an exception, until its version is being published."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Final, NoReturn

STOPPED_STATUS: Final = 128 + signal.SIGTERM
"""Exit status of a run that was asked to stop."""


def stop_on_sigterm() -> None:
    """From now on SIGTERM raises SystemExit in the main thread, which tidies up on its way out."""
    signal.signal(signal.SIGTERM, _stop)


def past_stopping() -> None:
    """From now on SIGTERM is ignored, where `stop_on_sigterm` was called.

    A publication and the word of it belong together; both are there a moment later.
    """
    if signal.getsignal(signal.SIGTERM) is _stop:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _stop(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - what the system calls it with
    raise SystemExit(STOPPED_STATUS)
