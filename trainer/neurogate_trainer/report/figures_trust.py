"""Figures of how far the answers may be trusted: calibration, abstention, out-of-distribution scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from neurogate_trainer.evaluation.calibrate import risk_coverage_curve
from neurogate_trainer.evaluation.metrics import Json
from neurogate_trainer.evaluation.predictions import Predictions

from .figures_style import ACCENT, FAINT, INK, MUTED, RIGHT, WRONG, figure, plural, unit_axes


def _reliability_panel(axes: Axes, bins: Sequence[Mapping[str, Any]], title: str) -> None:
    filled = [entry for entry in bins if entry["count"]]
    total = sum(entry["count"] for entry in filled)
    width = bins[0]["high"] - bins[0]["low"]
    middle = [(entry["low"] + entry["high"]) / 2 for entry in filled]
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1.2)
    accuracy = [entry["accuracy"] for entry in filled]
    confidence = [entry["confidence"] for entry in filled]
    axes.bar(
        middle,
        [entry["count"] / total for entry in filled],
        width=width * 0.9,
        color=FAINT,
        label="share of images",
    )
    axes.vlines(
        confidence, confidence, accuracy, color=WRONG, linewidth=2.2, alpha=0.6, label="gap to perfect"
    )
    axes.scatter(
        confidence,
        accuracy,
        s=[18 + 160 * entry["count"] / total for entry in filled],
        color=ACCENT,
        zorder=3,
        # The largest dot often lies in the corner.
        clip_on=False,
        label="accuracy of a bin",
    )
    axes.set_title(title)
    unit_axes(axes, "confidence (highest probability)", "accuracy")


def reliability(panels: Sequence[tuple[str, float, Sequence[Mapping[str, Any]]]], path: Path) -> None:
    """Reliability diagrams side by side.

    Args:
        panels: (title, expected calibration error, bins as `reliability_bins` gives them) of each.
        path: Where to write.
    """
    subtitle = "on the diagonal, a confidence of 80% means 80% right answers; larger dots hold more images"
    with figure(
        path, "Reliability of the probabilities", subtitle=subtitle, size=(0.3 + 3.1 * len(panels), 4.4)
    ) as canvas:
        for axes, (title, error, bins) in zip(
            canvas.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            _reliability_panel(axes, bins, f"{title}\nECE {error:.3f}")
        canvas.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)


def risk_coverage(predictions: Predictions, metrics: Json, path: Path) -> None:
    """Error rate among the answered against the share answered, with the abstention threshold."""
    _, coverage, risk = risk_coverage_curve(predictions.probabilities, predictions.labels)
    abstention = metrics["abstention"]
    images = plural(len(predictions), "image")
    subtitle = f"{images} of the test split; the least confident answers are withheld first"
    with figure(path, "Risk and coverage", subtitle=subtitle, size=(9.6, 4.3)) as canvas:
        axes = canvas.subplots()
        axes.plot(coverage, risk, color=ACCENT, drawstyle="steps-post", label="test split")
        top = max(float(risk.max()), 0.01)
        if abstention is not None:
            if abstention["target_risk"] is not None:
                target = abstention["target_risk"]
                axes.axhline(
                    target, color=MUTED, linestyle="--", linewidth=1.2, label=f"target risk {target:.1%}"
                )
                top = max(top, target)
            if abstention["risk"]["value"] is not None:
                _mark_threshold(axes, abstention)
                top = max(top, abstention["risk"]["high"] or 0.0)
        axes.set(xlabel="coverage: share of images answered", ylabel="risk: error rate among the answered")
        axes.set_xlim(0, 1.02)
        axes.set_ylim(-0.03 * top, top * 1.12)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.legend(loc="upper left")


def _mark_threshold(axes: Axes, abstention: Mapping[str, Any]) -> None:
    coverage, risk = abstention["coverage"], abstention["risk"]
    label = (
        f"threshold {abstention['abstain_below']:.3f}: answers {coverage['value']:.1%}, "
        f"wrong in {risk['value']:.1%}"
    )
    if risk["low"] is not None and risk["low"] < risk["high"]:
        axes.vlines(coverage["value"], risk["low"], risk["high"], color=WRONG, linewidth=2.2, alpha=0.55)
        label += f" (95% interval {100 * risk['low']:.1f} to {risk['high']:.1%})"
    axes.plot(coverage["value"], risk["value"], "o", color=WRONG, markersize=8, label=label)


def ood_histogram(
    inside: npt.NDArray[Any],
    sources: Mapping[str, npt.NDArray[Any]],
    threshold: float,
    method: str,
    path: Path,
) -> None:
    """Out-of-distribution scores of the test split and of every foreign source, with the threshold.

    Args:
        inside: Scores of the test split, [N].
        sources: Scores of each source of images that are not brain MRI slices.
        threshold: Scores above it are called out of distribution.
        method: Name of the score.
        path: Where to write.
    """
    rows = [("test split", inside), *sorted(sources.items())]
    accepted = float((inside <= threshold).mean())
    images = plural(len(inside), "test image")
    subtitle = f"method {method}; {accepted:.1%} of {images} accepted at threshold {threshold:.4g}"
    # Scores of foreign images have no upper end; what decides lies around the threshold.
    low = float(min(inside.min(initial=threshold), threshold))
    span = max(threshold - low, 1e-9)
    high = max(float(np.quantile(inside, 0.995)), threshold) + 2.5 * span
    edges = np.linspace(low - 0.1 * span, high, 70)
    with figure(
        path, "Out-of-distribution score", subtitle=subtitle, size=(9.6, 1.6 + 0.62 * len(rows))
    ) as canvas:
        panels = canvas.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (name, scores) in zip(panels, rows, strict=True):
            color = RIGHT if axes is panels[0] else WRONG
            axes.hist(np.clip(scores, edges[0], edges[-1]), bins=edges, color=color, alpha=0.85)
            axes.axvline(threshold, color=INK, linewidth=1.2)
            axes.set_yticks([])
            axes.grid(visible=False)
            axes.spines["left"].set_visible(False)
            share = float((scores > threshold).mean())
            label = f"{name.replace('_', ' ')}\n{plural(len(scores), 'image')}"
            axes.text(
                -0.015, 0.5, label, transform=axes.transAxes, ha="right", va="center", size=8.5, color=INK
            )
            axes.text(
                1.015,
                0.5,
                f"{share:.0%}\nflagged",
                transform=axes.transAxes,
                va="center",
                size=8.5,
                color=color,
            )
        panels[-1].set_xlabel(
            "score; right of the line an image is called out of distribution, the last bar holds all above"
        )
