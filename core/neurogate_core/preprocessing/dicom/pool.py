"""Decoders of DICOM files in child processes, each with a limit of memory and a time for each image.

A mutated file of some kilobytes can keep a decoder busy for seconds, fill memory or end its process. So
nothing of a file is parsed in the process that serves: a child is given the bytes, answers with pixels or a
reason, and is replaced when it dies or is late. That costs one image and nothing else.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import queue
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from neurogate_core.preprocessing import errors as _image_errors
from neurogate_core.preprocessing.errors import (
    DecoderLimitExceededError,
    ImageCorruptError,
    ImageFormatUnsupportedError,
    TransformError,
)

MEMORY_BYTES: Final = 1 << 30
"""What a child may map on top of what it needs to start."""

SECONDS: Final = 5.0
"""Time for one image; a sound file takes milliseconds."""

CHILDREN: Final = min(2, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)
"""How many the whole process shares."""

IDLE_SECONDS: Final = 300.0
"""A child that has had nothing to do for so long ends by itself."""

_START_SECONDS: Final = 60.0
_LONGEST_TEXT: Final = 1 << 16
REQUEST: Final = struct.Struct("!IQI?Q")
"""Frame, most pixels, longest side, whether burned-in annotation is allowed, number of bytes that follow."""
REPLY: Final = struct.Struct("!IIQ")
"""Rows and columns (0 for a refusal), length of the JSON that follows; then come the pixels."""

_ENVIRONMENT: Final = {
    # One thread: it works for one image, and threads' stacks count against its memory.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    # glibc: the memory of a usual image is kept for the next. To get it anew took longer than all else.
    "MALLOC_MMAP_THRESHOLD_": str(16 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(32 << 20),
}

_REASONS: Final = {
    error.reason: error
    for error in vars(_image_errors).values()
    if isinstance(error, type) and issubclass(error, TransformError)
}


Levels = npt.NDArray[np.uint8]
Decoded = tuple[Levels, Mapping[str, str]]
"""A frame as uint8 [rows, columns], 0 black; DICOM keywords of an allow-list with their values."""


def is_dicom(data: bytes) -> bool:
    """Whether the bytes begin as a DICOM file does (PS3.10 7.1)."""
    return data[128:132] == b"DICM"


class DicomPool:
    """Children that decode, each started when it is first needed; thread-safe."""

    def __init__(self, children: int, *, seconds: float = SECONDS, memory_bytes: int = MEMORY_BYTES) -> None:
        self._seconds = seconds
        self._memory_bytes = memory_bytes
        self._idle: queue.LifoQueue[_Child | None] = queue.LifoQueue()
        for _ in range(children):
            self._idle.put(None)
        self._lock = threading.Lock()
        self._alive: set[_Child] = set()
        self._closed = False
        self._missing = ""

    def decode(
        self, data: bytes, frame: int, *, max_pixels: int, max_side: int, allow_burned_in: bool = False
    ) -> Decoded:
        """One frame of a DICOM file; waits for a free child.

        Args:
            data: The file.
            frame: Number of the frame, from 1; 0 for the only one.
            max_pixels: Most pixels of a frame.
            max_side: Longest side of a frame, in pixels.
            allow_burned_in: Whether an image may say that a person's data are drawn into it.

        Raises:
            TransformError: The file is refused, or its decoder died or was late.
            OSError: No child can be started.
        """
        if len(data) > self._memory_bytes // 4:
            raise DecoderLimitExceededError(
                f"the DICOM file has {len(data)} bytes, at most {self._memory_bytes // 4} are decoded"
            )
        request = REQUEST.pack(frame, max_pixels, max_side, allow_burned_in, len(data))
        child = self._idle.get()
        try:
            while True:
                fresh = child is None
                if child is None:
                    child = self._start()
                try:
                    return child.decode(request, data, self._seconds, max_pixels)
                except TransformError:
                    raise
                except BaseException as error:
                    # A late answer of this child must not be taken for the next image's.
                    self._end(child)
                    child = None
                    if not isinstance(error, _LostError):
                        raise
                    # The error itself holds this frame, and with it the file, until the collector comes.
                    why = error.why
                # One that went before it had read the file was not ended by the file.
                if fresh or why != "idle":
                    raise _refusal(why, self._seconds)
        finally:
            self._idle.put(child)

    def close(self) -> None:
        """Ends all children; images that are being decoded have no answer."""
        with self._lock:
            self._closed = True
            children = list(self._alive)
        for child in children:
            child.kill()
        idle: list[_Child | None] = []
        with contextlib.suppress(queue.Empty):
            while True:
                idle.append(self._idle.get_nowait())
        for each in idle:
            # Those at work are ended by whoever waits for their answer.
            if each is not None:
                self._end(each)
            self._idle.put(None)

    def _start(self) -> _Child:
        if self._missing:
            raise ImageFormatUnsupportedError(self._missing)
        child = _Child(self._memory_bytes, self._seconds)
        with self._lock:
            self._alive.add(child)
            if self._closed:
                child.kill()
        package = ""
        try:
            package = child.begin()
        except BaseException as error:
            self._end(child)
            if not isinstance(error, _LostError):
                raise
            raise OSError("the process that decodes DICOM images does not start") from None
        if package:
            self._end(child)
            self._missing = (
                f"DICOM is not read here, since the package {package!r} is not installed: "
                "pip install 'neurogate[dicom]'"
            )
            raise ImageFormatUnsupportedError(self._missing)
        return child

    def _end(self, child: _Child) -> None:
        child.kill()
        child.close()
        with self._lock:
            self._alive.discard(child)


class _LostError(Exception):
    """A child has to be replaced: "late", "dead", or "idle" where it had ended before it read the request."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


def _refusal(why: str, seconds: float) -> TransformError:
    if why == "late":
        return DecoderLimitExceededError(f"decoding the DICOM image takes more than {seconds:g} s")
    return ImageCorruptError("the DICOM image's decoder ended while decoding it")


class _Child:
    """A process that decodes one file after another."""

    def __init__(self, memory_bytes: int, seconds: float) -> None:
        ours, theirs = socket.socketpair()
        self._socket = ours
        self._until = time.monotonic() + _START_SECONDS
        command = [sys.executable, "-P", "-m", "neurogate_core.preprocessing.dicom.child"]
        try:
            with theirs:
                self._process = subprocess.Popen(  # noqa: S603 - this interpreter and this package
                    [*command, str(theirs.fileno()), str(memory_bytes), str(seconds)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env=os.environ | _ENVIRONMENT,
                )
        except BaseException:
            ours.close()
            raise
        # It may end by itself, and nobody else waits for it.
        threading.Thread(target=self._process.wait, name="dicom-child", daemon=True).start()

    def begin(self) -> str:
        """Waits until it has started; returns the package that it lacks, if any."""
        return str(self._answer()[1].get("missing", ""))

    def decode(self, request: bytes, data: bytes, seconds: float, max_pixels: int) -> Decoded:
        self._until = time.monotonic() + seconds
        self._send(request)
        self._send(data)
        (rows, columns), answer = self._answer()
        if not rows:
            raise _REASONS.get(str(answer.get("reason")), ImageCorruptError)(str(answer.get("message")))
        # It was found by a process that a hostile file may have made its own.
        if rows * columns > max_pixels:
            raise _LostError("dead")
        levels = np.empty((rows, columns), np.uint8)
        self._fill(levels.data.cast("B"))
        return levels, {str(name): str(value) for name, value in answer.items()}

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self._socket.close()

    def _answer(self) -> tuple[tuple[int, int], dict[str, Any]]:
        header = bytearray(REPLY.size)
        self._fill(memoryview(header))
        rows, columns, length = REPLY.unpack(header)
        if length > _LONGEST_TEXT:
            raise _LostError("dead")
        text = bytearray(length)
        self._fill(memoryview(text))
        try:
            return (rows, columns), dict(json.loads(text))
        except (TypeError, ValueError):
            raise _LostError("dead") from None

    def _send(self, data: bytes) -> None:
        try:
            self._socket.settimeout(self._left())
            self._socket.sendall(data)
        except TimeoutError:
            raise _LostError("late") from None
        except OSError:
            raise _LostError("idle") from None

    def _fill(self, view: memoryview) -> None:
        while view:
            try:
                self._socket.settimeout(self._left())
                count = self._socket.recv_into(view)
            except TimeoutError:
                raise _LostError("late") from None
            except ConnectionResetError:
                # There was something that it had not read.
                raise _LostError("idle") from None
            except OSError:
                raise _LostError("dead") from None
            if not count:
                raise _LostError("dead")
            view = view[count:]

    def _left(self) -> float:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


_lock = threading.Lock()
_shared: DicomPool | None = None


def decode_dicom(
    data: bytes, frame: int, *, max_pixels: int, max_side: int, allow_burned_in: bool = False
) -> Decoded:
    """As `DicomPool.decode`, by the children that the whole process shares."""
    global _shared  # noqa: PLW0603 - made when first needed: most processes never meet a DICOM file
    with _lock:
        if _shared is None:
            _shared = DicomPool(CHILDREN)
    return _shared.decode(
        data, frame, max_pixels=max_pixels, max_side=max_side, allow_burned_in=allow_burned_in
    )


def close_decoders() -> None:
    """Ends the children that the process shares; a file that comes later starts others."""
    global _shared
    with _lock:
        pool, _shared = _shared, None
    if pool is not None:
        pool.close()


def _forget() -> None:
    """In a process that was forked: the children answer the one that started them."""
    global _lock, _shared
    _lock, _shared = threading.Lock(), None


atexit.register(close_decoders)
os.register_at_fork(after_in_child=_forget)
