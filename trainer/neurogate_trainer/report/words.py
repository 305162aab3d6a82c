"""What the report says in sentences: the findings, and what a reader should not rely on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from neurogate_core.evidence import map_caution

from neurogate_trainer.evaluation.localisation_summary import localisation_message
from neurogate_trainer.evaluation.metrics import Json

from .run import Run

CLASS_IMAGES_WANTED: Final = 30
ECE_WANTED: Final = 0.05
OOD_WANTED: Final = 0.95
SURE: Final = 0.9

WEIGHTS: Final = {
    "imagenet": "ImageNet weights",
    "offline-imagenet": "ImageNet weights from an offline source",
    "file": "weights from a file",
    "version": "the weights of an earlier version",
    "random": "random weights",
}


def percent(value: float | None, digits: int = 1) -> str:
    """A rate as people read it, e.g. "91.2%"."""
    return "unknown" if value is None else f"{value:.{digits}%}"


def interval(estimate: Mapping[str, Any]) -> str:
    """The 95 % interval of an estimate of a rate, e.g. "88.4 to 93.6%"; empty if there is none."""
    low, high = estimate.get("low"), estimate.get("high")
    return "" if low is None or high is None else f"{100 * low:.1f} to {percent(high)}"


def count(number: int, noun: str) -> str:
    """A count with its noun, e.g. "1 image", "1,200 images", "3 classes"."""
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {noun}{'es' if noun.endswith(('s', 'sh', 'ch')) else 's'}"


def is_phantom(run: Run) -> bool:
    """Whether the run used the synthetic data set."""
    return "phantom" in dataset_name(run).lower()


def dataset_name(run: Run) -> str:
    """The data set's name, from the manifest, else from the settings."""
    if run.manifest is not None and run.manifest.lineage.dataset:
        return run.manifest.lineage.dataset
    stats = run.record("dataset_stats")
    return str(stats.get("name") or run.record("config").get("dataset") or "")


def findings(run: Run) -> list[str]:
    """What was trained, on what, and how good it is: paragraphs."""
    metrics = run.record("metrics")
    if not metrics:
        return [_made(run), "It was not evaluated, so nothing is known about its quality."]
    return [_made(run), " ".join(_answers(metrics)), " ".join(_doubts(metrics))]


def _answers(metrics: Json) -> list[str]:
    accuracy = metrics["accuracy"]
    within = f" (95% interval {interval(accuracy)})" if interval(accuracy) else ""
    images = count(metrics["support"], "image")
    right = f"{percent(accuracy['value'])} of its answers are right{within}"
    lines = [f"On the {images} of the sealed test split, which played no part in training, {right}."]
    found = [row for row in metrics["per_class"] if row["recall"]["value"] is not None]
    if len(found) > 1:
        best = max(found, key=lambda row: row["recall"]["value"])
        worst = min(found, key=lambda row: row["recall"]["value"])
        lines.append(
            f"It finds {percent(best['recall']['value'])} of the {best['class_id']} images, its best class, "
            f"and {percent(worst['recall']['value'])} of the {worst['class_id']} images, its weakest."
        )
    return lines


def _doubts(metrics: Json) -> list[str]:
    gap = 100 * metrics["ece"]["value"]
    lines = [f"Its stated confidence is off by {gap:.1f} percentage points on average."]
    abstention = metrics["abstention"]
    if abstention and abstention["risk"]["value"] is not None:
        risk = abstention["risk"]
        wrong = (
            f"is wrong in {percent(risk['value'])} of those" if risk["value"] else "is never wrong in those"
        )
        lines.append(
            f"When it withholds answers below a confidence of {abstention['abstain_below']:.3f}, it answers "
            f"{percent(abstention['coverage']['value'])} of the images and {wrong}."
        )
    ood = metrics.get("ood") or {}
    if ood.get("auroc") is not None:
        lines.append(
            "A picture that is no brain MRI slice scores as more foreign than a test image in "
            f"{percent(ood['auroc'])} of all pairs (AUROC, mean over the kinds of pictures)."
        )
    return lines


def _made(run: Run) -> str:
    name = dataset_name(run)
    what = "A classifier (MobileNetV2) of brain MRI slices"
    if run.manifest is not None:
        lineage = run.manifest.lineage
        classes = [entry.display_name or entry.id for entry in run.manifest.classes]
        if classes:
            what += f" into {len(classes)} classes ({', '.join(classes)})"
        start = WEIGHTS.get(lineage.base_weights, lineage.base_weights)
        what += f", started from {start}" if start else ""
        what += f" and trained on {count(lineage.splits.train, 'image')}"
    return f"{what} of the data set {name}." if name else f"{what}."


def distrust(run: Run) -> list[str]:
    """Where the model should not be trusted, as the evaluation shows it."""
    metrics = run.record("metrics")
    unseen = (
        "On images of another source, scanner, protocol or population than the test split: "
        "they were not tested."
    )
    lines = [unseen]
    if not metrics:
        return lines
    worst = _worst_confusion(metrics)
    if worst:
        lines.append(worst)
    sure = _sure_mistakes(metrics)
    if sure:
        lines.append(sure)
    for name, source in sorted(((metrics.get("ood") or {}).get("sources") or {}).items()):
        if source.get("flagged") is not None and source["flagged"] < SURE:
            lines.append(
                f"On pictures of the kind “{str(name).replace('_', ' ')}”: only "
                f"{percent(source['flagged'], 0)} of them "
                "are recognised as out of distribution; the others get an answer."
            )
    return lines


def _worst_confusion(metrics: Json) -> str:
    names, matrix = metrics["classes"], metrics["confusion"]
    rates = [
        (cell / sum(row), cell, names[truth], names[answer])
        for truth, row in enumerate(matrix)
        for answer, cell in enumerate(row)
        if truth != answer and cell
    ]
    if not rates:
        return ""
    rate, cell, truth, answer = max(rates)
    return (
        f"Between {truth} and {answer}: {count(cell, truth + ' image')}, {percent(rate)} of the class, "
        f"{'was' if cell == 1 else 'were'} taken for {answer}, its most frequent confusion."
    )


def _sure_mistakes(metrics: Json) -> str:
    top = [entry for entry in metrics["reliability"] if entry["low"] >= SURE and entry["count"]]
    images = sum(entry["count"] for entry in top)
    wrong = round(sum(entry["count"] * (1 - entry["accuracy"]) for entry in top))
    if not wrong:
        return ""
    return (
        f"Blindly when it is confident: {wrong:,} of the {count(images, 'answer')} with a confidence above "
        f"{percent(top[0]['low'], 0)} {'is' if wrong == 1 else 'are'} wrong."
    )


def warnings(run: Run) -> list[str]:
    """What a careful reader has to know about this run."""
    absent = ", ".join(run.missing_figures)
    missing = (
        [f"{count(len(run.missing_figures), 'figure')} missing from the page: {absent}."] if absent else []
    )
    return [*run.gaps, *missing, *_training_warnings(run), *_quality_warnings(run.record("metrics"))]


def map_warning(metrics: Json) -> str:
    """Why the maps are not to be relied on, as a sentence; empty where nothing that was measured says so."""
    measured = metrics.get("localisation")
    text = map_caution(localisation_message(measured)) if measured else ""
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _training_warnings(run: Run) -> list[str]:
    lines: list[str] = []
    lineage = run.manifest.lineage if run.manifest is not None else None
    if lineage is not None and lineage.base_weights == "random":
        lines.append(
            "Training started from random weights; expect far lower quality than from ImageNet weights."
        )
    if lineage is not None and lineage.source_commit.endswith("-dirty"):
        lines.append("The training code had uncommitted changes, so the commit does not fully describe it.")
    history = run.history
    scores = [entry.get("val_macro_f1") for entry in history]
    known = [score for score in scores if score is not None]
    if len(known) > 1 and scores[-1] == max(known):
        lines.append("The last epoch was the best one: longer training might have helped.")
    counts = run.record("audit").get("counts") or {}
    if counts.get("class_conflicts"):
        lines.append(
            f"{count(counts['class_conflicts'], 'picture')} lay under more than one class and took no part; "
            "other labels of this data set may be wrong too."
        )
    return lines


def _quality_warnings(metrics: Json) -> list[str]:
    if not metrics:
        return []
    lines: list[str] = []
    few = [row for row in metrics["per_class"] if row["support"] < CLASS_IMAGES_WANTED]
    if few:
        listed = ", ".join(f"{row['class_id']} ({row['support']})" for row in few)
        lines.append(f"Fewer than {CLASS_IMAGES_WANTED} test images of {listed}: these figures are rough.")
    if metrics["ece"]["value"] > ECE_WANTED:
        lines.append(
            f"The expected calibration error is {metrics['ece']['value']:.3f}, above {ECE_WANTED}: "
            "read its probabilities with care."
        )
    abstention = metrics["abstention"]
    if abstention is None:
        lines.append("No abstention threshold was set: every image gets an answer.")
    elif abstention["risk"]["value"] is None:
        lines.append("The abstention threshold is so high that no test image is answered.")
    elif abstention["target_risk"] is not None and abstention["risk"]["value"] > abstention["target_risk"]:
        risk, target = abstention["risk"], abstention["target_risk"]
        reach = "reaches" if risk["low"] is not None and risk["low"] <= target else "does not reach"
        lines.append(
            f"At the abstention threshold {percent(risk['value'])} of the answers are wrong, more than the "
            f"target of {percent(target)}; the 95% interval ({interval(risk)}) {reach} the target."
        )
    if warned := map_warning(metrics):
        lines.append(warned)
    ood = metrics.get("ood") or {}
    if ood.get("threshold") is None:
        lines.append("No out-of-distribution threshold was set: any picture gets an answer.")
    if ood.get("auroc") is not None and ood["auroc"] < OOD_WANTED:
        lines.append(
            f"Foreign pictures are recognised poorly (AUROC {ood['auroc']:.3f}, below {OOD_WANTED})."
        )
    return lines
