"""The first answer after everything was started anew."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from neurogate_cli.local_stack.servers import MODEL_SERVER_FLAGS

from neurogate_bench import systems
from neurogate_bench.context import Context
from neurogate_bench.systems import Contender


def cold_start(context: Context, settings: Mapping[str, Any]) -> None:
    """Model server and gateway from nothing: when they are ready, and what the first caller pays."""
    models, record = context.models, context.record
    record.backend = systems.backend_kind()
    expected = context.expected()
    for run in range(settings["runs"]):
        began = time.monotonic()
        server, address = systems.start_model_server(
            "cold-server", models, models.optimised, MODEL_SERVER_FLAGS
        )
        with server:
            record.add("model server", "start to AVAILABLE", "s", time.monotonic() - began)
            began = time.monotonic()
            gateway, listening = systems.start_gateway(context.model, address)
            with gateway:
                record.add("gateway", "start to serving", "s", time.monotonic() - began)
                job = {"call": "classify", "target": listening, "expected": expected}
                contender = Contender("gateway", job, [gateway, server])
                load, _ = context.load(contender, mode="closed", concurrency=1, seconds=settings["seconds"])
                usual = load.latency(50)
                record.add("gateway", "first answer", "ms", load.latencies_ms[0])
                record.add("gateway", "usual answer (p50)", "ms", usual)
                record.add("gateway", "first / usual", "", load.latencies_ms[0] / usual)
        context.step(run, settings["runs"])
