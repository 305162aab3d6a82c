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

from neurogate_bench.results import Result, Target
from neurogate_bench.stats import Figure
from neurogate_bench.verdicts import MET, MISSED, UNDECIDED, VOID, standing

INK, SOFT, OURS, THEIRS, WARN, AMBER = "#1f2933", "#9aa5b1", "#0b7285", "#adb5bd", "#c92a2a", "#e8910c"
_STYLE = {
    "font.size": 10,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "figure.dpi": 110,
    "savefig.bbox": "tight",
}
_STANDINGS = {MET: OURS, MISSED: WARN, UNDECIDED: AMBER, VOID: SOFT}
Drawing = Callable[[Result, Axes], None]


def draw(result: Result, folder: Path) -> list[str]:
    """Draws what there is to draw and returns the names of the pictures."""
    names = []
    for suffix, drawing in _DRAWINGS.get(result["scenario"], {}).items():
        folder.mkdir(parents=True, exist_ok=True)
        name = f"perf-{result['scenario']}{suffix}.png"
        with mpl.rc_context(_STYLE):
            picture, axes = plt.subplots(figsize=(7.2, 3.4))
            drawing(result, axes)
            # Without a date in it, an unchanged result gives an unchanged file.
            picture.savefig(folder / name, metadata={"Software": None})
            plt.close(picture)
        names.append(name)
    return names


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
            colour = _STANDINGS[standing(result, entry)]
            margins = [_margin(entry, value) for value in [entry["value"], *entry["spread"]]]
            known = [margin for margin in margins if margin is not None]
            axes.plot([min(known), max(known)], [place, place], color=colour, linewidth=1.5)
            axes.plot(known[0], place, "o", color=colour)
        axes.axvline(1, color=INK, linewidth=1)
        names = [f"{result['scenario']}: {entry['name']}" for result, entry in entries]
        axes.set_yticks(range(len(entries)), names, fontsize=8)
        for word, colour in _STANDINGS.items():
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


def _title(result: Result) -> str:
    backend = "" if result["backend"] == "none" else f" ({result['backend']} backend)"
    return f"{result['title']}{backend}"


def _figures(result: Result, metric: str) -> list[Figure]:
    return [figure for figure in result["figures"] if figure["metric"] == metric]


def _bars(metric: str, label: str, *, ours: tuple[str, ...] = ("gateway", "exported")) -> Drawing:
    def drawing(result: Result, axes: Axes) -> None:
        figures = _figures(result, metric)[::-1]
        names = [figure["series"] for figure in figures]
        values = [figure["median"] for figure in figures]
        spread = [
            [figure["median"] - figure["min"] for figure in figures],
            [figure["max"] - figure["median"] for figure in figures],
        ]
        colours = [OURS if name.startswith(ours) else THEIRS for name in names]
        bars = axes.barh(names, values, color=colours, height=0.62)
        axes.errorbar(values, names, xerr=spread, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
        axes.bar_label(bars, [f"  {value:.3g}" for value in values], padding=12)
        axes.set_xlabel(label)
        axes.set_title(_title(result))
        axes.margins(x=0.14)
        picture = axes.get_figure(root=True)
        assert picture is not None
        picture.set_figheight(0.9 + 0.32 * len(names))

    return drawing


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
    axes.set_title(_title(result))
    axes.legend(frameon=False)


def _payload(result: Result, axes: Axes) -> None:
    figures = _figures(result, "gateway CPU")
    sizes = [float(figure["series"].split()[0]) / 1024 for figure in figures]
    axes.plot(sizes, [figure["median"] for figure in figures], "o-", color=OURS)
    low, high = [figure["min"] for figure in figures], [figure["max"] for figure in figures]
    axes.fill_between(sizes, low, high, color=OURS, alpha=0.18, linewidth=0)
    axes.set_xlabel("MiB per request")
    axes.set_ylabel("gateway's CPU-ms per image")
    axes.set_title(_title(result))


def _timeline(result: Result, axes: Axes) -> None:
    points = result["details"]["timeline"]
    axes.scatter(
        [point[0] for point in points], [point[1] for point in points], s=5, color=OURS, linewidths=0
    )
    for what, colour in (("promoted", WARN), ("rolled back", SOFT)):
        for number, moment in enumerate(result["details"][what]):
            axes.axvline(moment, color=colour, linewidth=1, label=what if number == 0 else None)
    axes.set_xlabel("seconds")
    axes.set_ylabel("ms per request")
    axes.set_ylim(bottom=0)
    axes.set_title(_title(result))
    axes.legend(frameon=False, loc="upper right")


def _memory(result: Result, axes: Axes) -> None:
    samples = result["details"]["samples"]
    minutes = [sample["minutes"] for sample in samples]
    axes.plot(minutes, [sample["gateway_mib"] for sample in samples], color=OURS)
    axes.set_xlabel("minutes")
    axes.set_ylabel("gateway's resident memory, MiB")
    axes.set_ylim(bottom=0)
    axes.set_title(_title(result))


_DRAWINGS: dict[str, dict[str, Drawing]] = {
    "null": {"": _bars("gateway CPU", "gateway's CPU-ms per image", ours=("unary", "stream"))},
    "offline": {"": _bars("throughput", "images per second", ours=("1", "4"))},
    "batch": {"": _bars("throughput", "images per second, one caller", ours=("batches",))},
    "network": {"": _bars("CPU", "CPU-ms per image, one thread")},
    "payload": {"": _payload},
    "single": {"": _bars("p50", "p50 in ms, one request in flight")},
    "saturation": {
        "": _bars("throughput", "images per second"),
        "-cpu": _bars("CPU", "CPU-ms per image, all servers of a contender"),
    },
    "server": {"": _rates},
    "swap": {"": _timeline},
    "soak": {"": _memory},
}
