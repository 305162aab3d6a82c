"""The report's sections on how good a model is; `SECTIONS` lists all, those without material are left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from neurogate_core.evaluation import SCORES

from neurogate_trainer.evaluation.metrics import Json

from ._figures import all_shown, shown
from .html import Child, Html, join, table, tag
from .localisation import localisation
from .origin import data, lineage, training
from .run import Run
from .words import count, interval, percent

_SCORE_NAMES: Final = {
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "roc_auc": "ROC-AUC",
    "pr_auc": "PR-AUC",
}


def _estimate(estimate: Mapping[str, Any]) -> Child:
    value = estimate["value"]
    if value is None:
        return join("undefined", tag("small", estimate.get("note", "")))
    low, high = estimate["low"], estimate["high"]
    return join(f"{value:.3f}", tag("small", f"{low:.3f} to {high:.3f}") if low is not None else None)


def key_numbers(run: Run) -> Html | None:
    """The figures that people ask for first, as a row of cards."""
    metrics = run.record("metrics")
    if not metrics:
        return None
    abstention, ood = metrics["abstention"], metrics.get("ood") or {}
    cells: list[tuple[str, str, str]] = [
        ("Accuracy", percent(metrics["accuracy"]["value"]), interval(metrics["accuracy"])),
        *(
            (f"Macro {_SCORE_NAMES[score]}", _short(metrics["macro"][score]), _ends(metrics["macro"][score]))
            for score in ("f1", "roc_auc")
        ),
        ("Calibration error", _short(metrics["ece"]), _ends(metrics["ece"]) or "0 is perfect"),
    ]
    if abstention and abstention["risk"]["value"] is not None:
        answered = f"with {percent(abstention['coverage']['value'])} answered"
        cells.append(("Risk", percent(abstention["risk"]["value"]), answered))
    if ood.get("auroc") is not None:
        cells.append(("Foreign pictures", f"{ood['auroc']:.3f}", "AUROC, mean over kinds"))
    return tag(
        "dl",
        [
            tag(
                "div",
                tag("dt", name),
                tag("dd", value, tag("small", note) if note else None),
                class_="number",
            )
            for name, value, note in cells
        ],
        class_="numbers-row",
    )


def _short(estimate: Mapping[str, Any]) -> str:
    return "undefined" if estimate["value"] is None else f"{estimate['value']:.3f}"


def _ends(estimate: Mapping[str, Any]) -> str:
    return "" if estimate["low"] is None else f"{estimate['low']:.3f} to {estimate['high']:.3f}"


def quality(run: Run) -> Html | None:
    """Metrics on the test split with intervals, and their figures."""
    metrics = run.record("metrics")
    if not metrics:
        return None
    means = [
        ("Macro mean", [_estimate(metrics["macro"][score]) for score in SCORES]),
        ("Weighted mean", [_estimate(metrics["weighted"][score]) for score in SCORES]),
    ]
    rows = [
        *(
            [row["class_id"], f"{row['support']:,}", *(_estimate(row[score]) for score in SCORES)]
            for row in metrics["per_class"]
        ),
        *([name, f"{metrics['support']:,}", *cells] for name, cells in means),
    ]
    bootstrap = metrics["bootstrap"]
    explanation = (
        f"Measured through the exported model on {count(metrics['support'], 'image')} that played no part "
        "in training. "
        f"Small figures are 95% intervals ({bootstrap['resamples']:,} bootstrap resamples: "
        f"{bootstrap['method']}); they "
        "treat images as independent, so with several images of one patient the uncertainty is larger."
    )
    return join(
        tag("p", explanation, class_="lead"),
        table(["Class", "Images", *_SCORE_NAMES.values()], rows),
        tag("p", "Cohen's kappa, the agreement beyond chance: ", _one_line(metrics["cohen_kappa"]), "."),
        shown(run, "confusion_matrix", "Confusion matrix in counts and rates"),
        shown(run, "per_class", "Precision, recall and F1 of each class with intervals"),
        shown(run, "roc_pr", "ROC and precision-recall curves of each class against the rest"),
    )


def _one_line(estimate: Mapping[str, Any]) -> str:
    if estimate["value"] is None:
        return f"undefined ({estimate.get('note', '')})"
    ends = _ends(estimate)
    return f"{estimate['value']:.3f} (95% interval {ends})" if ends else f"{estimate['value']:.3f}"


def trust(run: Run) -> Html | None:
    """Calibration, abstention and out-of-distribution score."""
    metrics, calibration, ood = run.record("metrics"), run.record("calibration"), run.record("ood")
    if not (metrics or calibration or ood):
        return None
    parts: list[Child] = []
    if calibration.get("temperature") is not None:
        parts += [
            tag("h3", "Calibration"),
            tag(
                "p",
                f"The logits are divided by a temperature of {calibration['temperature']:.3f}, fitted on "
                "the validation "
                "split. There it takes the expected calibration error from "
                f"{calibration['ece_before']:.3f} to "
                f"{calibration['ece_after']:.3f}.",
                f" On the test split it is {_one_line(metrics['ece'])}." if metrics.get("ece") else None,
            ),
        ]
    parts.append(shown(run, "reliability", "Reliability diagrams: accuracy against confidence"))
    if metrics.get("abstention"):
        parts += [tag("h3", "Abstention"), tag("p", _abstention(metrics["abstention"]))]
    parts.append(shown(run, "risk_coverage", "Error rate among the answered against the share answered"))
    return join(parts, _foreign(run, metrics.get("ood") or {}, ood))


def _abstention(abstention: Json) -> str:
    target = abstention["target_risk"]
    aim = (
        f" It was set on the validation split for a risk of {percent(target)}." if target is not None else ""
    )
    return (
        f"Below a confidence of {abstention['abstain_below']:.4f} the verdict is ABSTAIN.{aim} On the test "
        "split "
        f"{count(abstention['answered'], 'image')} ({percent(abstention['coverage']['value'])}) are "
        "answered; of these "
        f"{percent(abstention['risk']['value'])} are wrong "
        f"({_doubt(abstention['risk'])})."
    )


def _doubt(risk: Mapping[str, Any]) -> str:
    return str(risk.get("note") or f"95% interval {interval(risk) or 'unknown'}")


def _foreign(run: Run, measured: Json, chosen: Json) -> Html | None:
    if not (measured or chosen):
        return None
    threshold = measured.get("threshold", chosen.get("threshold"))
    method = measured.get("method") or chosen.get("method") or "unknown"
    text = f"Method: {method}."
    if threshold is not None:
        text += f" Above {threshold:.5g} the verdict is OUT_OF_DISTRIBUTION."
    if measured.get("accepted") is not None:
        text += f" {percent(measured['accepted'])} of the test images stay below."
    sources = measured.get("sources") or {}
    rows = [
        [
            str(name).replace("_", " "),
            f"{entry['support']:,}",
            _optional(entry["auroc"]),
            percent(entry["flagged"]),
        ]
        for name, entry in sorted(sources.items())
    ]
    candidates = chosen.get("candidates") or {}
    compared = [
        [name, _optional(entry.get("auroc"))] for name, entry in candidates.items() if isinstance(entry, dict)
    ]
    return join(
        tag("h3", "Pictures that are not brain MRI slices"),
        tag("p", text),
        table(
            ["Kind of picture", "Images", "AUROC against the test split", "Called out of distribution"], rows
        ),
        shown(run, "ood_scores", "Histograms of the out-of-distribution score")
        if threshold is not None
        else None,
        [tag("p", "Scores that were compared:"), table(["Score", "AUROC when chosen"], compared)]
        if compared
        else None,
    )


def _optional(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def explanation(run: Run) -> Html | None:
    """Evidence maps, how often they point at the lesion, and the most confident mistakes."""
    grids = all_shown(run, "gradcam_", "Evidence maps over images of class")
    mistakes = run.figure("confident_mistakes")
    measured = localisation(run)
    if not grids and mistakes is None and measured is None:
        return None
    text = (
        "A map shows which places of an image spoke for the answer. One that lights up the border, the skull "
        "or a corner means that the answer rests on something other than a lesion. It does not show that the "
        "model reasons as a radiologist would."
    )
    return join(
        tag("p", text, class_="lead"),
        measured,
        shown(run, "confident_mistakes", "The wrong answers with the highest probabilities")
        if mistakes
        else None,
        grids,
    )


SECTIONS: Final[tuple[tuple[str, str, Callable[[Run], Html | None]], ...]] = (
    ("quality", "Quality on the test split", quality),
    ("trust", "How far to trust an answer", trust),
    ("explanation", "What the answers rest on", explanation),
    ("data", "Data", data),
    ("training", "Training", training),
    ("lineage", "Lineage", lineage),
)
