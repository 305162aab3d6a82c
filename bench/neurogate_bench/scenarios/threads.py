"""A model server that takes few calls at a time: is anything lost, and what is it worth beside one that takes
many?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from neurogate_cli.local_stack.servers import MODEL_SERVER_FLAGS

from neurogate_bench import systems
from neurogate_bench.context import Context
from neurogate_bench.systems import Contender

_FLAG = "--grpc_max_threads"
_ENOUGH = 8
"""Threads from which on a server may cost its callers next to nothing."""


def threads(context: Context, settings: Mapping[str, Any]) -> None:
    """Gateways before servers with few threads, each by turns with the one before a server with many."""
    context.record.backend = systems.backend_kind()
    context.expected()
    with _gateway(context, settings["many"]) as many:
        for number in settings["threads"]:
            with _gateway(context, number) as few:
                _compare(context, settings, number, {f"{number} threads": few, f"beside {number}": many})


@contextlib.contextmanager
def _gateway(context: Context, number: int) -> Iterator[Contender]:
    """A gateway before a model server with so many threads."""
    flags = [*(flag for flag in MODEL_SERVER_FLAGS if not flag.startswith(_FLAG)), f"{_FLAG}={number}"]
    name, models = f"server-{number}", context.models
    server, address = systems.start_model_server(name, models, models.optimised, flags)
    with server:
        gateway, listening = systems.start_gateway(context.model, address)
        with gateway:
            context.record.commands.update(
                {f"model server, {number} threads": server.command, f"gateway, {number}": gateway.command}
            )
            job = {"call": "classify", "target": listening}
            yield Contender(f"{number} threads", job, [gateway, server])


def _compare(
    context: Context, settings: Mapping[str, Any], number: int, contenders: Mapping[str, Contender]
) -> None:
    shapes: dict[str, dict[str, Any]] = {
        "single calls": {"mode": "closed", "concurrency": settings["singles"]},
        "streams": {
            "mode": "closed",
            "call": "stream",
            "concurrency": settings["streams"],
            "window": settings["window"],
        },
    }
    jobs = {
        f"{side}, {shape}": (contender, job)
        for side, contender in contenders.items()
        for shape, job in shapes.items()
    }
    context.warm_up(jobs, settings)
    record, lost = context.record, 0
    for run in range(settings["runs"]):
        for name, (load, cpu) in context.turns(jobs, settings, run).items():
            record.add(name, "throughput", "images/s", load.per_second)
            record.add(name, "p50", "ms", load.latency(50))
            record.add(name, "p99", "ms", load.latency(99))
            record.add(name, "CPU", "ms/image", load.cpu_ms(cpu))
            lost += load.requests - load.answered
        rates = ", ".join(f"{name} {record.runs(name, 'throughput')[-1]:.0f}" for name in jobs)
        context.step(run, settings["runs"], f"images/s: {rates}")
    record.judge(f"requests without an answer, {number} threads", "<=", 0, lost)
    few, many = contenders
    for shape in shapes:
        title = f"throughput of {shape}, {number} / {settings['many']} threads"
        record.ratio(title, "throughput", f"{few}, {shape}", f"{many}, {shape}")
        if number >= _ENOUGH:
            record.judge_figure(title, ">=", 0.95, record.figure(title, "ratio"))
    title = f"p99 of single calls, {number} / {settings['many']} threads"
    record.ratio(title, "p99", f"{few}, single calls", f"{many}, single calls")
    if number >= _ENOUGH:
        record.judge_figure(title, "<=", 1.1, record.figure(title, "ratio"))
