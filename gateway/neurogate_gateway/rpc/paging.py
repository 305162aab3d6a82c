"""Pages of lists that are read newest first: sizes, and tokens that only fit the list that issued them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import Final

from neurogate.v1 import error_pb2

from neurogate_gateway.errors import GatewayError

UNFILTERED: Final = b""
"""The filter of a list that has none."""

_TOKEN: Final = re.compile(r"(\w+):([0-9a-f]{16}):([1-9][0-9]{0,18})")


class Pages:
    """The pages of one kind of list.

    Args:
        kind: Which, for the tokens.
        default: Size where none is asked for.
        max_size: Size that is given at most.
    """

    def __init__(self, kind: str, *, default: int, max_size: int) -> None:
        self._kind = kind
        self._default = default
        self._max_size = max_size

    def size(self, asked: int) -> int:
        """Entries of a page.

        Raises:
            GatewayError (PAGE_INVALID): It is negative.
        """
        if asked < 0:
            raise _invalid("page_size", f"is {asked}, expected 0 to {self._max_size}")
        return min(asked or self._default, self._max_size)

    def token(self, chosen: bytes, below: int) -> str:
        """The token of the page that follows.

        Args:
            chosen: The filter, serialized.
            below: Number of the last entry so far. Not a position, so that entries that come shift no page.
        """
        return base64.urlsafe_b64encode(f"{self._kind}:{_digest(chosen)}:{below}".encode()).decode()

    def below(self, chosen: bytes, token: str) -> int | None:
        """The number below which a page begins; None for the first.

        Raises:
            GatewayError (PAGE_INVALID): The token is not one of this list's, or is for another filter.
        """
        if not token:
            return None
        try:
            text = base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode("ascii")
        except (binascii.Error, ValueError):
            text = ""
        match = _TOKEN.fullmatch(text)
        # A number that no database holds was not issued either.
        if match is None or match[1] != self._kind or int(match[3]) >= 2**63:
            raise _invalid("page_token", "was not issued by this service")
        if match[2] != _digest(chosen):
            raise _invalid("page_token", "was issued for another filter")
        return int(match[3])


def _digest(chosen: bytes) -> str:
    return hashlib.sha256(chosen).hexdigest()[:16]


def _invalid(field: str, complaint: str) -> GatewayError:
    return GatewayError(error_pb2.ERROR_REASON_PAGE_INVALID, f"{field} {complaint}", field=field)
