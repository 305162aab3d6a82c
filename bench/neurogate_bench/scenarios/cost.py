"""What the gateway itself costs, in front of a model server that computes nothing, and what starting
costs."""

from __future__ import annotations

import time
from functools import partial

from neurogate_cli.local_stack.servers import MODEL_SERVER_FLAGS

from neurogate_bench import systems
from neurogate_bench.context import BUILD, Context, Settings
from neurogate_bench.images import padded_jpeg, slice_like
from neurogate_bench.processes import Server, free_port
from neurogate_bench.systems import Contender


def null(context: Context, settings: Settings) -> None:
    """CPU-milliseconds of the gateway's own process per image, and what a call adds where the model costs
    nothing."""
    gateway, record = context.gateway(null=True), context.record
    stream = {"call": "stream", "window": settings["window"]}
    jobs = {
        "unary, 1 in flight": (gateway, {"mode": "closed", "concurrency": 1}),
        "unary, 8 in flight": (gateway, {"mode": "closed", "concurrency": 8}),
        "stream, 2 at once": (gateway, {"mode": "closed", "concurrency": 2, **stream}),
    }
    for _ in context.rounds(jobs, settings, cpu="gateway CPU"):
        pass
    for name, limit in zip(jobs, (2.0, 2.0, 1.6), strict=True):
        cost = record.figure(name, "gateway CPU")
        record.judge_figure(f"gateway's own cost, {name}", "<=", limit, cost, absolute=True)


def payload(context: Context, settings: Settings) -> None:
    """How the cost grows with the bytes of a request: one picture, padded by comments that no decoder
    looks at."""
    gateway, record = context.gateway(null=True), context.record
    folder = BUILD / "payload"
    folder.mkdir(parents=True, exist_ok=True)
    small = slice_like(0, quality=75)
    jobs = {}
    for size in settings["sizes_kib"]:
        path = folder / f"{size}.jpg"
        path.write_bytes(padded_jpeg(small, size * 1024))
        job = {"images": [str(path)], "mode": "closed", "concurrency": settings["concurrency"]}
        jobs[f"{size} KiB"] = (gateway, job)
    for _ in context.rounds(jobs, settings, cpu="gateway CPU"):
        pass
    first, last = settings["sizes_kib"][0], settings["sizes_kib"][-1]
    costs = [record.figure(f"{size} KiB", "gateway CPU")["median"] for size in (first, last)]
    slope = 1024 * (costs[1] - costs[0]) / (last - first)
    record.notes.append(f"Each further MiB of a request costs the gateway {slope:.2f} CPU-ms.")


def startup(context: Context, settings: Settings) -> None:
    """From the start of the gateway's process to its event `listening` and to a proven version, with the
    model server there; and idle memory."""
    _, backend = context.null_server()
    record = context.record
    for run in range(settings["runs"]):
        port = free_port()
        command = systems.gateway_command(context.model, port, backend)
        disturbance = context.disturbance()
        with Server("gateway-startup", command) as gateway:
            listening = gateway.wait_until(partial(_logged, gateway, '"event": "listening"'), every=0.005)
            serving = gateway.wait_until(partial(systems.is_serving, f"127.0.0.1:{port}"), every=0.005)
            used = gateway.cpu_seconds()
            disturbance()
            record.commands["gateway"] = gateway.command
            time.sleep(settings["settle"])
            record.add("gateway", "idle memory", "MiB", gateway.resident_mib())
            record.add("gateway", "start to listening", "ms", 1000 * listening)
            record.add("gateway", "start to serving a proven version", "ms", 1000 * serving)
            record.add("gateway", "CPU until then", "ms", 1000 * used)
        context.step(run, settings["runs"], f"listening after {1000 * listening:.0f} ms")
    title = "start to listening"
    record.judge_figure(title, "<=", 600, record.figure("gateway", title), absolute=True)
    record.judge_figure("idle memory", "<=", 70, record.figure("gateway", "idle memory"))


def cold_start(context: Context, settings: Settings) -> None:
    """Model server and gateway from nothing: when they are ready, and what the first caller pays."""
    record = context.record
    record.backend = systems.backend_kind()
    expected = context.expected()
    for run in range(settings["runs"]):
        began = time.monotonic()
        server, address = systems.start_model_server("cold", context.models.optimised, MODEL_SERVER_FLAGS)
        with server:
            record.add("model server", "start to AVAILABLE", "s", time.monotonic() - began)
            began = time.monotonic()
            gateway, listening = systems.start_gateway(context.model, address)
            with gateway:
                record.add("gateway", "start to serving", "s", time.monotonic() - began)
                job = {"call": "classify", "target": listening, "expected": expected}
                contender = Contender("gateway", job, [gateway, server])
                load, _ = context.load(contender, mode="closed", concurrency=1, seconds=settings["seconds"])
                usual = load.latency(50)
                record.add("gateway", "first answer", "ms", load.latencies_ms[0])
                record.add("gateway", "usual answer (p50)", "ms", usual)
                record.add("gateway", "first / usual", "", load.latencies_ms[0] / usual)
        context.step(run, settings["runs"])


def _logged(server: Server, text: str) -> bool:
    return text in server.output()
