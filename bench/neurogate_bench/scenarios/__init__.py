"""What is measured, one function per kind of scenario; `scenarios.toml` says with which settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from neurogate_bench.context import Context
from neurogate_bench.scenarios import (
    bulk,
    cold,
    contenders,
    cost,
    limits,
    network,
    script,
    soak,
    swap,
    threads,
)

Settings = Mapping[str, Any]
KINDS: dict[str, Callable[[Context, Settings], None]] = {
    "null": cost.null,
    "payload": cost.payload,
    "startup": cost.startup,
    "network": network.network,
    "contenders": contenders.contenders,
    "server": limits.server,
    "overload": limits.overload,
    "offline": bulk.offline,
    "batch": bulk.batch,
    "stream_count": bulk.stream_count,
    "swap": swap.swap,
    "threads": threads.threads,
    "cold_start": cold.cold_start,
    "script": script.script,
    "soak": soak.soak,
}
