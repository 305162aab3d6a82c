"""A model server that takes few calls at a time: is anything lost, and what is it worth beside one that
takes many?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from neurogate_cli.local_stack.servers import MODEL_SERVER_FLAGS

from neurogate_bench import systems
from neurogate_bench.context import Context, Settings
from neurogate_bench.systems import Contender

_FLAG = "--grpc_max_threads"
_ENOUGH = 8
"""Threads from which on a server may cost its callers next to nothing."""


def threads(context: Context, settings: Settings) -> None:
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
    server, address = systems.start_model_server(f"server-{number}", context.models.optimised, flags)
    with server:
        gateway, listening = systems.start_gateway(context.model, address)
        with gateway:
            context.record.commands[f"model server, {number} threads"] = server.command
            job = {"call": "classify", "target": listening}
            yield Contender(f"{number} threads", job, [gateway, server])


def _compare(context: Context, settings: Settings, number: int, contenders: Mapping[str, Contender]) -> None:
    stream = {"call": "stream", "concurrency": settings["streams"], "window": settings["window"]}
    shapes = {"single calls": {"concurrency": settings["singles"]}, "streams": stream}
    jobs = {
        f"{side}, {shape}": (contender, {"mode": "closed", **job})
        for side, contender in contenders.items()
        for shape, job in shapes.items()
    }
    record, lost = context.record, 0
    for found in context.rounds(jobs, settings):
        lost += sum(load.requests - load.answered for load, _ in found.values())
    record.judge(f"requests without an answer, {number} threads", "<=", 0, lost)
    few, many = contenders
    for shape, metric, comparison, limit in (
        ("single calls", "throughput", ">=", 0.95),
        ("streams", "throughput", ">=", 0.95),
        ("single calls", "p99", "<=", 1.1),
    ):
        title = f"{metric} of {shape}, {number} / {settings['many']} threads"
        record.ratio(title, metric, f"{few}, {shape}", f"{many}, {shape}")
        if number >= _ENOUGH:
            record.judge_figure(title, comparison, limit, record.figure(title, "ratio"))
