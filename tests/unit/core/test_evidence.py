"""When a version's maps are not to be relied on."""

from __future__ import annotations

import pytest
from neurogate.v1 import manifest_pb2
from neurogate_core.evidence import map_caution


def measured(pointing: float | None, brightest: float | None) -> manifest_pb2.Localisation:
    message = manifest_pb2.Localisation()
    if pointing is not None:
        message.pointing.value = pointing
    if brightest is not None:
        message.brightest_spot.value = brightest
    return message


@pytest.mark.parametrize("shares", [(None, None), (0.1, None), (None, 0.9), (0.9, 0.6), (0.6, 0.6)])
def test_nothing_speaks_against_maps_that_were_not_measured_or_point_well(
    shares: tuple[float | None, float | None],
) -> None:
    assert map_caution(measured(*shares)) == ""


@pytest.mark.parametrize("pointing", [0.0, 0.254, float("nan")])
def test_maps_that_point_worse_than_the_brightest_spot_are_not_to_be_relied_on(pointing: float) -> None:
    text = map_caution(measured(pointing, 0.606))
    assert "not to be relied on" in text
    assert "60.6%" in text
