"""The command `neurogate-model-server`."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from neurogate_core.command import needs_extra
from neurogate_core.silence_imports import quiet_imports

from .flags import FlagError, Flags, parse_flags, usage

_log = logging.getLogger(__name__)

# What the real server ends with when it cannot start.
_FAILED = 255
# The real server whose recorded behaviour this one is held to.
_BEHAVES_AS = "2.20.0"
_POLL_SECONDS = 0.2


@needs_extra("neurogate-model-server", "serving")
def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the server until SIGTERM or SIGINT; the exit status is 0 then, and 255 if it cannot start."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname).1s %(name)s: %(message)s"
    )
    if "--help" in given:
        print(usage())  # noqa: T201
        sys.exit(_FAILED)
    try:
        flags, unknown = parse_flags(given)
    except FlagError as error:
        # The usage first, so that the reason is what is read last.
        print(usage(), flush=True)  # noqa: T201
        _log.error("%s", error)
        sys.exit(_FAILED)
    if unknown:
        print(usage(), flush=True)  # noqa: T201
        _log.warning("unknown argument: %s", unknown[0])
    if flags.version:
        print(f"TensorFlow ModelServer: {_BEHAVES_AS} (Neurogate's, {_version('neurogate')})")  # noqa: T201
        print(f"TensorFlow Library: {_version('tensorflow')}")  # noqa: T201
        sys.exit(0)
    status = _serve(flags)
    logging.shutdown()
    # Calls that outlived their grace still run in threads, which the interpreter would wait for.
    os._exit(status)


def _serve(flags: Flags) -> int:
    # Blocked before anything makes a thread, and so in every one: only the wait below takes them.
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    # TensorFlow reads this when it is imported: its notes on start would drown the server's own. To have no
    # GPU is an error in its eyes, so where there is no driver for one, errors are left out too.
    driver = Path("/proc/driver/nvidia").exists()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2" if driver else "3")
    # Only now: flags are judged before anything heavy.
    from .tensorflow_runtime import load_bindings, use_bare_tensorflow  # noqa: PLC0415

    use_bare_tensorflow()
    with quiet_imports():
        load_bindings()
        from .errors import ServingError  # noqa: PLC0415
        from .server import ModelServer  # noqa: PLC0415
        from .states import StoppedError  # noqa: PLC0415

    try:
        server = ModelServer(flags)
    except ServingError as error:
        _log.error("Failed to start server. Error: %s", error)
        return _FAILED

    failure: list[BaseException] = []

    def start() -> None:
        try:
            server.start()
        except (ServingError, StoppedError) as error:
            failure.append(error)

    starter = threading.Thread(target=start, name="starter", daemon=True)
    starter.start()
    received = None
    while received is None and not failure:
        received = signal.sigtimedwait(signals, _POLL_SECONDS)
        # After a stop and a continuation that lasted longer than the poll, CPython returns a signal that
        # nobody sent.
        if received is not None and received.si_signo not in signals:
            received = None
    if received is not None:
        _log.info("stopping on %s", signal.Signals(received.si_signo).name)
    server.stop()
    if received is None:
        _log.error("Failed to start server. Error: %s", failure[0])
        return _FAILED
    return 0


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"
