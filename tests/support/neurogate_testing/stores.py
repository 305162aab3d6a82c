"""Stores to test with, on each kind of database, and what is easily put into them."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from neurogate.v1 import training_pb2 as pb
from neurogate_gateway.errors import GatewayError
from neurogate_gateway.store.examples import NewExample
from neurogate_gateway.store.run import NewRun, Run
from neurogate_gateway.store.store import Store


@pytest.fixture
def store(records_url: str, tmp_path: Path) -> Iterator[Store]:
    """An empty store, once with each kind of database."""
    opened = Store(tmp_path / "data", records_url, max_store_bytes=1_000_000)
    yield opened
    opened.close()


def queue_run(
    store: Store,
    *,
    request_id: str = "",
    request_digest: str = "",
    max_queued: int = 100,
    check_counts: Callable[[Mapping[str, int]], None] = lambda _: None,
    **spec: Any,
) -> Run:
    """A retraining that waits."""
    new = NewRun(
        spec=pb.RetrainingSpec(**{"from_scratch": True, "launcher": "local"} | spec),
        actor="tester",
        request_id=request_id,
        request_digest=request_digest,
    )
    return store.runs.create(new, max_queued=max_queued, check_counts=check_counts)


def new_example(data: bytes, class_id: str = "glioma", **changes: Any) -> NewExample:
    """An example that the store takes as it is."""
    digest = hashlib.sha256(data).hexdigest()
    values = {
        "example_id": digest,
        "data": data,
        "sent_sha256": digest,
        "class_id": class_id,
        "width": 1,
        "height": 1,
        "actor": "tester",
    }
    return NewExample(**values | changes)


def add_examples(store: Store, *images: bytes, class_id: str = "glioma", **changes: Any) -> list[str]:
    """Keeps examples; returns their identifiers."""
    new = [new_example(data, class_id, **changes) for data in images]
    assert len(store.examples.add(new)) == len(images)
    return [example.example_id for example in new]


def add_prediction(
    store: Store, prediction_id: str, image: bytes, *, keep: bool = True, **changes: Any
) -> str:
    """Keeps a prediction of glioma, with its image or without; returns the image's digest."""
    digest = hashlib.sha256(image).hexdigest()
    row = {
        "prediction_id": prediction_id,
        "create_time": dt.datetime.now(dt.UTC),
        "model": "m",
        "version": 1,
        "label": "stable",
        "manifest_digest": "0" * 64,
        "transform_revision": 2,
        "image_digest": digest,
        "class_id": "glioma",
        "scores": {"glioma": 0.9},
        "verdict": "CONFIDENT",
        "caller": "",
    }
    row |= dict.fromkeys(
        ("ood_score", "queue_seconds", "transform_seconds", "predict_seconds", "total_seconds"), 0.0
    )
    store.predictions.add([row | changes], {digest: image} if keep else {})
    return digest


def refusal(call: Callable[..., object], *args: Any, **options: Any) -> str:
    """The reason for which a call is refused."""
    with pytest.raises(GatewayError) as refused:
        call(*args, **options)
    return refused.value.reason_name()


def log_event(text: str) -> pb.RetrainingEvent:
    """A line of a trainer's log."""
    return pb.RetrainingEvent(log=pb.RetrainingLogLine(level="info", text=text))
