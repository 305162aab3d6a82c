"""Entry points of the commands: what is missing, and output that cannot be written, is one line each."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec

from neurogate.command import guarded_output

P = ParamSpec("P")

_EXTRA_OF = {"sqlalchemy": "records", "alembic": "records", "psycopg": "records", "ray": "ray"}
_OWN = "neurogate"

MISSING_STATUS = 2
"""Exit status of a command whose extra is not installed."""


def needs_extra(command: str, extra: str) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Makes a command end with one line, and not with a traceback, when a package is not installed.

    So it does when its output cannot be written; see `neurogate.command`.

    Args:
        command: name of the command, for the line.
        extra: extra of this distribution that has what the command imports.
    """

    def decorate(main: Callable[P, None]) -> Callable[P, None]:
        @functools.wraps(main)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
            try:
                with guarded_output(command):
                    main(*args, **kwargs)
            except ModuleNotFoundError as error:
                package = (error.name or "").partition(".")[0]
                # A module of its own that is missing is a defect, and keeps its traceback.
                if not package or package.startswith(_OWN):
                    raise
                wanted = _EXTRA_OF.get(package, extra)
                sys.stderr.write(
                    f"{command} needs the package {package!r}: pip install 'neurogate[{wanted}]'\n"
                )
                sys.exit(MISSING_STATUS)

        return guarded

    return decorate
