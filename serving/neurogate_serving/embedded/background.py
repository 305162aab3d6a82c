"""What a load owes to those who are served meanwhile: the processor first, and its memory afterwards.

A load keeps a core busy for a second, callers' requests take milliseconds. TensorFlow leaves tens of
megabytes of small free pieces behind, which the C library keeps.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from typing import Final

_STEPS: Final = 10
_LOWEST: Final = 19


def give_way() -> None:
    """Lets other threads go first from now on, for as long as this thread lives.

    Threads that it starts inherit that. On systems other than Linux, where a priority is that of a whole
    process, nothing changes.
    """
    if sys.platform == "linux":
        usual = os.getpriority(os.PRIO_PROCESS, os.getpid())
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(_LOWEST, usual + _STEPS))


def return_memory() -> None:
    """Gives free memory back to the system, where the C library has a call for that (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
