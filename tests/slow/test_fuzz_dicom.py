"""Mutated DICOM files in child processes: each is read or refused by name, whatever its decoder does."""

from __future__ import annotations

import collections
import random
import resource
import time
from pathlib import Path

import numpy as np
import pytest
from neurogate_serving.dicom import DicomPool
from neurogate_serving.transform import TransformError
from neurogate_testing.dicom_files import LOSSLESS, dicom_file
from neurogate_testing.fuzzing import fuzz_seconds, fuzz_seed, keep, repeat
from pydicom import uid

pytestmark = [pytest.mark.slow, pytest.mark.timeout(fuzz_seconds() + 240)]

MOST_GROWTH_MIB = 200
SECRET = "ZZSECRET"


def seeds() -> list[bytes]:
    """Small files of every syntax, of one frame and of three."""
    rng = np.random.default_rng(fuzz_seed())
    stored = (np.arange(40 * 48).reshape(40, 48) * 2 + rng.integers(0, 40, (40, 48))).astype(np.uint16)
    window = {"WindowCenter": 2000, "WindowWidth": 4000, "PatientName": SECRET}
    made = [dicom_file(stored, syntax=syntax, **window) for syntax in LOSSLESS]
    made += [dicom_file(np.stack([stored] * 3), syntax=syntax, **window) for syntax in LOSSLESS]
    made.append(dicom_file((stored // 16).astype(np.uint8), syntax=uid.JPEGBaseline8Bit, **window))
    return made


def mutated(data: bytes, rnd: random.Random) -> bytes:
    """A file with a few bytes changed, taken out or put in, behind what makes it a DICOM file."""
    changed = bytearray(data)
    for _ in range(rnd.randint(1, 8)):
        place, kind = rnd.randrange(132, len(changed)), rnd.random()
        if kind < 0.7:
            changed[place] = rnd.randrange(256)
        elif kind < 0.85:
            del changed[place : place + rnd.randint(1, 40)]
        else:
            changed[place:place] = rnd.randbytes(rnd.randint(1, 20))
        if len(changed) < 200:
            break
    return bytes(changed)


def test_dicom(tmp_path: Path) -> None:
    rnd = random.Random(fuzz_seed())
    files = seeds()
    told: collections.Counter[str] = collections.Counter()
    pool = DicomPool(1)
    pool.decode(files[0], 0, max_pixels=10**7, max_side=60_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    end = time.monotonic() + fuzz_seconds()
    while time.monotonic() < end:
        data = mutated(rnd.choice(files), rnd)
        try:
            pool.decode(data, rnd.choice((0, 1, 3)), max_pixels=10**7, max_side=60_000)
        except TransformError as error:
            told["its decoder ended" if "decoder ended" in str(error) else error.reason] += 1
            wrong = SECRET in str(error)
        except Exception as error:  # noqa: BLE001 - that there is none is the point
            told[type(error).__name__] += 1
            wrong = True
        else:
            told["read"] += 1
            wrong = False
        if wrong:
            kept = keep(tmp_path, "failed.dcm", data)
            pytest.fail(f"{told}; kept in {kept}; again: {repeat('test_fuzz_dicom.py')}")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(
        f"\n{told.total()} files, {dict(told)}, {grown:.0f} MiB more; again: {repeat('test_fuzz_dicom.py')}"
    )
    assert pool.decode(files[0], 0, max_pixels=10**7, max_side=60_000).levels.shape == (40, 48)
    pool.close()
    assert told["read"] > 10
    assert grown < MOST_GROWTH_MIB
