"""The process that decodes DICOM files: `python -m … SOCKET MEMORY_BYTES SECONDS`."""

from __future__ import annotations

import importlib
import json
import math
import resource
import signal
import socket
import sys
import warnings
from pathlib import Path

from neurogate_core.preprocessing.errors import DecoderLimitExceededError, ImageCorruptError, TransformError

from .pool import IDLE_SECONDS, REPLY, REQUEST

_PACKAGES = ("pydicom", "pylibjpeg", "openjpeg", "jpeg_ls")


def main() -> None:
    """Answers request after request, until the other side is gone or has had none for a while."""
    # Ctrl-C and a service manager's SIGTERM are for the process that serves, which ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # pydicom warns with the values that it does not like.
    warnings.simplefilter("ignore")
    connection = socket.socket(fileno=int(sys.argv[1]))
    memory_bytes, seconds = int(sys.argv[2]), float(sys.argv[3])
    try:
        for package in _PACKAGES:
            importlib.import_module(package)
        from . import reader  # noqa: PLC0415 - needs what may be missing
    except ModuleNotFoundError as error:
        _answer(connection, json.dumps({"missing": error.name}))
        return
    _limit(memory_bytes)
    _answer(connection, "{}")
    connection.settimeout(IDLE_SECONDS)
    try:
        while header := _receive(connection, REQUEST.size):
            # The other side kills what is late. This is for when it was killed itself.
            signal.alarm(math.ceil(seconds) + 1)
            frame, max_pixels, max_side, allow_burned_in, length = REQUEST.unpack(header)
            data = _receive(connection, length)
            try:
                levels, attributes = reader.read(
                    data, frame, max_pixels=max_pixels, max_side=max_side, allow_burned_in=allow_burned_in
                )
            except TransformError as error:
                _refuse(connection, error)
            except MemoryError:
                _refuse(
                    connection, DecoderLimitExceededError("decoding the DICOM image needs too much memory")
                )
            except Exception as error:  # noqa: BLE001 - parsers let through whatever they met
                # Its name alone: the text may hold what the file says about a person.
                _refuse(connection, ImageCorruptError(f"the DICOM image is damaged ({type(error).__name__})"))
            else:
                _answer(connection, json.dumps(attributes), *levels.shape)
                connection.sendall(levels.data.cast("B"))
                del levels
            del data
            signal.alarm(0)
    except OSError:
        # The other side is gone, or has had nothing to do for a while.
        return


def _limit(memory_bytes: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    # Neither the picture of a process that broke nor anything else is written anywhere.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def _refuse(connection: socket.socket, error: TransformError) -> None:
    _answer(connection, json.dumps({"reason": error.reason, "message": str(error)}))


def _answer(connection: socket.socket, text: str, rows: int = 0, columns: int = 0) -> None:
    body = text.encode()
    connection.sendall(REPLY.pack(rows, columns, len(body)) + body)


def _receive(connection: socket.socket, length: int) -> bytearray:
    """So many bytes; none when the other side is gone."""
    data = bytearray(length)
    view = memoryview(data)
    while view:
        count = connection.recv_into(view)
        if not count:
            return bytearray()
        view = view[count:]
    return data


if __name__ == "__main__":
    main()
