"""A load gives way to callers: it runs at a low priority, and gives its memory back afterwards.

A load keeps a core busy for a second, callers' requests take milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, TypeVar

ResultT = TypeVar("ResultT")

_STEPS: Final = 10
_LOWEST: Final = 19


def run_at_once(work: Callable[[], ResultT]) -> ResultT:
    """Does the work here and now."""
    return work()


def run_low_priority(work: Callable[[], ResultT]) -> ResultT:
    """Does the work in a thread of low priority (Linux) and waits for it; passes on what it raises.

    For work that leaves the interpreter alone: a thread that waits for its turn while it holds the
    interpreter's lock holds up everybody. Threads that the work starts inherit the priority. The end of the
    process does not wait for it.
    """
    outcome: Future[ResultT] = Future()

    def run() -> None:
        try:
            _give_way()
            outcome.set_result(work())
        except BaseException as error:  # noqa: BLE001 - the caller's, whatever it is
            outcome.set_exception(error)

    # Not a pool's thread, which the interpreter joins before it exits.
    threading.Thread(target=run, name="low-priority", daemon=True).start()
    return outcome.result()


def _give_way() -> None:
    # Elsewhere a priority is that of the whole process.
    if sys.platform == "linux":
        usual = os.getpriority(os.PRIO_PROCESS, os.getpid())
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(_LOWEST, usual + _STEPS))


def return_memory() -> None:
    """Gives free memory back to the system, where the C library has a call for that (glibc).

    A load leaves a hundred megabytes of small free pieces, in a thread's share of the heap that the next load
    may not get.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
