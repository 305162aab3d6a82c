from __future__ import annotations

import os
import sys
import threading

import pytest
from neurogate_model_server.background import run_at_once, run_low_priority


def _where() -> tuple[int, int]:
    return threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a priority is that of a whole process")
def test_low_priority_work_has_a_lower_priority_and_its_caller_keeps_its_own() -> None:
    here, usual = run_at_once(_where)
    there, lowered = run_low_priority(_where)
    assert there != here == threading.get_native_id()
    assert lowered == min(19, usual + 10)
    assert _where() == (here, usual)


def test_what_the_work_raises_reaches_the_caller() -> None:
    def fail() -> None:
        raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        run_low_priority(fail)


def test_the_end_of_the_process_does_not_wait_for_the_work() -> None:
    assert run_low_priority(lambda: threading.current_thread().daemon)
