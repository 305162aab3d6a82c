"""Streams through real processes: every image is answered once, with the answer that it gets alone."""

from __future__ import annotations

from collections import Counter

import pytest
from neurogate_client import Client
from neurogate_testing import images
from neurogate_testing.stack import Stack

COUNT = 1_000
KINDS = 5


@pytest.mark.parametrize("in_order", [True, False])
def test_every_image_is_answered_once(stack: Stack, in_order: bool) -> None:
    samples = [images.brain_slice(kind) for kind in range(KINDS)]
    with Client(stack.target) as client:
        alone = [client.classify(sample).scores for sample in samples]
        requests = ((f"{number}", samples[number % KINDS]) for number in range(COUNT))
        keys: list[str] = []
        versions = Counter[int]()
        for result in client.stream_classify(requests, allow_out_of_order=not in_order, timeout=300):
            assert result.classification is not None, result.error
            keys.append(result.key)
            versions[result.classification.model.version] += 1
            for got, expected in zip(
                result.classification.scores, alone[int(result.key) % KINDS], strict=True
            ):
                assert got.class_id == expected.class_id
                assert got.probability == pytest.approx(expected.probability, abs=1e-5)
    expected_keys = [f"{number}" for number in range(COUNT)]
    assert (keys if in_order else sorted(keys, key=int)) == expected_keys
    assert len(versions) == 1
