"""A trainer that learns nothing: it takes `neurogate-trainer retrain`'s arguments, reports, and publishes.

Run as a script. A file "script.json" beside the model repository's root says what it does:
{"events": lines before the publication, "pause": seconds between them, "then": "publish", "fail", "hang",
"crash", "ignore" (SIGTERM), "wait" (for a file "go" beside it, then publish), or "serve" (publish what a fake
model server can serve)}.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path

from neurogate_core.repository import ModelRepository
from neurogate_trainer.progress import JsonLinesReporter

from neurogate_testing.fake_model import build_manifest
from neurogate_testing.manifests import fill_version, sound_manifest


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["retrain"])
    parser.add_argument("base_run")
    for name in ("--examples", "--events", "--run-dir", "--run-id", "--repository", "--model"):
        parser.add_argument(name, required=True)
    parser.add_argument("--warm-start")
    parser.add_argument("--gate-policy", type=Path)
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    script = json.loads((Path(options.repository).parent / "script.json").read_text())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if script["then"] == "ignore":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with JsonLinesReporter(Path(options.events), interval=0) as reporter:
        try:
            work(options, script, reporter)
        except SystemExit as stop:
            if stop.code == 143:
                reporter.end("stopped", reason="a signal asked for it")
            raise


def work(options: argparse.Namespace, script: dict, reporter: JsonLinesReporter) -> None:
    sys.stderr.write("trainer at work\n")
    reporter.phase("fine-tune", total=script["events"], unit="steps")
    for number in range(script["events"]):
        reporter.advance(1, epoch=1, loss=1 / (number + 1))
        time.sleep(script["pause"])
    match script["then"]:
        case "fail":
            reporter.end("failed", reason="the loss became nan")
            sys.exit(1)
        case "crash":
            sys.stderr.write("Fatal: out of luck\n")
            sys.exit(7)
        case "hang" | "ignore":
            while True:
                time.sleep(0.05)
        case "wait":
            while not (Path(options.repository).parent / "go").exists():
                time.sleep(0.01)
    repository = ModelRepository(Path(options.repository))
    reporter.phase("publish")
    with repository.staging(options.model, options.run_id) as staged:
        fill_version(staged)
        manifest = sound_manifest(model=options.model)
        if script["then"] == "serve":
            manifest = build_manifest(repository.versions(options.model)[-1] + 1)
        manifest.lineage.run_id = options.run_id
        if options.gate_policy is not None:
            manifest.lineage.gate_policy = options.gate_policy.read_text()
        published = repository.publish(options.model, staged, manifest)
    Path(options.run_dir, "checkpoint").mkdir(parents=True, exist_ok=True)
    Path(options.run_dir, "checkpoint", "best.keras").write_bytes(b"weights")
    reporter.message(f"published version {published.version}")
    reporter.end("published", version=published.version)


if __name__ == "__main__":
    main()
