"""Independent users: arrivals by chance at a set rate, up to and beyond what the system can do."""

from __future__ import annotations

import itertools

from neurogate_bench.context import Context, Settings
from neurogate_bench.load import Load
from neurogate_bench.stats import percentile
from neurogate_bench.systems import Contender


def capacity(context: Context, gateway: Contender, seconds: float, *, concurrency: int = 8) -> float:
    """Images per second with always enough requests in flight."""
    load, _ = context.load(gateway, mode="closed", concurrency=concurrency, seconds=seconds)
    return load.per_second


def server(context: Context, settings: Settings) -> None:
    """The highest rate whose p99 stays under the limit with hardly an error."""
    gateway = context.gateway(*settings["gateway_flags"])
    context.load(gateway, counted=False, mode="closed", concurrency=4, seconds=settings["warm_up"])
    limit, record = settings["latency_limit_ms"], context.record
    for run in range(settings["runs"]):
        able = capacity(context, gateway, settings["seconds"] / 2)
        record.add("capacity", "rate", "images/s", able)
        steps: dict[float, Load] = {}
        for number, share in enumerate(settings["steps"]):
            seed = 100 * run + number
            load, _ = context.load(
                gateway, mode="open", rate=share * able, seconds=settings["seconds"], seed=seed
            )
            steps[share] = load
            series = f"{share:.0%} of capacity"
            record.add(series, "rate", "images/s", share * able)
            record.add(series, "p50", "ms", load.latency(50))
            record.add(series, "p99", "ms", load.latency(99))
            record.add(series, "errors", "%", 100 * load.error_share)
            record.add(series, "sent late, p99", "ms", percentile(load.lateness_ms, 99))
        best = highest_passing(steps, limit)
        record.add("highest that passes", "rate", "images/s", best * able)
        record.add("highest that passes", "share of capacity", "%", 100 * best)
        context.step(run, settings["runs"], f"capacity {able:.0f}/s, passes at {best:.0%}")
    record.notes.append(
        f"A rate passes when p99 is at most {limit} ms and fewer than 0.1 % of the requests fail."
    )


def highest_passing(steps: dict[float, Load], limit_ms: float) -> float:
    """The highest share of the capacity below the first that fails: a pass above a failure is luck. 0 if
    the lowest fails."""
    passing = itertools.takewhile(
        lambda step: step[1].latency(99) <= limit_ms and step[1].error_share < 0.001, sorted(steps.items())
    )
    return max((share for share, _ in passing), default=0.0)


def overload(context: Context, settings: Settings) -> None:
    """Twice what the system can do: what is accepted must still be answered well, the rest refused at
    once."""
    gateway = context.gateway(*settings["gateway_flags"])
    context.load(gateway, counted=False, mode="closed", concurrency=4, seconds=settings["warm_up"])
    record, limit = context.record, settings["latency_limit_ms"]
    seconds, at_once = settings["seconds"] / 4, settings["capacity_concurrency"]
    for run in range(settings["runs"]):
        before = capacity(context, gateway, seconds, concurrency=at_once)
        offered = settings["factor"] * before
        load, cpu = context.load(gateway, mode="open", rate=offered, seconds=settings["seconds"], seed=run)
        # Before and after, so that a machine that slows down or recovers meanwhile does not decide the ratio.
        able = (before + capacity(context, gateway, seconds, concurrency=at_once)) / 2
        shed = load.refusals["RESOURCE_EXHAUSTED"]
        record.add("gateway", "capacity", "images/s", able)
        record.add("gateway", "offered", "images/s", offered)
        record.add("gateway", "offered / capacity", "", offered / able)
        record.add("gateway", "goodput / capacity", "", load.per_second / able)
        record.add("gateway", "refused", "%", 100 * shed / load.requests)
        record.add("gateway", "p50 of the accepted", "ms", load.latency(50))
        record.add("gateway", "p99 of the accepted", "ms", load.latency(99))
        record.add("gateway", "p99 until refused", "ms", percentile(load.refusal_ms, 99))
        record.add("gateway", "sent late, p99", "ms", percentile(load.lateness_ms, 99))
        record.add("gateway", "failed otherwise", "requests", load.requests - load.answered - shed)
        record.add("gateway", "CPU", "ms/image", load.cpu_ms(cpu))
        context.step(
            run,
            settings["runs"],
            f"goodput {load.per_second / able:.2f} of {able:.0f}/s, p99 {load.latency(99):.0f} ms",
        )
    record.judge_figure("goodput / capacity", ">=", 0.9, record.figure("gateway", "goodput / capacity"))
    title = "p99 of the accepted"
    record.judge_figure(title, "<=", 2 * limit, record.figure("gateway", title), absolute=True)
    record.judge("requests failed otherwise", "<=", 0, record.figure("gateway", "failed otherwise")["max"])
