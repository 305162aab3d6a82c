"""The sections of the report, each made from a run's records; one without material is left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

from neurogate_trainer.metrics import SCORES, Json
from neurogate_trainer.report_html import Child, Html, join, picture, table, tag
from neurogate_trainer.report_run import Run
from neurogate_trainer.report_words import count, interval, percent

_SCORE_NAMES: Final = {
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "roc_auc": "ROC-AUC",
    "pr_auc": "PR-AUC",
}


def _figure(run: Run, name: str, alt: str, caption: Child = None) -> Html | None:
    path = run.figure(name)
    if path is None:
        run.missing_figures.append(f"{name}.png")
        return None
    try:
        return picture(path, alt, caption)
    except OSError as error:
        run.gaps.append(f"The figure {name}.png cannot be shown: {error}.")
        return None


def _figures(run: Run, prefix: str, alt: str) -> list[Html | None]:
    return [
        _figure(run, path.stem, f"{alt} {path.stem.removeprefix(prefix)}") for path in run.figures(prefix)
    ]


def _estimate(estimate: Mapping[str, Any]) -> Child:
    value = estimate["value"]
    if value is None:
        return join("undefined", tag("small", estimate.get("note", "")))
    low, high = estimate["low"], estimate["high"]
    return join(f"{value:.3f}", tag("small", f"{low:.3f} to {high:.3f}") if low is not None else None)


def _key_numbers(metrics: Json) -> Html:
    abstention, ood = metrics["abstention"], metrics.get("ood") or {}
    cells: list[tuple[str, str, str]] = [
        ("Accuracy", percent(metrics["accuracy"]["value"]), interval(metrics["accuracy"])),
        *(
            (f"Macro {_SCORE_NAMES[score]}", _short(metrics["macro"][score]), _ends(metrics["macro"][score]))
            for score in ("f1", "roc_auc")
        ),
        ("Calibration error", _short(metrics["ece"]), "15 bins, 0 is perfect"),
    ]
    if abstention and abstention["risk"]["value"] is not None:
        answered = f"when {percent(abstention['coverage']['value'])} are answered"
        cells.append(("Wrong when confident", percent(abstention["risk"]["value"]), answered))
    if ood.get("auroc") is not None:
        cells.append(("Foreign pictures", f"{ood['auroc']:.3f}", "AUROC of the score"))
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
        _key_numbers(metrics),
        tag("p", explanation, class_="lead"),
        table(["Class", "Images", *_SCORE_NAMES.values()], rows),
        tag("p", "Cohen's kappa, the agreement beyond chance: ", _one_line(metrics["cohen_kappa"]), "."),
        _figure(run, "confusion_matrix", "Confusion matrix in counts and rates"),
        _figure(run, "per_class", "Precision, recall and F1 of each class with intervals"),
        _figure(run, "roc_pr", "ROC and precision-recall curves of each class against the rest"),
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
            ),
        ]
    parts.append(_figure(run, "reliability", "Reliability diagrams: accuracy against confidence"))
    if metrics.get("abstention"):
        parts += [tag("h3", "Abstention"), tag("p", _abstention(metrics["abstention"]))]
    parts.append(_figure(run, "risk_coverage", "Error rate among the answered against the share answered"))
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
        f"{percent(abstention['risk']['value'])} are wrong (95% interval "
        f"{interval(abstention['risk']) or 'unknown'})."
    )


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
        _figure(run, "ood_scores", "Histograms of the out-of-distribution score")
        if threshold is not None
        else None,
        [tag("p", "Scores that were compared:"), table(["Score", "AUROC when chosen"], compared)]
        if compared
        else None,
    )


def _optional(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def explanation(run: Run) -> Html | None:
    """Grad-CAM grids and the most confident mistakes."""
    grids = _figures(run, "gradcam_", "Grad-CAM maps over images of class")
    mistakes = run.figure("confident_mistakes")
    if not grids and mistakes is None:
        return None
    text = (
        "Grad-CAM shows which places of an image spoke for the answer. A map that lights up the border, "
        "the skull or "
        "a corner means that the answer rests on something other than a lesion. It does not show that the "
        "model "
        "reasons as a radiologist would."
    )
    return join(
        tag("p", text, class_="lead"),
        _figure(run, "confident_mistakes", "The wrong answers with the highest probabilities")
        if mistakes
        else None,
        grids,
    )


def data(run: Run) -> Html | None:
    """Sizes of the splits, the audit's findings, and the figures of the exploration."""
    splits, audit = run.record("splits"), run.record("audit")
    pictures = [
        _figure(run, path.stem, path.stem.replace("_", " "))
        for prefix in ("dataset_", "duplicates", "samples_")
        for path in run.figures(prefix)
    ]
    if not (splits or audit or pictures):
        return None
    return join(_split_table(splits), _audit(audit), pictures)


def _split_table(splits: Json) -> Html | None:
    names = ("train", "validation", "test", "dropped")
    counts = {name: Counter(str(entry["class"]) for entry in splits.get(name, [])) for name in names}
    classes = sorted(set().union(*counts.values()))
    if not classes:
        return None
    rows: list[list[Child]] = [[name, *(f"{counts[split][name]:,}" for split in names)] for name in classes]
    rows.append(["All", *(f"{counts[split].total():,}" for split in names)])
    reasons = Counter(
        str(entry.get("reason", "")).split(":")[0].split(" of ")[0] for entry in splits.get("dropped", [])
    )
    why = ", ".join(f"{number:,} {reason}" for reason, number in reasons.most_common())
    return join(
        table(["Class", "Training", "Validation", "Test", "Left out"], rows),
        tag(
            "p",
            f"Seed {splits.get('seed')}. Images of one group (copies, near copies, patients) never lie in "
            "two splits.",
        ),
        tag("p", f"Left out: {why}.") if why else None,
    )


def _audit(audit: Json) -> Html | None:
    counts = audit.get("counts")
    if not counts:
        return None
    names = {
        "exact_duplicate_sets": "Contents that occur more than once",
        "exact_duplicate_files": "Files that hold them",
        "near_duplicate_pairs": "Pairs of near duplicates",
        "class_conflicts": "Pictures under more than one class",
        "leaking_training_images": "Given training images that match a given test image",
        "groups": "Groups that stay together",
        "largest_group": "Images in the largest group",
    }
    rows = [[text, f"{counts[key]:,}"] for key, text in names.items() if key in counts]
    return join(tag("h3", "Audit"), table(["Finding", "Number"], rows))


def training(run: Run) -> Html | None:
    """The history figure and the hyper-parameters."""
    settings: Mapping[str, Any] = run.record("config")
    if run.manifest is not None and run.manifest.lineage.hyperparameters:
        settings = run.manifest.lineage.hyperparameters
    if not (settings or run.history):
        return None
    rows = [[name, tag("code", str(value))] for name, value in sorted(settings.items())]
    return join(
        _figure(run, "training_history", "Loss, quality and learning rate by epoch"),
        [tag("h3", "Settings"), table(["Setting", "Value"], rows, numeric=False)] if rows else None,
    )


def lineage(run: Run) -> Html | None:
    """Where the version came from, and what is needed to repeat the run."""
    rows: list[list[Child]] = []
    manifest = run.manifest
    if manifest is not None:
        origin = manifest.lineage
        texts = {
            "Run": origin.run_id,
            "Data set": origin.dataset,
            "Digest of the data set": origin.dataset_digest,
            "Code": origin.source_commit,
            "Initial weights": origin.base_weights,
            "Digest of the initial weights": origin.base_weights_digest,
            "Parent version": str(origin.parent_version) if origin.HasField("parent_version") else "",
            "Digest of the model": manifest.model_digest,
            "Digest of the manifest": str(run.record("published").get("manifest_digest", "")),
            "Input": f"{manifest.transform.width} x {manifest.transform.height} pixels, transform revision "
            f"{manifest.transform.revision}",
        }
        rows = [[name, tag("code", text)] for name, text in texts.items() if text]
    export = [
        [name.replace("_", " "), tag("code", _plain(value))] for name, value in run.record("export").items()
    ]
    environment = [
        [name, tag("code", _plain(value))] for name, value in sorted(run.record("environment").items())
    ]
    packages = sorted(manifest.lineage.packages.items()) if manifest is not None else []
    files = (
        [[entry.path, f"{entry.size_bytes:,}", tag("code", entry.sha256)] for entry in manifest.files]
        if manifest
        else []
    )
    if not (rows or export or environment):
        return None
    return join(
        table(["", ""], rows, numeric=False),
        [tag("h3", "Exported against trained model"), table(["Check", "Value"], export, numeric=False)]
        if export
        else None,
        [tag("h3", "Environment"), table(["", ""], environment, numeric=False)] if environment else None,
        _folded(
            "Packages",
            table(["Package", "Version"], [[n, tag("code", v)] for n, v in packages], numeric=False),
        ),
        _folded("Files of the version", table(["File", "Bytes", "SHA-256"], files, numeric=False)),
    )


def _folded(title: str, content: Html) -> Html | None:
    return tag("details", tag("summary", title), content) if content else None


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_plain(entry)}" for key, entry in value.items())
    if isinstance(value, list):
        return ", ".join(_plain(entry) for entry in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


SECTIONS: Final[tuple[tuple[str, str, Callable[[Run], Html | None]], ...]] = (
    ("quality", "Quality on the test split", quality),
    ("trust", "How far to trust an answer", trust),
    ("explanation", "What the answers rest on", explanation),
    ("data", "Data", data),
    ("training", "Training", training),
    ("lineage", "Lineage", lineage),
)
