"""What is sent and how answers are booked; arrivals, prepared networks and the scenarios' data."""

from __future__ import annotations

import io
import json
from itertools import pairwise

import numpy as np
import pytest
from neurogate_bench import images, null_backend, prepare
from neurogate_bench.context import read_scenarios
from neurogate_bench.generator import Generator, GeneratorError, poisson_arrivals
from neurogate_bench.load import Answer, Booking, Load, merge
from neurogate_bench.scenarios import KINDS
from neurogate_bench.scenarios.limits import highest_passing
from neurogate_core import manifest
from neurogate_core.preprocessing import transform
from PIL import Image


def decoded(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def test_pictures_are_the_same_every_time_and_differ_from_each_other():
    assert images.slice_like(3) == images.slice_like(3)
    assert images.slice_like(3) != images.slice_like(4)
    assert decoded(images.slice_like(3)).shape == (512, 512)


@pytest.mark.parametrize("extra", [4, 5, 65_537, 65_538, 65_540, 65_541, 200_000])
def test_padding_changes_the_size_and_not_the_picture(extra):
    picture = images.slice_like(0)
    padded = images.padded_jpeg(picture, len(picture) + extra)
    assert len(padded) == len(picture) + extra
    assert (decoded(padded) == decoded(picture)).all()


def test_arrivals_are_a_poisson_process_of_the_seed():
    arrivals = poisson_arrivals(200, 50, seed=1)
    assert arrivals == poisson_arrivals(200, 50, seed=1) != poisson_arrivals(200, 50, seed=2)
    assert arrivals == sorted(arrivals)
    assert 0 < arrivals[0] < arrivals[-1] < 50
    # 10,000 expected: five standard deviations are 500.
    assert abs(len(arrivals) - 10_000) < 500
    gaps = [later - earlier for earlier, later in pairwise(arrivals)]
    # The exponential distribution's own mark: its deviation is its mean.
    assert np.std(gaps) == pytest.approx(np.mean(gaps), rel=0.05)


@pytest.mark.parametrize(
    ("number", "answer", "problem"),
    [
        (0, Answer(1, 0.7501, 4), ""),
        (3, Answer(2, 0.5, None), ""),
        (0, Answer(2, 0.75, 4), "class"),
        (0, Answer(1, 0.70, 4), "probability"),
        (0, Answer(1, 0.75, 5), "version"),
    ],
)
def test_wrong_answers_are_told_apart(number, answer, problem):
    assert Booking({"expected": [[1, 0.75], [2, 0.5]], "versions": [4]}).problem(number, answer) == problem


def test_bursts_add_up_to_one_load_and_survive_the_way_from_the_generator():
    loads = []
    for first in (0, 1):
        booking = Booking({"expected": [[1, 0.5]]})
        booking.begin()
        booking.answered(0, [Answer(1, 0.5, 7), Answer(first, 0.5, 7)], 0.010)
        booking.refused("RESOURCE_EXHAUSTED", 0.001)
        booking.end()
        loads.append(Load.from_json(json.loads(json.dumps(booking.load.to_json()))))
    loads[1].busiest_share = 2.0
    whole = merge(loads)
    assert (whole.answered, whole.images, whole.requests) == (2, 4, 4)
    assert whole.seconds == sum(load.seconds for load in loads)
    assert whole.refusals == {"RESOURCE_EXHAUSTED": 2}
    assert whole.wrong == {"class": 1}
    assert whole.answered_by == [7, 7]
    assert whole.error_share == 0.5
    assert whole.latency(50) == pytest.approx(10)
    assert whole.busiest_share == 2.0


def test_a_generator_that_failed_is_heard():
    generator = Generator()
    try:
        with pytest.raises(GeneratorError, match="No such file"):
            generator.run({"mode": "closed", "call": "classify", "target": "", "images": ["/nowhere.jpg"]})
    finally:
        generator.close()


def test_a_rate_that_passes_above_one_that_fails_does_not_count():
    good, slow = Load(latencies_ms=[10.0]), Load(latencies_ms=[90.0])
    assert highest_passing({0.9: good, 0.5: good, 0.8: slow, 0.7: good}, 50) == 0.7
    assert highest_passing({0.8: slow}, 50) == 0


def test_the_null_backends_manifest_is_one_that_the_gateway_accepts():
    pictures = [images.slice_like(number) for number in range(4)]
    found = manifest.parse_manifest(null_backend.build_manifest("brain_tumor", 96, pictures))
    pixels = transform.transform(pictures[0], found.transform)
    assert transform.pixels_digest(pixels) == found.goldens[0].pixels_sha256


def test_networks_that_are_prepared_are_not_prepared_again(tmp_path):
    folder = tmp_path / prepare.fingerprint("brain_tumor", 224)
    folder.mkdir()
    found = prepare.ensure(tmp_path, [], "brain_tumor", 224)
    assert (found.side, found.optimised) == (224, folder / "models" / "brain_tumor")
    # Another size of input is another network.
    assert prepare.fingerprint("brain_tumor", 96) != folder.name


def test_every_scenario_names_a_kind_and_says_what_it_asks():
    _, scenarios = read_scenarios()
    for name, settings in scenarios.items():
        assert settings["kind"] in KINDS, name
        assert settings["question"].endswith((".", "?")), name
        assert settings["runs"] >= 1, name
