"""Where the model servers are: a list of addresses, or a name whose addresses come and go."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from typing import Final

from .config import DNS_PREFIX
from .telemetry import log

_RESOLVE_SECONDS: Final = 2.0


def discover(backend_address: str) -> AsyncIterator[tuple[str, ...]]:
    """Every address, first now and then whenever they have changed; never empty, and without an end.

    Args:
        backend_address: As `Settings` has checked it: addresses with commas between, or a name to resolve.
    """
    if backend_address.startswith(DNS_PREFIX):
        host, _, port = backend_address.removeprefix(DNS_PREFIX).rpartition(":")
        return _resolved(host, int(port))
    return _listed(tuple(address.strip() for address in backend_address.split(",")))


async def _listed(addresses: tuple[str, ...]) -> AsyncIterator[tuple[str, ...]]:
    yield addresses
    await asyncio.Event().wait()


async def _resolved(host: str, port: int) -> AsyncIterator[tuple[str, ...]]:
    known: tuple[str, ...] = ()
    complaint = ""
    while True:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            # Not the servers are gone but the name server, as far as anybody knows; polls tell the rest.
            if complaint != str(error):
                complaint = str(error)
                log(logging.WARNING, "backend_name_unresolved", name=host, message=complaint)
        else:
            complaint = ""
            addresses = tuple(sorted({_joined(str(entry[4][0]), port) for entry in found}))
            if addresses and addresses != known:
                known = addresses
                yield addresses
        await asyncio.sleep(_RESOLVE_SECONDS)


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
