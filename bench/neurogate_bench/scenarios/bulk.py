"""Many pictures at a time: streams, batches, and whether every one is answered exactly once in flat
memory."""

from __future__ import annotations

from typing import Any

from neurogate_bench import systems
from neurogate_bench.context import Context, Settings
from neurogate_bench.systems import Contender


def offline(context: Context, settings: Settings) -> None:
    """Images per second through StreamClassify, in and out of order."""
    gateway, jobs = context.gateway(), {}
    for streams in settings["streams"]:
        for order in ("in order", "any order"):
            job = {"mode": "closed", "call": "stream", "concurrency": streams, "window": settings["window"]}
            name = f"{streams} stream{'s' if streams > 1 else ''}, {order}"
            jobs[name] = (gateway, {**job, "out_of_order": order == "any order"})
    for _ in context.rounds(jobs, settings):
        pass


def batch(context: Context, settings: Settings) -> None:
    """BatchClassify with one caller, by the number of pictures in a request; latencies are those of a
    request."""
    gateway = context.gateway()
    single: dict[str, Any] = {"mode": "closed", "concurrency": 1}
    batches = {f"batches of {size}": {**single, "call": "batch", "batch": size} for size in settings["sizes"]}
    jobs = {name: (gateway, job) for name, job in {"Classify, one by one": single, **batches}.items()}
    for _ in context.rounds(jobs, settings):
        pass
    for name in batches:
        title = f"throughput, {name} / one by one"
        context.record.ratio(title, "throughput", name, "Classify, one by one")


def stream_count(context: Context, settings: Settings) -> None:
    """A given number of pictures through one stream: each key answered exactly once, the gateway's memory
    flat."""
    count, record = settings["count"], context.record
    _, address = context.model_server()
    # A gateway of its own: memory that an earlier scenario left would hide growth.
    gateway, listening = systems.start_gateway(context.model, address)
    with gateway:
        record.commands["gateway"] = gateway.command
        contender = Contender("gateway", {"call": "stream", "target": listening}, [gateway])
        before = peak = gateway.resident_mib()
        job = context.job(contender, mode="closed", count=count, concurrency=1, window=settings["window"])
        with context.watched(contender) as observe:
            context.generator.begin(job)
            while not context.generator.done(seconds=0.25):
                peak = max(peak, gateway.resident_mib())
            load = context.generator.finish()
            observe(load)
        after = gateway.resident_mib()
    answered = load.images - load.wrong.total()
    record.add("gateway", "images answered exactly once", "", answered)
    record.add("gateway", "throughput", "images/s", load.per_second)
    record.add("gateway", "memory before", "MiB", before)
    record.add("gateway", "largest memory", "MiB", peak)
    record.add("gateway", "memory after", "MiB", after)
    record.judge("images answered exactly once", ">=", count, answered)
    record.judge("largest memory", "<=", 300, peak, "MiB")
