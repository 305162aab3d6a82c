"""Charts of a training run: training, quality on the test split, and how far the answers may be trusted.

Every function takes plain data (the structures of the run folder's JSON files, or `Predictions`) and writes
one PNG that can be read without reading code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter
from sklearn.metrics import precision_recall_curve, roc_curve

from neurogate_trainer.evaluation.calibrate import risk_coverage_curve
from neurogate_trainer.evaluation.metrics import Json
from neurogate_trainer.evaluation.predictions import Predictions

from .style import (
    ACCENT,
    FAINT,
    INK,
    MUTED,
    PALETTE,
    RIGHT,
    WRONG,
    class_color,
    class_line,
    figure,
    plural,
    unit_axes,
)


def training_history(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Loss, accuracy with macro F1, and learning rate by epoch; entries as in history.json."""
    epochs = np.arange(1, len(history) + 1)
    changes = [
        position
        for position in range(1, len(history))
        if history[position]["phase"] != history[position - 1]["phase"]
    ]

    def column(name: str) -> npt.NDArray[np.float64]:
        return np.array(
            [np.nan if entry.get(name) is None else entry[name] for entry in history], dtype=np.float64
        )

    seconds = float(np.nansum(column("seconds")))
    subtitle = (
        f"{plural(len(history), 'epoch')}, {seconds / 60:.1f} minutes; "
        "the training loss includes penalties and is that of varied images"
    )
    with figure(path, "Training history", subtitle=subtitle, size=(9.6, 3.8)) as canvas:
        loss, quality, rate = canvas.subplots(1, 3, width_ratios=[1.15, 1.15, 0.85])
        marker = {"marker": "o", "markersize": 3.5}
        loss.plot(epochs, column("loss"), color=PALETTE[0], **marker)
        loss.plot(epochs, column("val_loss"), color=WRONG, linestyle="--", **marker)
        loss.set(title="Loss", ylabel="cross-entropy", ylim=(0, None))
        quality.plot(epochs, column("accuracy"), color=PALETTE[0], label="training", **marker)
        quality.plot(
            epochs, column("val_accuracy"), color=WRONG, linestyle="--", label="validation", **marker
        )
        f1 = column("val_macro_f1")
        f1_label = "validation macro F1"
        if np.isfinite(f1).any():
            best = int(np.nanargmax(f1))
            f1_label += f", best {f1[best]:.3f} in epoch {epochs[best]}"
            quality.plot(epochs[best], f1[best], "o", markersize=11, markerfacecolor="none", color=RIGHT)
        quality.plot(epochs, f1, color=RIGHT, linestyle=":", label=f1_label, **marker)
        quality.set(title="Accuracy and macro F1", ylim=(None, 1.02))
        quality.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        rate.plot(epochs, column("learning_rate"), color=MUTED, drawstyle="steps-mid")
        rate.set(title="Learning rate", yscale="log")
        rate.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        rate.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}"))
        rate.yaxis.set_minor_formatter(NullFormatter())
        for axes in (loss, quality, rate):
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axes.margins(x=0.06)
            for change in changes:
                axes.axvline(change + 0.5, color=FAINT, linewidth=1.2)
        for change in changes:
            rate.annotate(
                f" {history[change]['phase']}",
                # At the bottom: rates begin high and fall.
                (change + 0.5, 0.02),
                xycoords=("data", "axes fraction"),
                va="bottom",
                color=MUTED,
                size=8.5,
            )
        canvas.legend(*quality.get_legend_handles_labels(), loc="outside lower center", ncols=3)


def confusion_matrix(metrics: Json, path: Path) -> None:
    """Counts, and rates within each true class, side by side; `metrics` as in metrics.json."""
    counts = np.array(metrics["confusion"], dtype=np.int64)
    names = metrics["classes"]
    totals = counts.sum(axis=1, keepdims=True)
    rates = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    images = plural(metrics["support"], "image")
    subtitle = f"{images} of the test split; rows are the truth, columns the model's answer"
    with figure(path, "Confusion matrix", subtitle=subtitle, size=(9.6, 4.9)) as canvas:
        left, right = canvas.subplots(1, 2, sharey=True)
        for axes, title in ((left, "Counts"), (right, "Rates within the true class")):
            axes.imshow(rates, cmap="Blues", vmin=0, vmax=1)
            axes.grid(visible=False)
            axes.set_title(title)
            axes.set_xlabel("model's answer")
            axes.set_xticks(
                range(len(names)),
                names,
                rotation=25 if len(names) > 3 else 0,
                ha="right" if len(names) > 3 else "center",
            )
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
        left.set_yticks(range(len(names)), names)
        left.set_ylabel("truth")
        for (row, column), rate in np.ndenumerate(rates):
            color = "white" if rate > 0.55 else INK
            text = {
                "ha": "center",
                "va": "center",
                "color": color,
                "weight": "bold" if row == column else "normal",
            }
            left.text(column, row, f"{counts[row, column]:,}", **text)
            right.text(column, row, f"{rate:.1%}" if totals[row, 0] else "none", **text)


_PER_CLASS_MARKS: Final = (
    ("precision", {"label": "Precision", "color": PALETTE[0], "marker": "o"}),
    ("recall", {"label": "Recall", "color": PALETTE[5], "marker": "s"}),
    ("f1", {"label": "F1", "color": PALETTE[2], "marker": "D"}),
)


def per_class_metrics(metrics: Json, path: Path) -> None:
    """Precision, recall and F1 of each class with their 95 % intervals."""
    rows = metrics["per_class"]
    estimates = [row[key] for row in rows for key, _ in _PER_CLASS_MARKS]
    ends = [entry[end] for entry in estimates for end in ("low", "value") if entry[end] is not None]
    lowest = min([*ends, 0.9])
    images = plural(metrics["support"], "image")
    subtitle = f"{images} of the test split; bars are {metrics['bootstrap']['level']:.0%} bootstrap intervals"
    with figure(path, "Quality by class", subtitle=subtitle, size=(9.6, 1.5 + 0.72 * len(rows))) as canvas:
        axes = canvas.subplots()
        for offset, (key, mark) in enumerate(_PER_CLASS_MARKS):
            for position, row in enumerate(rows):
                entry, height, color = row[key], position + (offset - 1) * 0.22, mark["color"]
                if entry["value"] is None:
                    axes.text(lowest, height, "undefined", va="center", color=color, size=8.5)
                    continue
                if entry["low"] is not None:
                    axes.hlines(height, entry["low"], entry["high"], color=color, linewidth=2.2, alpha=0.55)
                axes.plot(entry["value"], height, markersize=6, marker=mark["marker"], color=color)
        names = [f"{row['class_id']}\n{plural(row['support'], 'image')}" for row in rows]
        axes.set_yticks(range(len(rows)), names)
        axes.tick_params(axis="y", labelcolor=INK, length=0)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlim(max(0.0, lowest - 0.05), 1.01)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        handles = [
            Line2D([], [], linestyle="", label=mark["label"], color=mark["color"], marker=mark["marker"])
            for _, mark in _PER_CLASS_MARKS
        ]
        canvas.legend(handles=handles, loc="outside lower center", ncols=3)


def roc_and_pr(predictions: Predictions, metrics: Json, path: Path) -> None:
    """One-vs-rest ROC and precision-recall curves of every class that the test split can judge."""
    subtitle = f"{plural(len(predictions), 'image')} of the test split, each class against the rest"
    with figure(path, "ROC and precision-recall curves", subtitle=subtitle, size=(9.6, 4.9)) as canvas:
        roc, pr = canvas.subplots(1, 2)
        roc.plot([0, 1], [0, 1], color=FAINT, linewidth=1.2)
        for index, row in enumerate(metrics["per_class"]):
            positive = predictions.labels == index
            style: Json = {"color": class_color(index), "linestyle": class_line(index)}
            if row["roc_auc"]["value"] is not None:
                false_rate, true_rate, _ = roc_curve(positive, predictions.probabilities[:, index])
                roc.plot(
                    false_rate, true_rate, label=f"{row['class_id']}  {row['roc_auc']['value']:.3f}", **style
                )
            if row["pr_auc"]["value"] is not None:
                precision, recall, _ = precision_recall_curve(positive, predictions.probabilities[:, index])
                label = f"{row['class_id']}  {row['pr_auc']['value']:.3f}"
                pr.plot(recall, precision, drawstyle="steps-post", label=label, **style)
        roc.set_title("ROC (area under the curve)")
        pr.set_title("Precision and recall (average precision)")
        unit_axes(roc, "false positive rate", "true positive rate")
        unit_axes(pr, "recall", "precision")
        for axes, place in ((roc, "lower right"), (pr, "lower left")):
            if axes.get_legend_handles_labels()[0]:
                axes.legend(loc=place)


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

    A panel has a title, its expected calibration error, and bins as `reliability_bins` gives them.
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

    Scores above the threshold are called out of distribution.
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
