"""Children that die, are late, are missing something or are not there any longer."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from neurogate_core.preprocessing.dicom import DicomPool, decode_dicom, pool
from neurogate_core.preprocessing.errors import (
    DecoderLimitExceededError,
    ImageCorruptError,
    ImageFormatUnsupportedError,
)
from neurogate_testing.dicom_files import dicom_file, gradient
from pydicom import uid

LIMITS = {"max_pixels": 10_000_000, "max_side": 60_000}
SOUND = dicom_file(gradient(), WindowCenter=2000, WindowWidth=4000)


@pytest.fixture
def single() -> Iterator[DicomPool]:
    made = DicomPool(1)
    yield made
    made.close()


def child_of(made: DicomPool) -> subprocess.Popen[bytes]:
    [child] = made._alive
    return child._process


def stopped_child(made: DicomPool) -> subprocess.Popen[bytes]:
    """A child that has started and does nothing from now on."""
    made.decode(SOUND, 0, **LIMITS)
    child = child_of(made)
    child.send_signal(signal.SIGSTOP)
    return child


def test_one_child_decodes_one_file_after_another(single: DicomPool) -> None:
    first = single.decode(SOUND, 0, **LIMITS)
    child = child_of(single)
    with pytest.raises(ImageCorruptError):
        single.decode(SOUND[:-1000], 0, **LIMITS)
    np.testing.assert_array_equal(single.decode(SOUND, 0, **LIMITS)[0], first[0])
    assert child_of(single) is child


@pytest.fixture
def harmful(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Files of nine columns end the process that decodes them, files of ten keep it busy for ever."""
    (tmp_path / "sitecustomize.py").write_text(HARMFUL)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


HARMFUL = """
import os, signal, sys
if "neurogate_core.preprocessing.dicom.child" in sys.orig_argv:
    from neurogate_core.preprocessing.dicom import reader
    real = reader._size
    def size(dataset):
        if dataset.Columns == 9:
            os.kill(os.getpid(), signal.SIGSEGV)
        while dataset.Columns == 10:
            pass
        return real(dataset)
    reader._size = size
"""


@pytest.mark.usefixtures("harmful")
def test_a_child_that_dies_over_an_image_costs_that_image_alone(single: DicomPool) -> None:
    single.decode(SOUND, 0, **LIMITS)
    child = child_of(single)
    with pytest.raises(ImageCorruptError, match="decoder ended"):
        single.decode(dicom_file(gradient(8, 9)), 0, **LIMITS)
    assert single.decode(SOUND, 0, **LIMITS)[0].shape == (32, 48)
    assert child_of(single) is not child


@pytest.mark.usefixtures("harmful")
def test_a_decoder_that_never_ends_is_ended() -> None:
    made = DicomPool(1, seconds=0.5)
    with pytest.raises(DecoderLimitExceededError, match=r"more than 0\.5 s"):
        made.decode(dicom_file(gradient(8, 10)), 0, **LIMITS)
    assert not made._alive
    made.close()


def test_a_child_that_died_between_images_costs_none(single: DicomPool) -> None:
    single.decode(SOUND, 0, **LIMITS)
    child = child_of(single)
    child.kill()
    child.wait(30)
    assert single.decode(SOUND, 0, **LIMITS)[0].shape == (32, 48)


def test_a_child_that_is_late_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    made = DicomPool(1)
    child = stopped_child(made)
    monkeypatch.setattr(made, "_seconds", 0.05)
    with pytest.raises(DecoderLimitExceededError, match=r"more than 0\.05 s"):
        made.decode(SOUND, 0, **LIMITS)
    child.wait(30)
    monkeypatch.setattr(made, "_seconds", 30.0)
    assert made.decode(SOUND, 0, **LIMITS)[0].shape == (32, 48)
    made.close()


def test_memory_is_limited() -> None:
    made = DicomPool(1, memory_bytes=60 << 20)
    large = np.zeros((9000, 5000), np.uint16)
    with pytest.raises(DecoderLimitExceededError, match="too much memory"):
        made.decode(dicom_file(large, syntax=uid.RLELossless), 0, max_pixels=50_000_000, max_side=60_000)
    with pytest.raises(DecoderLimitExceededError, match="at most 15728640 are decoded"):
        made.decode(dicom_file(large), 0, max_pixels=50_000_000, max_side=60_000)
    assert made.decode(SOUND, 0, **LIMITS)[0].shape == (32, 48)
    made.close()


def test_what_interrupts_the_caller_leaves_no_answer_for_the_next(
    single: DicomPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    single.decode(SOUND, 0, **LIMITS)
    [child] = single._alive
    monkeypatch.setattr(child, "_answer", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        single.decode(SOUND, 0, **LIMITS)
    other = dicom_file(gradient(8, 9), WindowCenter=2000, WindowWidth=4000)
    assert single.decode(other, 0, **LIMITS)[0].shape == (8, 9)


def test_a_closed_pool_has_no_children_and_starts_none(single: DicomPool) -> None:
    single.decode(SOUND, 0, **LIMITS)
    child = child_of(single)
    single.close()
    child.wait(30)
    with pytest.raises(OSError, match="does not start"):
        single.decode(SOUND, 0, **LIMITS)


def test_a_missing_package_is_told_with_the_command_that_installs_it(
    single: DicomPool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "pydicom.py").write_text("raise ModuleNotFoundError(name='pydicom')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for _ in range(2):
        with pytest.raises(ImageFormatUnsupportedError, match=r"pip install 'neurogate\[dicom\]'"):
            single.decode(SOUND, 0, **LIMITS)
    assert not single._alive


def test_a_child_that_cannot_start_is_an_error_of_the_machine(
    single: DicomPool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "pydicom.py").write_text("raise RuntimeError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(OSError, match="does not start"):
        single.decode(SOUND, 0, **LIMITS)
    monkeypatch.delenv("PYTHONPATH")
    assert single.decode(SOUND, 0, **LIMITS)[0].shape == (32, 48)


def test_many_threads_share_few_children() -> None:
    made = DicomPool(2)
    shapes: list[tuple[int, ...]] = []

    def decode(rows: int) -> None:
        data = dicom_file(gradient(rows, 16), WindowCenter=2000, WindowWidth=4000)
        shapes.extend(made.decode(data, 0, **LIMITS)[0].shape for _ in range(5))

    threads = [threading.Thread(target=decode, args=(rows,)) for rows in range(8, 16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(shapes) == sorted([(rows, 16) for rows in range(8, 16)] * 5)
    assert len(made._alive) <= 2
    made.close()


@pytest.mark.usefixtures("harmful")
@pytest.mark.parametrize("columns", [48, 10], ids=["idle", "busy"])
def test_a_child_ends_when_its_parent_was_killed(columns: int) -> None:
    program = (
        "import os, signal, sys, threading\n"
        "from neurogate_core.preprocessing.dicom import pool\n"
        "made = pool.DicomPool(1, seconds=0.5)\n"
        "child = made._start()\n"
        "made._idle.get()\n"
        "made._idle.put(child)\n"
        "print(child._process.pid, flush=True)\n"
        "child._send(pool.REQUEST.pack(0, 10**7, 10**4, False, int(sys.argv[1])))\n"
        "child._send(sys.stdin.buffer.read())\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    data = dicom_file(gradient(8, columns))
    command = [sys.executable, "-c", program, str(len(data))]
    done = subprocess.run(command, input=data, capture_output=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    try:
        orphan = os.pidfd_open(int(done.stdout))
    except ProcessLookupError:
        return
    assert select.select([orphan], [], [], 60)[0]
    os.close(orphan)


def test_a_forked_process_has_children_of_its_own() -> None:
    decode_dicom(SOUND, 0, **LIMITS)
    assert pool._shared is not None
    pool_before = pool._shared
    pid = os.fork()
    if not pid:
        os._exit(0 if pool._shared is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert pool._shared is pool_before


def test_this_process_never_imports_the_decoder() -> None:
    program = (
        "import sys; from neurogate_core.preprocessing.transform import default_spec, transform\n"
        "transform(sys.stdin.buffer.read(), default_spec())\n"
        "sys.exit('pydicom' in sys.modules)"
    )
    assert not subprocess.run(
        [sys.executable, "-c", program], input=SOUND, timeout=60, check=False
    ).returncode
