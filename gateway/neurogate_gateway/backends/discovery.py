"""Where the model servers are: a list of addresses, or a name or a file whose addresses come and go."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

from neurogate_gateway.observability.logging import log
from neurogate_gateway.settings import DNS_PREFIX, FILE_PREFIX, ConfigError, split_addresses

_RESOLVE_SECONDS: Final = 2.0
_READ_SECONDS: Final = 1.0


def discover(backend_address: str, again: asyncio.Event | None = None) -> AsyncIterator[tuple[str, ...]]:
    """Every address, first now and then whenever they have changed; never empty, and without an end.

    Args:
        backend_address: As `Settings` has checked it: addresses with commas between, a name to resolve, or a
            file to read.
        again: Set by who wants the name to be resolved, or the file to be read, at once.
    """
    again = again or asyncio.Event()
    if backend_address.startswith(FILE_PREFIX):
        path = Path(backend_address.removeprefix(FILE_PREFIX))
        return _changes(lambda: _read(path), "backend_file_unusable", str(path), again, _READ_SECONDS)
    if backend_address.startswith(DNS_PREFIX):
        host, _, port = backend_address.removeprefix(DNS_PREFIX).rpartition(":")
        return _changes(
            lambda: _resolve(host, int(port)), "backend_name_unresolved", host, again, _RESOLVE_SECONDS
        )
    return _listed(split_addresses("backend_address", backend_address.split(",")))


async def _listed(addresses: tuple[str, ...]) -> AsyncIterator[tuple[str, ...]]:
    yield addresses
    await asyncio.Event().wait()


async def _changes(
    find: Callable[[], Awaitable[tuple[str, ...]]],
    event: str,
    name: str,
    again: asyncio.Event,
    seconds: float,
) -> AsyncIterator[tuple[str, ...]]:
    known: tuple[str, ...] = ()
    complaint = ""
    while True:
        again.clear()
        try:
            found = await find()
        except (OSError, ValueError) as error:
            # Not the servers are gone but what names them, as far as anybody knows; polls tell the rest.
            if complaint != str(error):
                complaint = str(error)
                log(logging.WARNING, event, name=name, message=complaint)
        else:
            complaint = ""
            if found and found != known:
                known = found
                yield found
        try:
            async with asyncio.timeout(seconds):
                await again.wait()
        except TimeoutError:
            pass


async def _resolve(host: str, port: int) -> tuple[str, ...]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(sorted({_joined(str(entry[4][0]), port) for entry in found}))


async def _read(path: Path) -> tuple[str, ...]:
    """The addresses in a file, one a line or with commas between; `#` begins a comment.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no text, has no address, or one that is none.
    """
    text = await asyncio.to_thread(path.read_text, "utf-8")
    lines = (line.partition("#")[0].split(",") for line in text.splitlines())
    addresses = [address for line in lines for address in line if address.strip()]
    if not addresses:
        # As when it is being written; whoever wants no server stops the gateway.
        raise ConfigError("the file has no address")
    return split_addresses("the file", addresses)


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
