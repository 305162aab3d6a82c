"""What is measured, one function per kind of scenario; `scenarios.toml` says with which settings."""

from __future__ import annotations

from collections.abc import Callable

from neurogate_bench.context import Context, Settings
from neurogate_bench.scenarios import (
    bulk,
    contenders,
    cost,
    limits,
    network,
    serving_flags,
    soak,
    swap,
    threads,
)

KINDS: dict[str, Callable[[Context, Settings], None]] = {
    "null": cost.null,
    "payload": cost.payload,
    "startup": cost.startup,
    "cold_start": cost.cold_start,
    "serving_flags": serving_flags.serving_flags,
    "network": network.network,
    "contenders": contenders.contenders,
    "server": limits.server,
    "overload": limits.overload,
    "offline": bulk.offline,
    "batch": bulk.batch,
    "stream_count": bulk.stream_count,
    "threads": threads.threads,
    "swap": swap.swap,
    "soak": soak.soak,
}
