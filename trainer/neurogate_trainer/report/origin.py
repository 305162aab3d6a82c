"""The report's sections on where a model came from: data, training, lineage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from neurogate_trainer.evaluation.metrics import Json

from ._figures import shown
from .html import Child, Html, join, table, tag
from .run import Run


def data(run: Run) -> Html | None:
    """Sizes of the splits, the audit's findings, and the figures of the exploration."""
    splits, audit = run.record("splits"), run.record("audit")
    pictures = [
        shown(run, path.stem, path.stem.replace("_", " "))
        for prefix in ("dataset_", "duplicates", "samples_")
        for path in run.figures(prefix)
    ]
    if not (splits or audit or pictures):
        return None
    unreadable = run.record("dataset_stats").get("unreadable") or []
    return join(_split_table(splits), _audit(audit), _unreadable(unreadable), pictures)


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
    rule = audit.get("near_duplicate_rule") or {}
    stated = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in rule.items())
    return join(
        tag("h3", "Audit"),
        table(["Finding", "Number"], rows),
        tag("p", f"Near duplicates: {stated}.", class_="lead") if stated else None,
    )


def _unreadable(files: list[Json]) -> Html | None:
    rows = [[str(entry.get("path", "")), str(entry.get("reason", ""))] for entry in files]
    if not rows:
        return None
    return join(tag("h3", "Files that could not be used"), table(["File", "Reason"], rows, numeric=False))


def training(run: Run) -> Html | None:
    """The history figure and the hyper-parameters."""
    settings: Mapping[str, Any] = run.record("config")
    if run.manifest is not None and run.manifest.lineage.hyperparameters:
        settings = run.manifest.lineage.hyperparameters
    if not (settings or run.history):
        return None
    rows = [[name, tag("code", str(value))] for name, value in sorted(settings.items())]
    return join(
        shown(run, "training_history", "Loss, quality and learning rate by epoch"),
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
            "Examples": origin.examples_digest,
            "Own gate policy": origin.gate_policy,
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
