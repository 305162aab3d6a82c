"""Pictures of results, one style, drawn only where a picture says more than the table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from neurogate_bench.results import MET, MISSED, UNDECIDED, VOID, Result, Target, outcome
from neurogate_bench.stats import Figure

INK, SOFT, OURS, THEIRS, WARN, AMBER = "#1f2933", "#9aa5b1", "#0b7285", "#adb5bd", "#c92a2a", "#e8910c"
_STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "figure.dpi": 110,
    "savefig.bbox": "tight",
}
_COLOURS = {MET: OURS, MISSED: WARN, UNDECIDED: AMBER, VOID: SOFT}
Drawing = Callable[[Result, Axes], None]


def draw(result: Result, folder: Path) -> str | None:
    """Draws a scenario's picture, if it has one, and returns its name."""
    if result["scenario"] not in _DRAWINGS:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    name = f"perf-{result['scenario']}.png"
    with mpl.rc_context(_STYLE):
        picture, axes = plt.subplots(figsize=(7.2, 3.4))
        _DRAWINGS[result["scenario"]](result, axes)
        backend = "" if result["backend"] == "none" else f" ({result['backend']} backend)"
        axes.set_title(f"{result['title']}{backend}")
        # Without a date in it, an unchanged result gives an unchanged file.
        picture.savefig(folder / name, metadata={"Software": None})
        plt.close(picture)
    return name


def draw_targets(found: Mapping[str, Result], folder: Path) -> str | None:
    """All promises in one picture: how many times better or worse than promised; None without any."""
    entries = [
        (result, entry)
        for result in found.values()
        for entry in result["targets"]
        if _margin(entry, entry["value"]) is not None
    ][::-1]
    if not entries:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(_STYLE):
        picture, axes = plt.subplots(figsize=(7.2, 0.6 + 0.27 * len(entries)))
        for place, (result, entry) in enumerate(entries):
            colour = _COLOURS[outcome(result, entry)]
            margins = [_margin(entry, value) for value in [entry["value"], *entry["spread"]]]
            known = [margin for margin in margins if margin is not None]
            axes.plot([min(known), max(known)], [place, place], color=colour, linewidth=1.5)
            axes.plot(known[0], place, "o", color=colour)
        axes.axvline(1, color=INK, linewidth=1)
        names = [f"{result['scenario']}: {entry['name']}" for result, entry in entries]
        axes.set_yticks(range(len(entries)), names, fontsize=8)
        for word, colour in _COLOURS.items():
            axes.plot([], [], "o", color=colour, label=word)
        axes.legend(frameon=False, fontsize=8, ncols=4, loc="lower center", bbox_to_anchor=(0.3, 1.0))
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("times better than promised (right of 1: met)")
        picture.savefig(folder / "perf-targets.png", metadata={"Software": None})
        plt.close(picture)
    return "perf-targets.png"


def _margin(entry: Target, value: float) -> float | None:
    """How many times better than its limit a value is; None where that is no number."""
    if not entry["limit"] or not value or not math.isfinite(value) or value < 0:
        return None
    return value / entry["limit"] if entry["comparison"] == ">=" else entry["limit"] / value


def _figures(result: Result, metric: str) -> list[Figure]:
    return [figure for figure in result["figures"] if figure["metric"] == metric]


def _throughputs(result: Result, axes: Axes) -> None:
    figures = _figures(result, "throughput")[::-1]
    names, values = [figure["series"] for figure in figures], [figure["median"] for figure in figures]
    spread = [[abs(figure["median"] - figure[end]) for figure in figures] for end in ("min", "max")]
    colours = [OURS if name.startswith("gateway") else THEIRS for name in names]
    axes.barh(names, values, color=colours, height=0.62)
    axes.errorbar(values, names, xerr=spread, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
    for place, figure in enumerate(figures):
        beside = {"xytext": (6, -4), "textcoords": "offset points"}
        axes.annotate(f"{figure['median']:.3g}", (figure["max"], place), **beside)
    axes.set_xlabel("images per second")
    axes.margins(x=0.08)


def _rates(result: Result, axes: Axes) -> None:
    rates = {figure["series"]: figure["median"] for figure in _figures(result, "rate")}
    for metric, colour in (("p50", SOFT), ("p99", OURS)):
        figures = sorted(_figures(result, metric), key=lambda figure: rates[figure["series"]])
        across = [rates[figure["series"]] for figure in figures]
        axes.plot(across, [figure["median"] for figure in figures], "o-", color=colour, label=metric)
        low, high = [figure["min"] for figure in figures], [figure["max"] for figure in figures]
        axes.fill_between(across, low, high, color=colour, alpha=0.18, linewidth=0)
    limit = result["settings"]["latency_limit_ms"]
    axes.axhline(limit, color=WARN, linestyle="--", linewidth=1, label=f"limit {limit} ms")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("arrivals per second")
    axes.set_ylabel("ms")
    axes.legend(frameon=False)


_DRAWINGS: dict[str, Drawing] = {
    "saturation": _throughputs,
    "server": _rates,
}
