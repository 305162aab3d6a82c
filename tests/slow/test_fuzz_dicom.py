"""Damaged DICOM files through the decoders' processes: each is answered within limits, and nothing stays."""

from __future__ import annotations

import collections
import gc
import random
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from neurogate_core.preprocessing.dicom.pool import SECONDS, DicomPool
from neurogate_core.preprocessing.transform import DEFAULT_MAX_PIXELS, TransformError
from neurogate_testing.dicom_mutations import mutated, sound_files
from neurogate_testing.fuzzing import fuzz_seconds, fuzz_seed, keep, repeat

pytestmark = [pytest.mark.slow, pytest.mark.timeout(fuzz_seconds() + 240)]

MOST_BYTES_MORE = 32 * 2**20
LEAST_FILES = 200


class WatchedPool(DicomPool):
    """One child at a time; tells how children ended and how much memory they had."""

    def __init__(self) -> None:
        super().__init__(1)
        self.ends: collections.Counter[str] = collections.Counter()
        self.peak_bytes = 0

    def look(self) -> None:
        for child in self._alive:
            status = Path(f"/proc/{child._process.pid}/status").read_text()
            peak = next((line for line in status.splitlines() if line.startswith("VmHWM")), "VmHWM: 0 kB")
            self.peak_bytes = max(self.peak_bytes, int(peak.split()[1]) * 1024)

    def _end(self, child: Any) -> None:
        super()._end(child)
        code = child._process.wait()
        self.ends[signal.Signals(-code).name if code < 0 else f"status {code}"] += 1


def test_mutated_files(tmp_path: Path) -> None:
    process = psutil.Process()
    answers: collections.Counter[str] = collections.Counter()
    slowest: list[tuple[float, int]] = []
    pool = WatchedPool()
    calls, resident, files = 0, 0, 0
    begun = time.monotonic()
    try:
        while time.monotonic() < begun + fuzz_seconds() or calls < LEAST_FILES:
            rng = random.Random(f"{fuzz_seed()}:{calls}")
            data, frame = mutated(rng), rng.choice((0, 1, 1, 1, 1, 2))
            asked = time.monotonic()
            try:
                # Not kept: it may be 50 million pixels, and what this process keeps is measured.
                size = pool.decode(data, frame, max_pixels=DEFAULT_MAX_PIXELS, max_side=65_535)[0].size
                assert size <= DEFAULT_MAX_PIXELS
                answers["OK"] += 1
            except TransformError as error:
                answers[error.reason] += 1
            except BaseException:
                print(f"\nfile {calls}:", keep(tmp_path, f"{calls}.dcm", data))
                raise
            took = time.monotonic() - asked
            # A decoder that is started anew, on a busy machine, comes on top of the limit.
            assert took < SECONDS + 60, keep(tmp_path, f"{calls}.dcm", data)
            slowest = sorted((*slowest, (took, calls)), reverse=True)[:5]
            if slowest[0][1] == calls:
                keep(tmp_path, "slowest.dcm", data)
            pool.look()
            calls += 1
            if calls == LEAST_FILES // 2:
                gc.collect()
                resident, files = process.memory_info().rss, process.num_fds()
        gc.collect()
        more = process.memory_info().rss - resident
        print(f"\n{calls} files from seed {fuzz_seed()}: {dict(answers)}")
        print("decoders that ended:", dict(pool.ends) or "none")
        print("slowest:", ", ".join(f"file {number} {took:.2f} s" for took, number in slowest))
        print(f"a decoder's peak {pool.peak_bytes / 2**20:.0f} MiB; this process {more / 2**20:+.1f} MiB")
        print(f"again: {repeat('test_fuzz_dicom.py')}")
        assert answers["OK"] > 10
        assert more < MOST_BYTES_MORE
        assert process.num_fds() <= files + 4
        for name, data in sound_files().items():
            assert pool.decode(data, 1, max_pixels=DEFAULT_MAX_PIXELS, max_side=65_535)[0].any(), name
    finally:
        pool.close()
