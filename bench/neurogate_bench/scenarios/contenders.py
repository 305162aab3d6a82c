"""The gateway's whole path beside everything that it is compared with, turn by turn on the same cores."""

from __future__ import annotations

from typing import Any

from neurogate_bench import systems
from neurogate_bench.context import Context, Settings
from neurogate_bench.stats import ratios
from neurogate_bench.systems import Contender

GATEWAY, STREAM = "gateway", "gateway, stream"
DIRECT, FAIR, PLAIN = "D0 direct, ready tensor", "D1 direct, same transform", "plain export"
NAIVE, TUNED = "FastAPI + model.predict", "FastAPI tuned"
_RATIOS = {
    "gateway_throughput": ("throughput, gateway / D1", "throughput", GATEWAY, FAIR, ">=", 0.85),
    "stream_throughput": ("throughput, stream / D1", "throughput", STREAM, FAIR, ">=", 0.92),
    "export_cpu": ("model server's CPU per image, D0 / plain export", "CPU", DIRECT, PLAIN, "<=", 0.5),
    "naive_throughput": (f"throughput, gateway / {NAIVE}", "throughput", GATEWAY, NAIVE, ">=", 15.0),
    "tuned_throughput": (f"throughput, gateway / {TUNED}", "throughput", GATEWAY, TUNED, ">=", 4.0),
    "tuned_p50": (f"p50, gateway / {TUNED}", "p50", GATEWAY, TUNED, "<=", 0.4),
}


def contenders(context: Context, settings: Settings) -> None:
    """All contenders in short bursts by turns, in every run; ratios are taken within a run.

    On full cores, throughput is the inverse of all CPU time per image. The ratio of those stands beside that
    of the throughputs as its witness, since other programs hardly change it.
    """
    record = context.record
    jobs: dict[str, tuple[Contender, dict[str, Any]]] = {
        contender.name: (contender, {"mode": "closed", "concurrency": settings["concurrency"]})
        for contender in _everyone(context, settings)
    }
    spent: dict[str, list[float]] = {name: [] for name in jobs}
    for found in context.rounds(jobs, settings):
        for name, (load, cpu) in found.items():
            generator = 0.0 if jobs[name][0].client_is_part else load.generator_cpu
            spent[name].append(load.cpu_ms(cpu + generator))
    for key, (title, metric, over, under, comparison, limit) in _RATIOS.items():
        if key in settings["targets"]:
            record.ratio(title, metric, over, under)
            record.judge_figure(title, comparison, limit, record.figure(title, "ratio"))
            if metric == "throughput":
                for value in ratios(spent[under], spent[over]):
                    record.add(f"{title}, as CPU time foretells", "ratio", "", value)
    if "added_p50" in settings["targets"]:
        title = "p50 that the gateway adds to D1"
        for ours, theirs in zip(record.runs(GATEWAY, "p50"), record.runs(FAIR, "p50"), strict=True):
            record.add(title, "difference", "ms", ours - theirs)
        # Taken within the run like a ratio, but in milliseconds, which a busy machine stretches.
        record.judge_figure(title, "<=", 1.5, record.figure(title, "difference"), absolute=True)


def _everyone(context: Context, settings: Settings) -> list[Contender]:
    models = context.models
    server, address = context.model_server()
    plain_server, plain_address = context.plain_server()
    gateway = context.gateway()
    found = [
        gateway,
        systems.direct(FAIR, models, address, server, in_call=True),
        systems.direct(DIRECT, models, address, server),
        systems.plain_export(PLAIN, models, plain_address, plain_server),
        *context.http_baselines(),
    ]
    if settings["stream"]:
        job = {**gateway.job, "call": "stream", "window": settings["window"]}
        found.insert(1, Contender(STREAM, job, gateway.servers))
    return found
