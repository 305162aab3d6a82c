"""Hours in minutes: steady load, and whether memory stays where it was."""

from __future__ import annotations

from neurogate_bench.context import Context, Settings
from neurogate_bench.record import Record
from neurogate_bench.scenarios.limits import capacity


def soak(context: Context, settings: Settings) -> None:
    """Steady callers, some of them with streams, take a share of the capacity for `minutes`.

    Memory is read after each chunk; growth counts after the first sixth (five minutes of thirty), when caches
    and allocators have settled.
    """
    gateway = context.gateway()
    front, backend = gateway.servers
    record = context.record
    context.load(gateway, counted=False, mode="closed", concurrency=4, seconds=settings["warm_up"])
    rate = settings["share"] * capacity(context, gateway, 4)
    record.add("callers", "rate", "images/s", rate)
    callers = {name: settings[name] for name in ("unary", "streams", "stream_seconds")}
    chunk = settings["chunk_seconds"]
    chunks = max(6, round(60 * settings["minutes"] / chunk))
    samples: list[dict[str, float]] = []
    for number in range(chunks):
        load, _ = context.load(gateway, mode="callers", **callers, rate=rate, seconds=chunk)
        sample = {
            "minutes": round((number + 1) * chunk / 60, 2),
            "gateway_mib": round(front.resident_mib(), 2),
            "model_server_mib": round(backend.resident_mib(), 1),
            "p99_ms": round(load.latency(99), 2),
            "per_second": round(load.per_second, 2),
        }
        samples.append(sample)
        record.add("callers", "p50", "ms", load.latency(50))
        record.add("callers", "p99", "ms", load.latency(99))
        record.add("callers", "achieved", "images/s", load.per_second)
        record.add("callers", "failed", "requests", load.requests - load.answered)
        context.say(
            f"soak  {sample['minutes']:.1f} min  gateway {sample['gateway_mib']:.1f} MiB, "
            f"{load.per_second:.0f} images/s, p99 {sample['p99_ms']:.0f} ms"
        )
    record.details["samples"] = samples
    _judge(record, samples)


def _judge(record: Record, samples: list[dict[str, float]]) -> None:
    first = len(samples) // 6
    record.notes.append(
        "Extremes are those of parts of the time, each with a reading of the memory at its end."
    )
    for name, key in (("gateway", "gateway_mib"), ("model server", "model_server_mib")):
        settled = samples[first - 1][key]
        largest = max(sample[key] for sample in samples[first:])
        record.add(name, "memory when settled", "MiB", settled)
        record.add(name, "largest memory afterwards", "MiB", largest)
        record.add(name, "growth", "%", 100 * (largest / settled - 1))
    minutes = f"{samples[first - 1]['minutes']:.0f} of {samples[-1]['minutes']:.0f} minutes"
    title = f"growth of the gateway's memory after {minutes}"
    record.judge(title, "<=", 2, record.figure("gateway", "growth")["median"], "%")
    record.judge("failed requests", "<=", 0, sum(record.runs("callers", "failed")))
    # Callers that had to wait made less load than the soak is about.
    kept = record.figure("callers", "achieved")["median"] / record.figure("callers", "rate")["median"]
    record.judge("load that was kept up, achieved / wanted", ">=", 0.95, kept, absolute=True)
