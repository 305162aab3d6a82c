"""What is sent and how answers are booked: pictures, ghz payloads, tallies, the scenarios' data."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from google.protobuf.internal.decoder import _DecodeVarint
from neurogate.v1 import classification_pb2
from neurogate_bench import images, null_backend, payloads, prepare
from neurogate_bench.calls import Answer
from neurogate_bench.generator import GeneratorError, combine
from neurogate_bench.scenarios import KINDS
from neurogate_bench.session import read_scenarios
from neurogate_bench.tally import Expectation, Tally
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


def test_what_cannot_be_padded_is_refused():
    picture = images.slice_like(0)
    with pytest.raises(ValueError, match="cannot be padded"):
        images.padded_jpeg(picture, len(picture) + 3)
    with pytest.raises(ValueError, match="not a JPEG"):
        images.padded_jpeg(b"GIF89a", 100)


def test_payloads_are_length_delimited():
    messages = [classification_pb2.ClassifyRequest(image=b"x" * size) for size in (0, 1, 124, 125, 70_000)]
    data, found, position = payloads.delimited(messages), [], 0
    while position < len(data):
        length, position = _DecodeVarint(data, position)
        found.append(classification_pb2.ClassifyRequest.FromString(data[position : position + length]))
        position += length
    assert found == messages


def test_wrong_answers_are_told_apart():
    expected = Expectation.of({"expected": [[1, 0.75], [2, 0.5]], "versions": [4]})
    assert expected.problem(0, Answer(1, 0.7501, 4)) is None
    assert expected.problem(3, Answer(2, 0.5, None)) is None
    assert expected.problem(0, Answer(2, 0.75, 4)) == "class"
    assert expected.problem(0, Answer(1, 0.70, 4)) == "probability"
    assert expected.problem(0, Answer(1, 0.75, 5)) == "version"


def test_replies_of_several_processes_add_up():
    tallies = []
    for first in (0, 1):
        tally = Tally(Expectation.of({"expected": [[1, 0.5]]}))
        tally.begin()
        tally.answered(0, [Answer(1, 0.5, 7), Answer(first, 0.5, 7)], 0.010)
        tally.refused("RESOURCE_EXHAUSTED", 0.001)
        tally.end()
        tallies.append(tally.reply())
    load = combine(tallies)
    assert (load.answered, load.images, load.requests) == (2, 4, 4)
    assert load.refusals == {"RESOURCE_EXHAUSTED": 2}
    assert load.wrong == {"class": 1}
    assert load.versions == {7: 4}
    assert load.error_share == 0.5
    assert load.latency(50) == pytest.approx(10)


def test_a_generator_that_failed_is_heard():
    with pytest.raises(GeneratorError, match="no such file"):
        combine([{"failed": "no such file"}])


def test_the_null_backends_manifest_is_one_that_the_gateway_accepts():
    pictures = [images.slice_like(number) for number in range(4)]
    found = manifest.parse_manifest(null_backend.build_manifest("brain_tumor", 96, pictures))
    pixels = transform.transform(pictures[0], found.transform)
    assert transform.pixels_digest(pixels) == found.goldens[0].pixels_sha256


def test_networks_that_are_prepared_are_not_prepared_again(tmp_path):
    folder = tmp_path / prepare.fingerprint("brain_tumor", 224)
    folder.mkdir()
    names = {name: name for name in ("optimised", "plain", "keras", "onnx", "tflite")}
    description = {**names, "side": 224, "model": "brain_tumor", "plain_input": "input", "origin": "random"}
    (folder / "models.json").write_text(json.dumps(description))
    found = prepare.ensure(tmp_path, [], "brain_tumor", 224)
    assert (found.side, found.optimised) == (224, folder / "optimised")
    # Another size of input is another network.
    assert prepare.fingerprint("brain_tumor", 96) != folder.name


def test_every_scenario_names_a_kind_and_says_what_it_asks():
    _, scenarios = read_scenarios()
    for name, settings in scenarios.items():
        assert settings["kind"] in KINDS, name
        assert settings["question"].endswith((".", "?")), name
        assert settings["runs"] >= 1, name
