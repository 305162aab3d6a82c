"""The command `neurogate`; what it does lives in `app`, which needs the extra `cli`."""

from __future__ import annotations

import os
import sys

from neurogate_core.command import needs_extra


@needs_extra("neurogate", "cli")
def main() -> None:
    """Entry point of the command."""
    # gRPC's core writes lines of its own to stderr, in the middle of a bar; what matters is an error's text.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        from .app import run  # noqa: PLC0415 - the base install has neither rich nor typer
    except KeyboardInterrupt:
        # What Rich and Typer import takes long enough for somebody to change their mind.
        sys.exit(130)
    sys.exit(run())
