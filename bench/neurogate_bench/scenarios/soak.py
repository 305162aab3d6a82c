"""Hours in minutes: steady load, and whether memory stays where it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neurogate_bench.context import Context
from neurogate_bench.scenarios.limits import capacity


def soak(context: Context, settings: Mapping[str, Any]) -> None:
    """Independent arrivals at a share of the capacity for `minutes`; memory is read after each chunk.

    Growth counts after the first sixth (five minutes of thirty), when caches and allocators have settled.
    """
    gateway = context.gateway()
    front, backend = gateway.servers
    record = context.record
    context.load(gateway, counted=False, mode="closed", concurrency=4, seconds=settings["warm_up"])
    rate = settings["share"] * capacity(context, gateway, 4)
    chunk = settings["chunk_seconds"]
    chunks = max(6, round(60 * settings["minutes"] / chunk))
    samples: list[dict[str, float]] = []
    for number in range(chunks):
        load, _ = context.load(gateway, mode="open", rate=rate, seconds=chunk, seed=number)
        sample = {
            "minutes": round((number + 1) * chunk / 60, 2),
            "gateway_mib": round(front.resident_mib(), 2),
            "model_server_mib": round(backend.resident_mib(), 1),
            "p99_ms": round(load.latency(99), 2),
        }
        samples.append(sample)
        record.add("gateway", "p99", "ms", load.latency(99))
        record.add("gateway", "errors", "requests", load.requests - load.answered)
        context.say(
            f"soak  {sample['minutes']:.1f} min  gateway {sample['gateway_mib']:.1f} MiB, "
            f"p99 {sample['p99_ms']:.0f} ms"
        )
    settled = samples[chunks // 6 - 1]
    for name, key in (("gateway", "gateway_mib"), ("model server", "model_server_mib")):
        largest = max(sample[key] for sample in samples[chunks // 6 :])
        record.add(name, "memory when settled", "MiB", settled[key])
        record.add(name, "largest memory afterwards", "MiB", largest)
        record.add(name, "growth", "%", 100 * (largest / settled[key] - 1))
    record.add("gateway", "rate", "images/s", rate)
    record.details["samples"] = samples
    record.judge("growth of the gateway's memory", "<=", 2, record.median("gateway", "growth"), "%")
    record.judge("failed requests", "<=", 0, sum(record.runs("gateway", "errors")))
