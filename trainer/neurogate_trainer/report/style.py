"""The house style of all figures: colours, sizes and the few helpers that every figure uses.

Figures are made with Matplotlib's object interface on the Agg canvas, so drawing needs no display, keeps no
global state and may run in any thread.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from neurogate_core.files import replacing

INK: Final = "#16222e"
MUTED: Final = "#5d6b78"
FAINT: Final = "#c9d1d9"
ACCENT: Final = "#0b6fa4"
WRONG: Final = "#c4500c"
RIGHT: Final = "#00795a"

# Okabe and Ito 2008, ordered so that neighbours differ in lightness; without yellow, which drowns on white.
PALETTE: Final = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#5d6b78")
LINES: Final = ("-", "--", "-.", ":")

STYLE: Final[dict[str, Any]] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.titlepad": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e8ecf0",
    "grid.linewidth": 0.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    # A name of a class or a file is text, never TeX: "$" and "_" mean themselves.
    "text.parse_math": False,
    "svg.hashsalt": "neurogate",
}

DPI: Final = 144


@contextmanager
def figure(
    path: Path, title: str, *, size: tuple[float, float], subtitle: str = "", dpi: int = DPI
) -> Iterator[Figure]:
    """A titled figure that is written to `path` (PNG, in one step) when the block ends well.

    `size` is width and height in inches, title included; the subtitle is a muted line for counts and
    settings.
    """
    with mpl.rc_context(STYLE):
        canvas = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(canvas)
        height = size[1]
        top = (0.70 if subtitle else 0.44) / height
        engine: Any = canvas.get_layout_engine()
        engine.set(rect=(0.0, 0.0, 1.0, 1.0 - top), w_pad=0.09, h_pad=0.07, wspace=0.04, hspace=0.05)
        left = 0.12 / size[0]
        canvas.text(left, 1 - 0.14 / height, title, size=13, weight="bold", va="top")
        if subtitle:
            canvas.text(left, 1 - 0.40 / height, subtitle, size=9.5, color=MUTED, va="top")
        yield canvas
        with replacing(path) as temporary:
            # Without the creation software in it, the same data give the same bytes on any release.
            canvas.savefig(temporary, format="png", dpi=dpi, metadata={"Software": None})


def unit_axes(axes: Axes, x_label: str, y_label: str) -> None:
    """Square axes from 0 to 1 with a little room, for rates against rates."""
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_aspect("equal", adjustable="box")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)


def class_color(index: int) -> str:
    """Colour of a class in every figure."""
    return PALETTE[index % len(PALETTE)]


def class_line(index: int) -> str:
    """Line style of a class: lines stay distinguishable without colour."""
    return LINES[index % len(LINES)]


def plural(count: int, noun: str) -> str:
    """A count with its noun, e.g. "1 image" or "1,200 images"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def file_word(name: str, number: int) -> str:
    """A class's name as a part of a file name; where it cannot be that as it is, made safe and unique."""
    safe = re.sub(r"[^\w.-]", "_", name)[:80]
    return name if safe == name else f"{safe}_{number}"


def shorten(name: str, length: int = 28) -> str:
    """The end of a long name, which in file names is the part that tells them apart."""
    return name if len(name) <= length else "…" + name[1 - length :]
