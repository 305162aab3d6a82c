"""Many pictures at a time: streams, batches, and whether every one is answered exactly once in flat
memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neurogate_bench import systems
from neurogate_bench.context import Context
from neurogate_bench.systems import Contender


def offline(context: Context, settings: Mapping[str, Any]) -> None:
    """Images per second through StreamClassify, in and out of order."""
    gateway = context.gateway()
    shapes: dict[str, tuple[Contender, dict[str, Any]]] = {
        f"{streams} stream{'s' if streams > 1 else ''}, {order}": (
            gateway,
            {
                "call": "stream",
                "mode": "closed",
                "concurrency": streams,
                "window": settings["window"],
                "out_of_order": order == "any order",
            },
        )
        for streams in settings["streams"]
        for order in ("in order", "any order")
    }
    context.warm_up(shapes, settings)
    for run in range(settings["runs"]):
        for name, (load, cpu) in context.turns(shapes, settings, run).items():
            context.record.add(name, "throughput", "images/s", load.per_second)
            context.record.add(name, "p50", "ms", load.latency(50))
            context.record.add(name, "p99", "ms", load.latency(99))
            context.record.add(name, "CPU", "ms/image", load.cpu_ms(cpu))
        context.step(run, settings["runs"], f"{load.per_second:.0f} images/s")


def batch(context: Context, settings: Mapping[str, Any]) -> None:
    """BatchClassify with one caller, by the number of pictures in a request."""
    gateway = context.gateway()
    single = {"mode": "closed", "concurrency": 1}
    jobs: dict[str, tuple[Contender, dict[str, Any]]] = {"Classify, one by one": (gateway, single)}
    for size in settings["sizes"]:
        jobs[f"batches of {size}"] = (gateway, {**single, "call": "batch", "batch": size})
    context.warm_up(jobs, settings)
    record = context.record
    for run in range(settings["runs"]):
        for name, (load, cpu) in context.turns(jobs, settings, run).items():
            record.add(name, "throughput", "images/s", load.per_second)
            record.add(name, "p50 of a request", "ms", load.latency(50))
            record.add(name, "p99 of a request", "ms", load.latency(99))
            record.add(name, "CPU", "ms/image", load.cpu_ms(cpu))
        context.step(run, settings["runs"])
    for name in list(jobs)[1:]:
        record.ratio(f"throughput, {name} / one by one", "throughput", name, "Classify, one by one")


def stream_count(context: Context, settings: Mapping[str, Any]) -> None:
    """A given number of pictures through one stream: each key answered exactly once, the gateway's memory
    flat."""
    count = settings["count"]
    _, address = context.null_server() if settings["null"] else context.model_server()
    record = context.record
    for run in range(settings["runs"]):
        # A fresh gateway each time: memory that an earlier scenario left would hide growth.
        gateway, listening = systems.start_gateway(context.model, address)
        with gateway:
            record.commands["gateway"] = gateway.command
            shared = context.gateway(null=settings["null"])
            contender = Contender("gateway", {**shared.job, "target": listening}, [gateway])
            before = gateway.resident_mib()
            job = context.job(
                contender, call="stream", mode="closed", count=count, concurrency=1, window=settings["window"]
            )
            peak = before
            with context.watched(contender) as observe:
                used = context.generator.begin(job)
                while not context.generator.done(used, seconds=0.25):
                    peak = max(peak, gateway.resident_mib())
                load = context.generator.finish(used)
                observe(load)
            after = gateway.resident_mib()
        record.add("gateway", "images answered exactly once", "", load.images - sum(load.wrong.values()))
        record.add("gateway", "throughput", "images/s", load.per_second)
        record.add("gateway", "memory before", "MiB", before)
        record.add("gateway", "largest memory", "MiB", peak)
        record.add("gateway", "memory after", "MiB", after)
        context.step(run, settings["runs"], f"{load.images} answers, {after:.0f} MiB")
    answered = record.figure("gateway", "images answered exactly once")["min"]
    record.judge("images answered exactly once", ">=", count, answered)
    record.judge("largest memory", "<=", 300, record.figure("gateway", "largest memory")["max"], "MiB")
