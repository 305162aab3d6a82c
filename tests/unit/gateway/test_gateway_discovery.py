"""Where model servers are: lists, and names whose addresses come and go."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

import pytest
from neurogate_gateway import discovery
from neurogate_gateway.discovery import discover

Answers = list[list[str] | Exception]


@pytest.fixture
async def names(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answers]:
    """Lets names be looked up without a pause, and answers in the order given; the last one stays."""

    def answer(*answers: list[str] | Exception) -> Answers:
        left = list(answers)

        async def getaddrinfo(host: str, port: int, *, type: socket.SocketKind) -> list[tuple[object, ...]]:  # noqa: A002
            assert (host, port, type) == ("tfs.svc", 8500, socket.SOCK_STREAM)
            found = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(found, Exception):
                raise found
            # Real answers name an address once for each protocol.
            return [(2, 1, protocol, "", (address, port)) for address in found for protocol in (6, 17)]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
        monkeypatch.setattr(discovery, "_RESOLVE_SECONDS", 0)
        return left

    return answer


async def test_a_list_is_told_once() -> None:
    found = discover("a:1, [::1]:2")
    assert await anext(found) == ("a:1", "[::1]:2")
    waiting = asyncio.ensure_future(anext(found))
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()


async def test_a_name_is_told_whenever_its_addresses_change(names: Callable[..., Answers]) -> None:
    names(["10.0.0.2", "10.0.0.1"], ["10.0.0.1", "10.0.0.2"], ["10.0.0.1"], ["10.0.0.1", "fd00::1"])
    found = discover("dns:///tfs.svc:8500")
    assert await anext(found) == ("10.0.0.1:8500", "10.0.0.2:8500")
    assert await anext(found) == ("10.0.0.1:8500",)
    assert await anext(found) == ("10.0.0.1:8500", "[fd00::1]:8500")


@pytest.mark.parametrize("trouble", [socket.gaierror(-2, "Name or service not known"), UnicodeError("label")])
async def test_a_name_server_that_fails_takes_nothing_away(
    names: Callable[..., Answers], trouble: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "neurogate_gateway")
    names(["10.0.0.1"], trouble, trouble, [], ["10.0.0.1"], ["10.0.0.2"])
    found = discover("dns:///tfs.svc:8500")
    assert await anext(found) == ("10.0.0.1:8500",)
    assert await anext(found) == ("10.0.0.2:8500",)
    assert caplog.messages.count("backend_name_unresolved") == 1
