"""How every command ends: what is missing, and output that cannot be written, is one line each.

Any terminal shows their text: what its encoding does not have becomes the nearest ASCII.
"""

from __future__ import annotations

import codecs
import contextlib
import functools
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, ParamSpec, TextIO

P = ParamSpec("P")

PLAIN: Final = "neurogate.plain"
"""Error handler for encodings: what cannot be written becomes the nearest ASCII, else an escape."""

_NEAREST: Final = str.maketrans(
    {"…": "...", "→": "->", "↓": "v", "✓": "+", "✗": "x", "━": "=", "─": "-", "│": "|", "•": "*", "—": "-"}
    | dict.fromkeys("╭╮╰╯┌┐└┘├┤┬┴┼", "+")
)


_EXTRA_OF: Final = {"sqlalchemy": "records", "alembic": "records", "psycopg": "records", "ray": "ray"}

MISSING_STATUS: Final = 2
"""Exit status of a command whose extra is not installed."""


class OutputLostError(BaseException):
    """Standard output takes no more; no Exception, so that no handler of failures takes it for its own."""


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_NEAREST)
    return text.encode("ascii", "backslashreplace").decode(), error.end


codecs.register_error(PLAIN, _plain)


class _Output(io.TextIOWrapper):
    """Standard output: a failure is told from any other at the place where it happens."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            raise OutputLostError(error.strerror) from error

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            raise OutputLostError(error.strerror) from error


class _Notes(io.TextIOWrapper):
    """Standard error: what nobody can be told ends nothing."""

    def write(self, text: str, /) -> int:
        with contextlib.suppress(OSError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            super().flush()


@contextlib.contextmanager
def guarded_output(command: str) -> Iterator[None]:
    """Ends the process with status 1 and one line when its output is closed or its disk is full."""
    kept = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _wrapped(kept[0], _Output), _wrapped(kept[1], _Notes)
    try:
        yield
        sys.stdout.flush()
    except SystemExit:
        _finish(command)
        raise
    except OutputLostError as lost:
        _lost(command, lost)
    finally:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, _Output | _Notes):
                stream.detach()
        sys.stdout, sys.stderr = kept


def _finish(command: str) -> None:
    try:
        sys.stdout.flush()
    except OutputLostError as lost:
        _lost(command, lost)


def _lost(command: str, lost: OutputLostError) -> None:
    # What is still in the buffer has nowhere to go; otherwise it would be tried once more at the very end.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    sys.stderr.write(f"{command}: the output cannot be written: {lost}\n")
    sys.stderr.flush()
    sys.exit(1)


def _wrapped(stream: TextIO | None, kind: type[_Output | _Notes]) -> TextIO:
    if stream is None:
        # Closed by whoever started the command; its number must not go to the next file or socket.
        return Path(os.devnull).open("w", encoding="utf-8")
    # Where a test has put something else there, there is nothing to guard.
    if type(stream) is not io.TextIOWrapper:
        return stream
    stream.flush()
    return kind(
        stream.buffer,
        encoding=stream.encoding,
        errors=PLAIN,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def needs_extra(command: str, extra: str) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Makes a command end with one line, and not with a traceback, when a package is not installed.

    So it does when its output cannot be written.

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
                if not package or package.startswith("neurogate"):
                    raise
                wanted = _EXTRA_OF.get(package, extra)
                sys.stderr.write(
                    f"{command} needs the package {package!r}: pip install 'neurogate[{wanted}]'\n"
                )
                sys.exit(MISSING_STATUS)

        return guarded

    return decorate


def write_output(path: Path, data: bytes) -> None:
    """Writes a file that a user has named: whole or not at all, and through links and devices.

    Raises:
        OSError: It cannot be written; a file that was there before still is.
    """
    # Path.exists raises where a path must not be looked at; opening it says so in better words.
    special = os.path.exists(path) and not os.path.isfile(path)  # noqa: PTH110, PTH113
    # /dev/stdout may lead to a regular file, which whoever opened it wants written to.
    if special or path.absolute().parts[1:2] in {("dev",), ("proc",)}:
        with path.open("wb") as file:
            file.write(data)
        return
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".neurogate-{os.urandom(6).hex()}.tmp")
    try:
        temporary.write_bytes(data)
        if target.exists():
            temporary.chmod(target.stat().st_mode & 0o777)
        temporary.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
