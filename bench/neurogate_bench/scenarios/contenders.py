"""The gateway's whole path beside everything that it is compared with, turn by turn on the same cores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neurogate_bench import systems
from neurogate_bench.context import Context
from neurogate_bench.stats import median, ratios
from neurogate_bench.systems import Contender

GATEWAY, DIRECT, FAIR, PLAIN = (
    "gateway",
    "D0 direct, ready tensor",
    "D1 direct, same transform",
    "plain export",
)
STREAM = "gateway, stream"
NAIVE, TUNED = "FastAPI + model.predict", "FastAPI tuned"
_RATIOS = {
    "gateway_throughput": ("throughput, gateway / D1", "throughput", GATEWAY, FAIR, ">=", 0.85),
    "stream_throughput": ("throughput, stream / D1", "throughput", STREAM, FAIR, ">=", 0.92),
    "export_cpu": ("model server's CPU per image, D0 / plain export", "CPU", DIRECT, PLAIN, "<=", 0.5),
    "naive_throughput": (f"throughput, gateway / {NAIVE}", "throughput", GATEWAY, NAIVE, ">=", 15.0),
    "tuned_throughput": (f"throughput, gateway / {TUNED}", "throughput", GATEWAY, TUNED, ">=", 4.0),
    "tuned_p50": (f"p50, gateway / {TUNED}", "p50", GATEWAY, TUNED, "<=", 0.4),
}


def contenders(context: Context, settings: Mapping[str, Any]) -> None:
    """Every contender in turn, in every run; ratios are taken within a run."""
    everyone = _everyone(context, settings)
    for contender in everyone:
        context.load(contender, counted=False, **_job(settings), seconds=settings["warm_up"])
    for run in range(settings["runs"]):
        for contender in everyone:
            load, cpu = context.load(contender, **_job(settings), seconds=settings["seconds"])
            record, name = context.record, contender.name
            record.add(name, "throughput", "images/s", load.per_second)
            record.add(name, "p50", "ms", load.latency(50))
            record.add(name, "p99", "ms", load.latency(99))
            record.add(name, "CPU", "ms/image", load.cpu_ms(cpu))
            context.step(
                run,
                settings["runs"],
                f"{name}: {load.per_second:.0f} images/s, p50 {load.latency(50):.1f} ms",
            )
    _compare(context, settings["targets"])


def _everyone(context: Context, settings: Mapping[str, Any]) -> list[Contender]:
    models = context.models
    server, address = context.model_server()
    plain_server, plain_address = context.plain_server()
    gateway = context.gateway()
    found = [
        gateway,
        systems.direct(FAIR, models, address, [server], in_call=True),
        systems.direct(DIRECT, models, address, [server], in_call=False),
        systems.plain_export(models, plain_address, [plain_server]),
        *context.http_baselines(),
    ]
    if settings["stream"]:
        job = {**gateway.job, "call": "stream", "window": settings["window"]}
        found.insert(1, Contender(STREAM, job, gateway.servers))
    return found


def _job(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"mode": "closed", "concurrency": settings["concurrency"]}


def _compare(context: Context, targets: list[str]) -> None:
    """The ratios that are claimed, each from the values of one and the same run."""
    record = context.record

    def ratio(title: str, metric: str, over: str, under: str) -> float:
        values = ratios(record.runs(over, metric), record.runs(under, metric))
        for value in values:
            record.add(title, "ratio", "", value)
        return median(values)

    if "added_p50" in targets:
        pairs = zip(record.runs(GATEWAY, "p50"), record.runs(FAIR, "p50"), strict=True)
        added = [over - under for over, under in pairs]
        for value in added:
            record.add("gateway over D1", "added p50", "ms", value)
        record.judge("p50 that the gateway adds to D1", "<=", 1.5, median(added), "ms")
    for key, (title, metric, over, under, comparison, limit) in _RATIOS.items():
        if key in targets:
            record.judge(title, comparison, limit, ratio(title, metric, over, under))
