"""atheris on the transform, from a corpus of every format: only TransformError comes out, within limits."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from neurogate_testing import images
from neurogate_testing.fuzzing import fuzz_seconds, fuzz_seed, repeat

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(fuzz_seconds() + 240),
    pytest.mark.skipif(
        importlib.util.find_spec("atheris") is None,
        reason="atheris is not installed: it is for Linux on x86-64",
    ),
]

HANG_SECONDS = 60
LARGEST_INPUT = 65_536
MOST_MIB = 1024
SUPPORT = Path(images.__file__).parents[1]


def seeds() -> Iterator[tuple[str, bytes]]:
    """Images of every kind, sound ones, hostile ones and damaged ones, and what is no image."""
    yield from images.sound().items()
    yield from images.bombs().items()
    yield from images.truncated().items()
    yield from images.NOT_IMAGES.items()
    for orientation in (3, 6):
        for container in ("JPEG", "PNG", "TIFF", "WEBP"):
            yield f"oriented-{orientation}-{container}", images.oriented(orientation, container)


def test_transform(tmp_path: Path) -> None:
    corpus, out = tmp_path / "corpus", tmp_path / "out"
    corpus.mkdir()
    out.mkdir()
    for number, (name, data) in enumerate(seeds()):
        (corpus / f"{number:03}-{name.replace(' ', '-')}").write_bytes(data)
    command = [sys.executable, "-m", "neurogate_testing.transform_fuzzer", out, corpus]
    command += [
        f"-max_total_time={max(1, fuzz_seconds()):.0f}",
        f"-seed={fuzz_seed()}",
        f"-max_len={LARGEST_INPUT}",
    ]
    command += [f"-rss_limit_mb={MOST_MIB}", f"-timeout={HANG_SECONDS}", f"-artifact_prefix={out}/"]
    # libFuzzer reads its peak of memory from Linux, where a process begins with the peak of the one that
    # started it. A test worker's may have been beyond the limit long before; a shell's is small.
    command = ["sh", "-c", '"$@"; exit $?', "sh", *command]
    log = out / "log.txt"
    with log.open("wb") as file:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": str(SUPPORT)},
            check=False,
        )
    text = log.read_text(errors="replace")
    assert ended.returncode == 0, f"{text[-6000:]}\nkept in {out}; again: {repeat('test_fuzz_transform.py')}"
    report = json.loads((out / "report.json").read_text())
    print(f"\n{report['runs']} runs, {report['read']} read, seed {fuzz_seed()}, in {out}")
    print("slowest (s of CPU):", ", ".join(f"{name} {took:.3f}" for took, name in report["slowest"]))
    print(
        "raised the peak (MiB):", ", ".join(f"{name} {more / 2**20:.1f}" for more, name in report["largest"])
    )
    print(f"peak {report['peak_bytes'] / 2**20:.0f} MiB; again: {repeat('test_fuzz_transform.py')}")
    assert report["runs"] > 300
    assert report["read"] > 30
