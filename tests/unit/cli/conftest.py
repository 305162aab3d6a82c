from __future__ import annotations

from collections.abc import Iterator

import pytest
from neurogate_testing.command_line import Run, command_line
from neurogate_testing.fake_gateway import FakeGateway, fake_gateway


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with fake_gateway() as running:
        yield running


@pytest.fixture
def neurogate(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    return command_line(monkeypatch, capfd)


@pytest.fixture
def ask(neurogate: Run, gateway: FakeGateway) -> Run:
    """The command line on the fake gateway."""
    return lambda *words: neurogate(*words, "--target", gateway.address)
