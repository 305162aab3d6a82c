"""Pages of lists that are sorted by a falling number.

A page goes on below a number and not at a position, so that what comes meanwhile shifts no page.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from neurogate_gateway.errors import PageInvalidError

_DEFAULT_PAGE: Final = 50
_LARGEST_PAGE: Final = 100


def page_size(asked: int) -> int:
    """How many entries a page has.

    Raises:
        PageInvalidError: A negative number was asked for.
    """
    if asked < 0:
        raise PageInvalidError(f"page_size is {asked}, expected 0 to {_LARGEST_PAGE}", field="page_size")
    return min(asked or _DEFAULT_PAGE, _LARGEST_PAGE)


def token(what: str, number: int) -> str:
    """What leads to the entries below a number."""
    return base64.urlsafe_b64encode(f"{what}-below:{number}".encode()).decode()


def below(what: str, page_token: str) -> int:
    """The number below which a page begins; one above all for the first page.

    Raises:
        PageInvalidError: The token was not issued for this list.
    """
    if not page_token:
        return 2**63
    try:
        text = base64.b64decode(page_token.encode(), altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        text = ""
    match = re.fullmatch(rf"{what}-below:([1-9][0-9]{{0,18}})", text)
    if match is None:
        raise PageInvalidError("page_token was not issued by this service", field="page_token")
    return int(match[1])
