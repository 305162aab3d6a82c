"""Why each of the model server's flags has its value: the same export on servers that differ in one flag."""

from __future__ import annotations

import contextlib
from typing import Any

from neurogate_bench import systems
from neurogate_bench.context import BUILD, Context, Settings

_ONE_THREAD = "--tensorflow_intra_op_parallelism=1"
_SESSION_CONFIG = BUILD / "session.config"
_FLAGS = {
    "default flags": [],
    "as served": [_ONE_THREAD],
    "inter_op 1 too": [_ONE_THREAD, "--tensorflow_inter_op_parallelism=1"],
    "no inter_op threads": [f"--tensorflow_session_config_file={_SESSION_CONFIG}"],
    "packed answers": [_ONE_THREAD, "--enable_serialization_as_tensor_content"],
}
""""as served" is what `serving/` sets; the others differ from it."""


def serving_flags(context: Context, settings: Settings) -> None:
    """One caller and four of each server by turns, with ready tensors, no gateway between."""
    models, record = context.models, context.record
    record.backend = systems.backend_kind()
    context.expected()
    _SESSION_CONFIG.write_text("intra_op_parallelism_threads: 1\ninter_op_parallelism_threads: -1\n")
    servers = {
        "plain export, default flags": (systems.plain_export, models.plain, []),
        "plain export, as served": (systems.plain_export, models.plain, [_ONE_THREAD]),
        **{name: (systems.direct, models.optimised, flags) for name, flags in _FLAGS.items()},
    }
    jobs: dict[str, tuple[systems.Contender, dict[str, Any]]] = {}
    with contextlib.ExitStack() as stack:
        for name, (contender_of, path, flags) in servers.items():
            server, address = systems.start_model_server("flags", path, flags)
            stack.enter_context(server)
            record.commands[name] = server.command
            contender = contender_of(name, models, address, server)
            for callers in settings["callers"]:
                jobs[f"{name}, {callers}"] = (contender, {"mode": "closed", "concurrency": callers})
        for _ in context.rounds(jobs, settings):
            pass
