"""A gateway's part in retrainings as a process of its own, to be killed: a `launching.Home` without gRPC.

Argument: the home's folder. Says "running" once it works.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from neurogate_gateway.observability.logging import configure_logging
from neurogate_gateway.retraining import runner
from neurogate_gateway.retraining.launcher_local import LocalLauncher
from neurogate_gateway.retraining.worker import Limits
from neurogate_gateway.store.store import gateway_identity

from neurogate_testing.launching import Home


async def run(path: Path) -> None:
    home = Home(path)
    records = home.open()
    # A killed gateway is waited for no longer than a test likes to.
    runner._LEASE_SECONDS = 2.0
    work = runner.RetrainingRunner(
        records,
        owner=gateway_identity(),
        launchers=[LocalLauncher(cores=0, memory_bytes=0)],
        jobs=home.jobs(records),
        promoter=None,
        limits=Limits(hang_seconds=600, ready_seconds=600),
    )
    sys.stdout.write("running\n")
    sys.stdout.flush()
    await work.run()


if __name__ == "__main__":
    configure_logging("info")
    asyncio.run(run(Path(sys.argv[1])))
