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

        async def make() -> aio.Client:
            return aio.Client(*args, **settings)

        self._client = self._runner.run(make())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)
        return lambda *args, **settings: self._runner.run(method(*args, **settings))

    def stream_classify(self, images: Any, **settings: Any) -> Iterator[Any]:
        return self._items(self._client.stream_classify(images, **settings))

    def upload_examples(self, images: Any, **settings: Any) -> Iterator[Any]:
        return self._items(self._client.upload_examples(images, **settings))

    def watch_model_versions(self, **settings: Any) -> Iterator[Any]:
        return self._items(self._client.watch_model_versions(**settings))

    def watch_retraining(self, run: str, **settings: Any) -> Iterator[Any]:
        return self._items(self._client.watch_retraining(run, **settings))

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
