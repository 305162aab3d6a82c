"""What the gateway itself costs: in front of a model server that computes nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from neurogate_bench import systems
from neurogate_bench.context import Context
from neurogate_bench.images import padded_jpeg, slice_like
from neurogate_bench.machine import ROOT
from neurogate_bench.processes import Server, free_port, installed
from neurogate_bench.systems import Contender


def null(context: Context, settings: Mapping[str, Any]) -> None:
    """CPU-milliseconds of the gateway's own process per image, and what a call adds where the model costs
    nothing."""
    gateway = context.gateway(null=True)
    # The double's CPU time is not the gateway's.
    gateway.servers = gateway.servers[:1]
    unary = {"mode": "closed"}
    stream = {"call": "stream", "mode": "closed", "window": settings["window"]}
    kinds: dict[str, tuple[Contender, dict[str, Any]]] = {
        "unary, 1 in flight": (gateway, {**unary, "concurrency": 1}),
        "unary, 8 in flight": (gateway, {**unary, "concurrency": 8}),
        "stream, 2 at once": (gateway, {**stream, "concurrency": 2}),
    }
    context.warm_up(kinds, settings)
    record = context.record
    for run in range(settings["runs"]):
        for name, (load, cpu) in context.turns(kinds, settings, run).items():
            record.add(name, "gateway CPU", "ms/image", load.cpu_ms(cpu))
            record.add(name, "p50", "ms", load.latency(50))
            record.add(name, "p99", "ms", load.latency(99))
            record.add(name, "throughput", "images/s", load.per_second)
        medians = ", ".join(f"{name}: {record.median(name, 'gateway CPU'):.2f} CPU-ms" for name in kinds)
        context.step(run, settings["runs"], f"{medians}")
    for name, limit in (("unary, 1 in flight", 2.0), ("unary, 8 in flight", 2.0), ("stream, 2 at once", 1.6)):
        title = f"gateway's own cost, {name}"
        record.judge_figure(title, "<=", limit, record.figure(name, "gateway CPU"), absolute=True)


def payload(context: Context, settings: Mapping[str, Any]) -> None:
    """How the cost grows with the bytes of a request: one picture, padded by comments that no decoder
    looks at."""
    gateway = context.gateway(null=True)
    gateway.servers = gateway.servers[:1]
    folder = ROOT / "build" / "bench" / "payload"
    folder.mkdir(parents=True, exist_ok=True)
    small = slice_like(0, quality=75)
    jobs: dict[str, tuple[Contender, dict[str, Any]]] = {}
    for size in settings["sizes_kib"]:
        path: Path = folder / f"{size}.jpg"
        path.write_bytes(padded_jpeg(small, size * 1024))
        job = {"images": [str(path)], "mode": "closed", "concurrency": settings["concurrency"]}
        jobs[f"{size} KiB"] = (gateway, job)
    context.warm_up(jobs, settings)
    for run in range(settings["runs"]):
        for series, (load, cpu) in context.turns(jobs, settings, run).items():
            context.record.add(series, "gateway CPU", "ms/image", load.cpu_ms(cpu))
            context.record.add(series, "p50", "ms", load.latency(50))
            context.record.add(series, "p99", "ms", load.latency(99))
        context.step(run, settings["runs"])
    first, last = settings["sizes_kib"][0], settings["sizes_kib"][-1]
    grown = context.record.median(f"{last} KiB", "gateway CPU") - context.record.median(
        f"{first} KiB", "gateway CPU"
    )
    slope = 1024 * grown / (last - first)
    context.record.notes.append(f"Each further MiB of a request costs the gateway {slope:.2f} CPU-ms.")


def startup(context: Context, settings: Mapping[str, Any]) -> None:
    """From the start of the process to the first accepted connection, with the model server there; and
    idle memory."""
    _, backend = context.null_server()
    for run in range(settings["runs"]):
        port = free_port()
        command = [
            installed("neurogate-gateway"),
            f"--listen=127.0.0.1:{port}",
            f"--backend-address={backend}",
        ]
        disturbance = context.disturbance()
        with Server("gateway-startup", [*command, f"--model-name={context.model}"]) as gateway:
            listening = gateway.wait_until(partial(_listening, gateway), every=0.005)
            serving = gateway.wait_until(partial(systems.is_serving, f"127.0.0.1:{port}"), every=0.005)
            disturbance()
            context.record.commands["gateway"] = gateway.command
            contender = Contender("gateway", {"call": "classify", "target": f"127.0.0.1:{port}"}, [gateway])
            time.sleep(settings["settle"])
            context.record.add("gateway", "idle memory", "MiB", gateway.resident_mib())
            context.record.add("gateway", "start to listening", "ms", 1000 * listening)
            context.record.add("gateway", "start to serving a proven version", "ms", 1000 * serving)
            context.record.add("gateway", "CPU until then", "ms", 1000 * contender.cpu_seconds())
        context.step(run, settings["runs"], f"listening after {1000 * listening:.0f} ms")
    record = context.record
    title = "start to listening"
    record.judge_figure(title, "<=", 600, record.figure("gateway", title), absolute=True)
    record.judge_figure("idle memory", "<=", 120, record.figure("gateway", "idle memory"))


def _listening(gateway: Server) -> bool:
    for line in gateway.output().splitlines():
        try:
            if json.loads(line).get("event") == "listening":
                return True
        except (ValueError, AttributeError):
            continue
    return False
