"""One exception for every failure that a caller sees, with TensorFlow Serving's codes and texts."""

from __future__ import annotations

from typing import Final

import grpc

# The real server cuts the text of every failed call here, so that it fits into HTTP/2 headers.
MESSAGE_LIMIT: Final = 1024
TRUNCATED: Final = b"...TRUNCATED"


class ServingError(Exception):
    """A failed call or load: a status code and the text that belongs to it.

    The text may hold lone surrogates ("surrogateescape"), which stand for bytes that are not UTF-8: a broken
    warm-up record is quoted in the error, whatever it is.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def number(self) -> int:
        """The code as a number; gRPC's and TensorFlow's are the same."""
        return int(self.code.value[0])

    @property
    def message_bytes(self) -> bytes:
        """The text as it goes over the wire."""
        return self.message.encode("utf-8", "surrogateescape")

    @property
    def details(self) -> bytes:
        """The text of a failed call, cut as the real server cuts it."""
        message = self.message_bytes
        return message if len(message) <= MESSAGE_LIMIT else message[:MESSAGE_LIMIT] + TRUNCATED

    def __str__(self) -> str:
        """The form that TensorFlow gives a status in longer texts."""
        return f"{self.code.name}: {self.message}"


def invalid_argument(message: str) -> ServingError:
    """A call that can never succeed as it is."""
    return ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)


def failed_precondition(message: str) -> ServingError:
    """A call that the server cannot serve in its present state."""
    return ServingError(grpc.StatusCode.FAILED_PRECONDITION, message)


def not_found(message: str) -> ServingError:
    """A call that names something that is not there."""
    return ServingError(grpc.StatusCode.NOT_FOUND, message)
