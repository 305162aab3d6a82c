"""What a version's own measurement says about its maps of evidence."""

from __future__ import annotations

from typing import Final

from neurogate.v1 import manifest_pb2

LIMITS: Final = (
    "The map points, it does not outline; in part it shows what is conspicuous, whatever the class."
)


def map_caution(measured: manifest_pb2.Localisation) -> str:
    """Why the maps of a version are not to be relied on; empty where nothing that was measured says so."""
    if not (measured.HasField("pointing") and measured.HasField("brightest_spot")):
        return ""
    found, beaten_by = measured.pointing.value, measured.brightest_spot.value
    # Written so that NaN is no recommendation.
    if found >= beaten_by:
        return ""
    return (
        "the maps of this version are not to be relied on: they point at the lesion in "
        f"{found:.1%} of its right answers to test images, the brightest spot of the image in {beaten_by:.1%}"
    )
