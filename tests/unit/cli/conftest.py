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


class Ask:
    """The command line on a gateway: exit status, stdout, stderr."""

    def __init__(self, run: Run, target: str) -> None:
        self._run = run
        self._target = target

    def __call__(self, *words: object) -> tuple[int, str, str]:
        return self._run(*words, "--target", self._target)

    def ok(self, *words: object) -> str:
        """What a command that is done says on stdout."""
        code, out, err = self(*words)
        assert code == 0, err
        return out

    def failed(self, *words: object) -> str:
        """What a command that ends with status 1 says on stderr."""
        code, _, err = self(*words)
        assert code == 1, err
        return err


@pytest.fixture
def ask(neurogate: Run, gateway: FakeGateway) -> Ask:
    return Ask(neurogate, gateway.address)
