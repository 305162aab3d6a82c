"""The command `neurogate-gateway`: reads settings, starts the gateway, ends it on a signal.

The only place that looks at the environment. What needs gRPC is imported late: a wrong setting is reported
at once, and gRPC reads its own environment when it is imported.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

from neurogate_core.command import needs_extra

from neurogate_gateway.observability.logging import configure_logging, log

from .settings import ConfigError, PortUnavailableError, Settings, parse_settings


async def _serve(settings: Settings) -> int:
    from neurogate_gateway.store.errors import RecordsSetupError  # noqa: PLC0415 - see above

    from .app import Gateway  # noqa: PLC0415 - see above

    loop = asyncio.get_running_loop()
    asked_to_stop = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if asked_to_stop.is_set():
            log(logging.WARNING, "killed", signal=number.name)
            # At once means at once: threads in the middle of an image would hold up an ordinary exit.
            os._exit(128 + number)
        log(logging.INFO, "signal", signal=number.name)
        asked_to_stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    try:
        gateway = Gateway(settings)
    except ConfigError as error:
        log(logging.ERROR, "setting_unusable", message=str(error))
        return 2
    except (PortUnavailableError, RecordsSetupError) as error:
        event = "port_unavailable" if isinstance(error, PortUnavailableError) else "records_unusable"
        log(logging.ERROR, event, message=str(error))
        return 1

    def on_hangup() -> None:
        log(logging.INFO, "signal", signal="SIGHUP")
        gateway.find_backends()

    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    try:
        await gateway.start()
        await asked_to_stop.wait()
        return 0
    except Exception as defect:  # noqa: BLE001 - whatever it is, what has begun is ended in order
        log(logging.ERROR, "start_failed", error=defect)
        return 1
    finally:
        await gateway.stop()


@needs_extra("neurogate-gateway", "gateway")
def main() -> None:
    """Runs the gateway until SIGTERM or SIGINT.

    Exit status: 0 after an orderly end, 1 when the port or the records are not to be had or the start fails,
    2 for a wrong setting or a missing extra, 128 and the signal's number after a second signal.
    """
    try:
        settings = parse_settings(sys.argv[1:], os.environ)
    except ConfigError as error:
        print(f"neurogate-gateway: {error}", file=sys.stderr)  # noqa: T201 - there is no log yet
        sys.exit(2)
    configure_logging(settings.log_level)
    log(logging.INFO, "starting", settings=settings.loggable())
    # gRPC's core writes lines of its own to stderr, which are not JSON and say nothing that is not told here.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    sys.exit(asyncio.run(_serve(settings)))
