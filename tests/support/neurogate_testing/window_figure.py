"""Draws docs/images/transform-window.png: `python tests/support/neurogate_testing/window_figure.py FILE`."""

from __future__ import annotations

import io
import sys

import numpy as np
from neurogate_core.preprocessing.transform import default_spec, transform
from PIL import Image, ImageDraw

from neurogate_testing.images import brain_slice, encode

MAXIMA = (300, 4095, 16_383, 65_535)
SIDE, LEFT, TOP, GAP = 192, 78, 22, 6


def draw() -> Image.Image:
    """One slice as raw values of four ranges, by the rule of either revision."""
    levels = np.asarray(Image.open(io.BytesIO(brain_slice(3, container="PNG")))).astype(float)
    size = (LEFT + len(MAXIMA) * (SIDE + GAP), TOP + 2 * (SIDE + GAP))
    figure = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(figure)
    for column, largest in enumerate(MAXIMA):
        left = LEFT + column * (SIDE + GAP)
        pen.text((left + SIDE // 2, TOP // 2), f"raw 0 to {largest}", "black", anchor="mm")
        raw = encode(Image.fromarray(np.rint(levels / levels.max() * largest).astype(np.uint16)), "PNG")
        for row, revision in enumerate((1, 2)):
            spec = default_spec(SIDE, SIDE)
            spec.revision = revision
            figure.paste(Image.fromarray(transform(raw, spec)), (left, TOP + row * (SIDE + GAP)))
    for row, name in enumerate(("revision 1", "revision 2")):
        pen.text((LEFT // 2, TOP + row * (SIDE + GAP) + SIDE // 2), name, "black", anchor="mm")
    return figure


if __name__ == "__main__":
    draw().save(sys.argv[1], optimize=True)
