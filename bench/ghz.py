"""Runs ghz as its users run it: `bench/ghz.py [--address HOST:PORT] [CONFIGURATION…]`.

Without an address it starts model server and gateway itself and sums the outcome up in
bench/results/ghz.json; with one it measures that gateway and keeps ghz's own reports. `make build/bin/ghz`
builds the pinned ghz.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from google.protobuf import proto
from google.protobuf.message import Message
from neurogate.v1 import classification_pb2
from neurogate_bench import machine
from neurogate_bench.load_tool import arguments_of, measure
from neurogate_bench.record import Record

QUESTION = "What does the usual load tool for gRPC see? One run of each configuration in bench/ghz."
BINARY = machine.ROOT / "build" / "bin" / "ghz"
CONFIGURATIONS = Path(__file__).resolve().parent / "ghz"
FOLDER = machine.ROOT / "build" / "bench" / "ghz"
STREAM_LENGTH = 64
BATCH_SIZE = 8


def delimited(messages: Iterable[Message]) -> bytes:
    """Each message after its length as a varint: ghz tries this form first, and a bare message may pass
    for it."""
    output = io.BytesIO()
    for message in messages:
        proto.serialize_length_prefixed(message, output)
    return output.getvalue()


def write_payloads(images: list[bytes], folder: Path = FOLDER) -> None:
    """`classify.bin`, `batch.bin` and `stream.bin`, which the configurations name."""
    folder.mkdir(parents=True, exist_ok=True)
    pb = classification_pb2
    single = [pb.ClassifyRequest(image=image) for image in images]
    items = [pb.BatchClassifyItem(image=images[number % len(images)]) for number in range(BATCH_SIZE)]
    # No message carries a config: ghz sends the same messages in every stream, and the default is what is
    # wanted.
    stream = [
        pb.StreamClassifyRequest(key=str(number), image=images[number % len(images)])
        for number in range(STREAM_LENGTH)
    ]
    (folder / "classify.bin").write_bytes(delimited(single))
    (folder / "batch.bin").write_bytes(delimited([pb.BatchClassifyRequest(items=items)]))
    (folder / "stream.bin").write_bytes(delimited(stream))


def run(configuration: Path, address: str) -> dict[str, Any]:
    """Runs one configuration and returns ghz's JSON report, which stays in build/bench/ghz."""
    report = FOLDER / f"{configuration.stem}.json"
    command = [str(BINARY), "--config", str(configuration), "--format=json", f"--output={report}", address]
    done = subprocess.run(command, cwd=machine.ROOT, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode or not report.exists():
        raise RuntimeError(f"ghz {configuration.name} failed:\n{done.stdout[-500:]}{done.stderr[-1500:]}")
    content: dict[str, Any] = json.loads(report.read_text())
    if not content.get("latencyDistribution"):
        reasons = "\n".join(content.get("errorDistribution") or {"no request was sent": 0})
        raise RuntimeError(f"ghz {configuration.name}: nothing was answered:\n{reasons}")
    return content


def book(record: Record, report: dict[str, Any]) -> None:
    """One report's figures into the record."""
    name = report["name"]
    method = report["options"]["call"].rpartition("/")[2].rpartition(".")[2]
    images = {"BatchClassify": BATCH_SIZE, "StreamClassify": STREAM_LENGTH}.get(method, 1)
    # ghz counts in nanoseconds.
    latencies = {entry["percentage"]: entry["latency"] / 1e6 for entry in report["latencyDistribution"]}
    statuses = report.get("statusCodeDistribution") or {}
    good, count = statuses.get("OK", 0), sum(statuses.values())
    record.add(name, "requests", "", count)
    record.add(name, "not OK", "", count - good)
    record.add(name, "rate", "requests/s", report["rps"])
    record.add(name, "images", "images/s", report["rps"] * images)
    for percent in (50, 90, 99):
        record.add(name, f"p{percent}", "ms", latencies.get(percent, float("nan")))
    record.checks["requests"] += count
    for status, number in statuses.items():
        if status != "OK":
            record.problems[f"{name}: {status}"] += number
            # Shedding is an answer too, and the rate of arrivals is the configuration's choice.
            if status != "ResourceExhausted":
                record.invalidate(f"requests failed: {status}")


def main() -> int:
    names = sorted(path.stem for path in CONFIGURATIONS.glob("*.json"))
    arguments = arguments_of(__doc__, names)
    if not BINARY.exists():
        raise SystemExit("build/bin/ghz is missing: run `make build/bin/ghz`, which needs Go")

    def one(name: str, address: str, images: list[Path], record: Record) -> None:
        write_payloads([path.read_bytes() for path in images])
        book(record, run(CONFIGURATIONS / f"{name}.json", address))

    return measure("ghz", {"title": "ghz", "question": QUESTION, "runs": 1}, arguments, one)


if __name__ == "__main__":
    sys.exit(main())
