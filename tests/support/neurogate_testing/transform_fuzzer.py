"""The transform under atheris, which takes the process over.

`python -m neurogate_testing.transform_fuzzer OUT ARGUMENT…`: OUT is a folder for what was seen, the arguments
are libFuzzer's. What raises anything but TransformError, gives pixels of another shape, or needs more time or
memory than any image may, ends the run.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import zlib
from pathlib import Path
from typing import Final

import atheris

with atheris.instrument_imports(include=["PIL", "neurogate_core"], enable_loader_override=False):
    from neurogate_core.preprocessing.transform import FORMATS, TransformError, default_spec, transform

import numpy as np
from neurogate.v1 import manifest_pb2

REPORT: Final = "report.json"
MOST_PIXELS: Final = 1_000_000
MOST_CPU_SECONDS: Final = 5.0
MOST_BYTES_MORE: Final = 200 * 2**20
"""Far more than `MOST_PIXELS` need, and far less than a header can promise."""
_TOLD: Final = 5
_PNG: Final = b"\x89PNG\r\n\x1a\n"


def _spec(revision: int, *, gray: bool) -> manifest_pb2.TransformSpec:
    spec = default_spec(16, 12)
    spec.revision = revision
    spec.max_pixels = MOST_PIXELS
    spec.color_mode = manifest_pb2.COLOR_MODE_GRAY if gray else manifest_pb2.COLOR_MODE_RGB
    spec.jpeg_draft = not gray
    # DICOM is decoded in processes of its own, where a fuzzer sees nothing; it has its own test.
    del spec.formats[:]
    spec.formats.extend(name for name in FORMATS if name != "DICOM")
    return spec


class Target:
    """What is called for every input, and what it has seen."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._specs = [_spec(revision, gray=gray) for revision in (1, 2) for gray in (False, True)]
        self._runs = self._read = 0
        self._slowest: list[tuple[float, str]] = []
        self._largest: list[tuple[int, str]] = []
        self._peak = 0

    def __call__(self, data: bytes) -> None:
        spec = self._specs[zlib.crc32(data) % len(self._specs)]
        before = self._peak or _peak_bytes()
        begun = time.process_time()
        message = ""
        try:
            pixels = transform(data, spec)
            assert (pixels.shape, pixels.dtype) == ((12, 16, 3), np.uint8)
            self._read += 1
        except TransformError as error:
            message = str(error)
        took = time.process_time() - begun
        self._runs += 1
        self._peak = _peak_bytes()
        self._note(data, took, self._peak - before)
        assert message.isprintable(), message
        assert len(message) < 500, message
        assert took < MOST_CPU_SECONDS, f"{took:.2f} s of CPU"
        assert self._peak - before < MOST_BYTES_MORE, f"{self._peak - before} bytes of memory"

    def _note(self, data: bytes, took: float, more: int) -> None:
        # Written on the way, since nothing of this process runs after libFuzzer's last input.
        news = self._runs % 200 == 0
        if len(self._slowest) < _TOLD or took > self._slowest[-1][0]:
            self._slowest = sorted({*self._slowest, (took, self._keep(data))}, reverse=True)[:_TOLD]
            news = True
        if more and (len(self._largest) < _TOLD or more > self._largest[-1][0]):
            self._largest = sorted((*self._largest, (more, self._keep(data))), reverse=True)[:_TOLD]
            news = True
        if news:
            (self._out / REPORT).write_text(
                json.dumps(
                    {
                        "runs": self._runs,
                        "read": self._read,
                        "slowest": self._slowest,
                        "largest": self._largest,
                        "peak_bytes": self._peak,
                    }
                )
            )

    def _keep(self, data: bytes) -> str:
        name = f"{zlib.crc32(data):08x}.input"
        (self._out / name).write_bytes(data)
        return name


def mutate(data: bytes, most: int, seed: int) -> bytes:
    """libFuzzer's mutation; the checksums of a PNG are made right again three times out of four.

    Otherwise nothing behind its header would ever be reached.
    """
    changed = atheris.Mutate(data, most)
    if seed % 4 == 0 or not changed.startswith(_PNG):
        return bytes(changed)
    mended = bytearray(changed)
    place = len(_PNG)
    while place + 12 <= len(mended):
        end = place + 8 + int.from_bytes(mended[place : place + 4])
        if end + 4 > len(mended):
            break
        mended[end : end + 4] = zlib.crc32(mended[place + 4 : end]).to_bytes(4)
        place = end + 4
    return bytes(mended)


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Runs until libFuzzer's arguments say stop, or an input fails."""
    out = Path(sys.argv.pop(1))
    atheris.Setup(sys.argv, Target(out), custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
