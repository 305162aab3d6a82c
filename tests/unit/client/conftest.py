from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, Self

import pytest
from neurogate_client import Client, aio
from neurogate_testing.fake_gateway import FakeGateway, fake_gateway


class BlockingAio:
    """The asyncio client with the calling convention of the other one, so that one test serves both."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = aio.Client(*args, **settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **settings: Any) -> Any:
            result = getattr(self._client, name)(*args, **settings)
            return self._items(result) if hasattr(result, "__anext__") else self._runner.run(result)

        return call

    def _items(self, results: Any) -> Iterator[Any]:
        try:
            while True:
                try:
                    yield self._runner.run(anext(results))
                except StopAsyncIteration:
                    return
        finally:
            self._runner.run(results.aclose())

    def close(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with fake_gateway() as running:
        yield running


@pytest.fixture(params=[Client, BlockingAio], ids=["threads", "asyncio"])
def make_client(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return request.param


@pytest.fixture
def client(make_client: Callable[..., Any], gateway: FakeGateway) -> Iterator[Any]:
    with make_client(gateway.address) as made:
        yield made
