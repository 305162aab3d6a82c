"""The transform on its threads: refusals, and what is cancelled before its turn."""

from __future__ import annotations

import asyncio
import threading

import pytest
from neurogate_core.preprocessing.transform import Decoded, default_spec
from neurogate_gateway.inference import preprocessing
from neurogate_gateway.inference.preprocessing import TransformPool
from neurogate_testing.fake_backend import sample_image
from neurogate_testing.refusals import refused
from PIL import Image


async def test_the_pool_refuses_with_the_transforms_reason() -> None:
    transforms = TransformPool(1)
    with refused("IMAGE_FORMAT_UNSUPPORTED"):
        await transforms.run(b"hello", default_spec())
    with refused("IMAGE_CORRUPT"):
        await transforms.run(sample_image()[:40], default_spec())
    transforms.close()


async def test_what_is_cancelled_before_its_turn_is_never_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[bytes] = []
    running, release = threading.Event(), threading.Event()

    def decode(image: bytes, *_: object, **__: object) -> Decoded:
        begun.append(image)
        running.set()
        assert release.wait(10)
        return Decoded(Image.new("L", (1, 1)), {})

    monkeypatch.setattr(preprocessing, "decode", decode)
    transforms = TransformPool(1)
    first = asyncio.create_task(transforms.run(b"first", default_spec()))
    await asyncio.to_thread(running.wait, 10)
    second = asyncio.create_task(transforms.run(b"second", default_spec()))
    third = asyncio.create_task(transforms.run(b"third", default_spec()))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait([second])
    release.set()
    assert (await first).pixels.shape == (224, 224, 3)
    await third
    assert begun == [b"first", b"third"]
    transforms.close()
