"""Where model servers are: lists, and names whose addresses come and go."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from neurogate_gateway.backends import discovery
from neurogate_gateway.backends.discovery import discover

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


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of addresses, which is read without a pause."""
    monkeypatch.setattr(discovery, "_READ_SECONDS", 0)
    return tmp_path / "backends"


def write(file: Path, content: bytes) -> None:
    """As whoever does it well: a reader sees the file before or after."""
    other = file.with_name("new")
    other.write_bytes(content)
    other.replace(file)


async def test_a_file_is_told_whenever_its_addresses_change(file: Path) -> None:
    write(file, b"# the first two\na:1, [::1]:2\n\n  b:3  # and one more\n")
    found = discover(f"file:{file}")
    assert await anext(found) == ("a:1", "[::1]:2", "b:3")
    waiting = asyncio.ensure_future(anext(found))
    write(file, b"b:3")
    assert await waiting == ("b:3",)
    write(file, b"b:3\nc:4")
    assert await anext(found) == ("b:3", "c:4")


@pytest.mark.parametrize("content", [None, b"", b"# none\n", b"a:1\nb", b"a:1\na:1\n", b"\xff\xfe"])
async def test_a_file_that_cannot_be_used_takes_nothing_away(
    file: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "neurogate_gateway")
    write(file, b"a:1")
    found = discover(f"file://{file}")
    assert await anext(found) == ("a:1",)
    waiting = asyncio.ensure_future(anext(found))
    if content is None:
        file.unlink()  # noqa: ASYNC240 - it is quick
    else:
        write(file, content)
    while "backend_file_unusable" not in caplog.messages:  # noqa: ASYNC110 - nothing else tells
        await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    assert not waiting.done()
    write(file, b"a:2")
    assert await waiting == ("a:2",)
    assert caplog.messages.count("backend_file_unusable") == 1


@pytest.mark.parametrize("kind", ["dns:///tfs.svc:8500", "file"])
async def test_it_looks_at_once_when_that_is_asked_for(
    names: Callable[..., Answers], file: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    names(["a"], ["b"])
    write(file, b"a:8500")
    for pause in ("_RESOLVE_SECONDS", "_READ_SECONDS"):
        monkeypatch.setattr(discovery, pause, 3600)
    again = asyncio.Event()
    found = discover(f"file:{file}" if kind == "file" else kind, again)
    assert await anext(found) == ("a:8500",)
    write(file, b"b:8500")
    again.set()
    assert await anext(found) == ("b:8500",)
