"""The command `neurogate`; what it does lives in `cli_app`, which needs the extra `cli`."""

from __future__ import annotations

import os
import sys

from neurogate.command import guarded_output


def main() -> None:
    """Entry point of the command: says which extra is missing, where it is."""
    # gRPC's core writes lines of its own to stderr, in the middle of a bar; what matters is told as an error.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    with guarded_output("neurogate"):
        try:
            from .app import run  # noqa: PLC0415 - the base install has neither rich nor typer
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] not in {"rich", "typer", "click"}:
                raise
            sys.stderr.write(
                f"The command line needs the package {error.name!r}: pip install 'neurogate[cli]'\n"
                "(The Python client works without it: from neurogate_client import Client)\n"
            )
            sys.exit(2)
        except KeyboardInterrupt:
            # What Rich and Typer import takes long enough for somebody to change their mind.
            sys.exit(130)
        sys.exit(run())
