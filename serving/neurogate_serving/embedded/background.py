"""What a load owes to those who are served meanwhile: the processor, and the interpreter's time.

A load keeps a core busy for a second, callers' requests take milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

ResultT = TypeVar("ResultT")

_STEPS: Final = 10
_LOWEST: Final = 19
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_LARGEST_MMAP_THRESHOLD: Final = 32 * 2**20


def at_once(work: Callable[[], ResultT]) -> ResultT:
    """Does the work here and now."""
    return work()


def behind_others(work: Callable[[], ResultT]) -> ResultT:
    """Does the work in a thread of low priority (Linux) and waits for it; passes on what it raises.

    For work that leaves the interpreter alone: a thread that waits for its turn while it holds the
    interpreter's lock holds up everybody. Threads that the work starts inherit the priority.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="behind", initializer=_give_way) as thread:
        return thread.submit(work).result()


def _give_way() -> None:
    # Elsewhere a priority is that of the whole process.
    if sys.platform == "linux":
        usual = os.getpriority(os.PRIO_PROCESS, os.getpid())
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(_LOWEST, usual + _STEPS))


def keep_freed_memory() -> None:
    """Lets this process keep the memory that a load leaves free, for the next one (glibc).

    Given back, every page of it would have to be had anew, with the interpreter's lock held.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        # Both: to set one ends the adjustment of the other, which begins too low for a network's tensors.
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
