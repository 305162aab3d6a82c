"""Pictures of results, one style, drawn only where a picture says more than the table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from neurogate_bench.results import Result
from neurogate_bench.stats import Figure

INK, SOFT, OURS, THEIRS, WARN = "#1f2933", "#9aa5b1", "#0b7285", "#adb5bd", "#c92a2a"
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
    axes.plot(minutes, [sample["gateway_mib"] for sample in samples], color=OURS, label="gateway")
    axes.set_xlabel("minutes")
    axes.set_ylabel("resident memory, MiB")
    axes.set_ylim(bottom=0)
    axes.set_title(_title(result))


_DRAWINGS: dict[str, dict[str, Drawing]] = {
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
