"""The gateway's whole path beside everything that it is compared with, turn by turn on the same cores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neurogate_bench import systems
from neurogate_bench.context import Context
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
    """All contenders in short bursts by turns, in every run; ratios are taken within a run."""
    record = context.record
    everyone = {
        contender.name: (contender, {"mode": "closed", "concurrency": settings["concurrency"]})
        for contender in _everyone(context, settings)
    }
    context.warm_up(everyone, settings)
    for run in range(settings["runs"]):
        for name, (load, cpu) in context.turns(everyone, settings, run).items():
            record.add(name, "throughput", "images/s", load.per_second)
            record.add(name, "p50", "ms", load.latency(50))
            record.add(name, "p99", "ms", load.latency(99))
            record.add(name, "CPU", "ms/image", load.cpu_ms(cpu))
            generator = 0.0 if everyone[name][0].client_is_part else load.generator_cpu
            record.add(name, "CPU with generator", "ms/image", load.cpu_ms(cpu + generator))
        rates = ", ".join(f"{name} {record.runs(name, 'throughput')[-1]:.0f}" for name in everyone)
        context.step(run, settings["runs"], f"images/s: {rates}")
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


def _compare(context: Context, targets: list[str]) -> None:
    """The ratios that are claimed, each from the values of one and the same run.

    On full cores, throughput is the inverse of all CPU time per image. The ratio of those stands beside that
    of the throughputs as its witness, since other programs hardly change it.
    """
    record = context.record
    for key, (title, metric, over, under, comparison, limit) in _RATIOS.items():
        if key in targets:
            record.ratio(title, metric, over, under)
            record.judge_figure(title, comparison, limit, record.figure(title, "ratio"))
            if metric == "throughput":
                record.ratio(f"{title}, as CPU time foretells", "CPU with generator", under, over)
    if "added_p50" in targets:
        title = "p50 that the gateway adds to D1"
        for ours, theirs in zip(record.runs(GATEWAY, "p50"), record.runs(FAIR, "p50"), strict=True):
            record.add(title, "difference", "ms", ours - theirs)
        # Taken within the run like a ratio, but in milliseconds, which a busy machine stretches.
        record.judge_figure(title, "<=", 1.5, record.figure(title, "difference"), absolute=True)
