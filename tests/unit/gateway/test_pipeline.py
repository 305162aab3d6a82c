"""The pipeline passes on what is left of a deadline."""

from __future__ import annotations

import pytest
from neurogate.v1 import model_pb2
from neurogate_gateway.backends.pool import DEADLINE_MARGIN_SECONDS
from neurogate_gateway.deadline import Deadline
from neurogate_gateway.errors import DeadlineTooShortError
from neurogate_gateway.inference.admission import Admission
from neurogate_gateway.inference.pipeline import InferencePipeline
from neurogate_gateway.inference.preprocessing import Submitted, TransformPool
from neurogate_gateway.release.router import VersionRouter
from neurogate_testing.fake_model import sample_image
from neurogate_testing.scripted_backend import ScriptedPool, transforms

__all__ = ["transforms"]


async def test_the_backend_gets_what_is_left_less_a_margin(transforms: TransformPool) -> None:
    scripted = ScriptedPool(transforms)
    [backend], [endpoint] = scripted.servers, scripted.endpoints
    backend.list_versions(1)
    await scripted.poll(endpoint)
    pipeline = InferencePipeline(
        admission=Admission(
            max_image_bytes=10**6, max_in_flight=2, max_bulk_calls=1, max_watches=1, min_deadline=0
        ),
        backends=scripted.pool,
        router=VersionRouter(scripted.pool, model="brain_tumor", swap_wait=1),
        transforms=transforms,
        image_timeout=30,
        window=2,
    )
    image, selector, begun = Submitted(sample_image()), model_pb2.ModelSelector(), backend.begun
    deadline = Deadline.after(20)
    await pipeline.classify(image, selector, top_k=0, deadline=deadline)
    assert deadline.remaining() <= backend.predict_seconds[-1] + DEADLINE_MARGIN_SECONDS <= 20
    late = Deadline.after(DEADLINE_MARGIN_SECONDS / 2)
    with pytest.raises(DeadlineTooShortError):
        await pipeline.classify(image, selector, top_k=0, deadline=late)
    assert backend.begun == begun + 1
