"""What has to hold within a manifest, one generator of complaints per part."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from neurogate.v1 import manifest_pb2

from neurogate_core.preprocessing.transform import check_spec

from .names import CLASS_ID_RULE, MODEL_NAME_RULE, is_class_id, is_model_name

_SHA256 = re.compile(r"[0-9a-f]{64}")
_BASE_WEIGHTS = ("file", "imagenet", "offline-imagenet", "version", "random")
_MAX_GOLDEN_BYTES = 256 * 1024
_MAX_VERSION = 2**63 - 1
MAX_GATE_POLICY = 4096
"""Characters: it comes with every event of a retraining, too."""


def complaints(manifest: manifest_pb2.ModelManifest) -> Iterator[str]:
    """What is wrong with the manifest, one sentence each naming field, value and what would be right."""
    yield from _identity(manifest)
    yield from _files(manifest)
    yield from _classes(manifest)
    try:
        check_spec(manifest.transform)
    except ValueError as error:
        yield str(error)
    yield from _calibration(manifest.calibration)
    yield from _thresholds(manifest.thresholds)
    yield from _metrics(manifest)
    yield from _localisation(manifest.localisation)
    yield from _lineage(manifest.lineage)
    yield from _goldens(manifest)


def _identity(manifest: manifest_pb2.ModelManifest) -> Iterator[str]:
    if not is_model_name(manifest.model_name):
        yield f"model_name is {manifest.model_name!r}, expected {MODEL_NAME_RULE}"
    if not 1 <= manifest.version <= _MAX_VERSION:
        yield f"version is {manifest.version}, expected at least 1"
    if not manifest.HasField("created_at") or manifest.created_at.seconds <= 0:
        yield "created_at is not set"
    elif not 0 <= manifest.created_at.nanos < 1_000_000_000:
        yield f"created_at.nanos is {manifest.created_at.nanos}, expected 0 to 999999999"


def _files(manifest: manifest_pb2.ModelManifest) -> Iterator[str]:
    paths = [file.path for file in manifest.files]
    if not paths:
        yield "files is empty, expected every file of the version"
    if paths != sorted(set(paths)):
        yield "files is not sorted by path, or names a path twice"
    for file in manifest.files:
        parts = file.path.split("/")
        if not file.path.isprintable() or any(part in {"", ".", ".."} for part in parts):
            yield f"files has path {file.path!r}, expected a relative path of plain parts"
        if file.size_bytes < 0:
            yield f"files[{file.path}].size_bytes is {file.size_bytes}, expected at least 0"
        if not _SHA256.fullmatch(file.sha256):
            yield f"files[{file.path}].sha256 is {file.sha256!r}, expected 64 lower-case hex digits"


def _classes(manifest: manifest_pb2.ModelManifest) -> Iterator[str]:
    if len(manifest.classes) < 2:
        yield f"classes has {len(manifest.classes)} entries, expected at least 2"
    indices = [entry.index for entry in manifest.classes]
    if indices != list(range(len(indices))):
        yield f"classes have indices {indices}, expected 0 to {len(indices) - 1} in order"
    seen = set()
    for entry in manifest.classes:
        if not is_class_id(entry.id):
            yield f"classes[{entry.index}].id is {entry.id!r}, expected {CLASS_ID_RULE}"
        if entry.id in seen:
            yield f"classes has id {entry.id!r} twice"
        seen.add(entry.id)
        if not entry.display_name.strip():
            yield f"classes[{entry.index}].display_name is empty"


def _within(name: str, value: float, low: float = 0.0, high: float = 1.0) -> Iterator[str]:
    if not low <= value <= high:  # also true of NaN
        yield f"{name} is {value:g}, expected {low:g} to {high:g}"


def _calibration(calibration: manifest_pb2.Calibration) -> Iterator[str]:
    if not (calibration.temperature > 0 and math.isfinite(calibration.temperature)):
        yield f"calibration.temperature is {calibration.temperature:g}, expected a finite number above 0"
    yield from _within("calibration.ece_before", calibration.ece_before)
    yield from _within("calibration.ece_after", calibration.ece_after)


def _thresholds(thresholds: manifest_pb2.DecisionThresholds) -> Iterator[str]:
    yield from _within("thresholds.abstain_below", thresholds.abstain_below)
    yield from _within("thresholds.target_risk", thresholds.target_risk)
    if thresholds.HasField("out_of_distribution_above"):
        if not math.isfinite(thresholds.out_of_distribution_above):
            yield (
                f"thresholds.out_of_distribution_above is {thresholds.out_of_distribution_above:g}, "
                "expected a finite number or none"
            )
        if not thresholds.ood_method:
            yield "thresholds.ood_method is empty, expected the name of the score that the limit is for"


def _metrics(manifest: manifest_pb2.ModelManifest) -> Iterator[str]:
    metrics = manifest.metrics
    if metrics.support < 0:
        yield f"metrics.support is {metrics.support}, expected at least 0"
    for name in (
        "accuracy",
        "macro_f1",
        "macro_roc_auc",
        "ece",
        "accuracy_ci_low",
        "accuracy_ci_high",
        "ood_auroc",
    ):
        yield from _within(f"metrics.{name}", getattr(metrics, name))
    if metrics.accuracy_ci_low > metrics.accuracy_ci_high:
        yield (
            f"metrics.accuracy_ci_low is {metrics.accuracy_ci_low:g}, "
            f"above accuracy_ci_high ({metrics.accuracy_ci_high:g})"
        )
    named = [entry.class_id for entry in metrics.per_class]
    expected = [entry.id for entry in manifest.classes]
    if named and named != expected:
        yield f"metrics.per_class is about {named}, expected {expected}"
    for entry in metrics.per_class:
        where = f"metrics.per_class[{entry.class_id}]"
        if entry.support < 0:
            yield f"{where}.support is {entry.support}, expected at least 0"
        for name in ("precision", "recall", "f1", "roc_auc"):
            yield from _within(f"{where}.{name}", getattr(entry, name))


def _localisation(localisation: manifest_pb2.Localisation) -> Iterator[str]:
    for where, entry in (
        ("localisation", localisation),
        *((f"localisation.per_class[{each.class_id}]", each) for each in localisation.per_class),
    ):
        for field, value in entry.ListFields():
            if field.message_type is manifest_pb2.Estimate.DESCRIPTOR:
                for part in ("value", "low", "high"):
                    yield from _within(f"{where}.{field.name}.{part}", getattr(value, part))
            elif field.name.endswith("support") and value < 0:
                yield f"{where}.{field.name} is {value}, expected at least 0"


def _lineage(lineage: manifest_pb2.Lineage) -> Iterator[str]:
    for name in ("dataset_digest", "base_weights_digest", "examples_digest"):
        value = getattr(lineage, name)
        if value and not _SHA256.fullmatch(value):
            yield f"lineage.{name} is {value!r}, expected 64 lower-case hex digits or nothing"
    if lineage.base_weights and lineage.base_weights not in _BASE_WEIGHTS:
        yield f"lineage.base_weights is {lineage.base_weights!r}, expected one of {', '.join(_BASE_WEIGHTS)}"
    for name in ("train", "validation", "test"):
        count = getattr(lineage.splits, name)
        if count < 0:
            yield f"lineage.splits.{name} is {count}, expected at least 0"
    if lineage.HasField("parent_version") and lineage.parent_version < 1:
        yield f"lineage.parent_version is {lineage.parent_version}, expected at least 1 or none"
    if len(lineage.gate_policy) > MAX_GATE_POLICY:
        yield (
            f"lineage.gate_policy has {len(lineage.gate_policy)} characters, "
            f"expected at most {MAX_GATE_POLICY}"
        )


def _goldens(manifest: manifest_pb2.ModelManifest) -> Iterator[str]:
    if len(manifest.goldens) < len(manifest.classes):
        yield f"goldens has {len(manifest.goldens)} entries, expected at least one per class"
    seen = set()
    for index, golden in enumerate(manifest.goldens):
        where = f"goldens[{golden.name or index}]"
        if not golden.name:
            yield f"goldens[{index}].name is empty"
        if golden.name in seen:
            yield f"goldens has name {golden.name!r} twice"
        seen.add(golden.name)
        if not 1 <= len(golden.image) <= _MAX_GOLDEN_BYTES:
            yield f"{where}.image has {len(golden.image)} bytes, expected 1 to {_MAX_GOLDEN_BYTES}"
        if not _SHA256.fullmatch(golden.pixels_sha256):
            yield f"{where}.pixels_sha256 is {golden.pixels_sha256!r}, expected 64 lower-case hex digits"
        if len(golden.probabilities) != len(manifest.classes):
            yield f"{where} has {len(golden.probabilities)} probabilities, expected {len(manifest.classes)}"
        elif not all(0.0 <= value <= 1.0 for value in golden.probabilities):
            yield f"{where} has a probability outside 0 to 1"
        elif abs(sum(golden.probabilities) - 1.0) > 0.01:
            yield f"{where} has probabilities that add up to {sum(golden.probabilities):g}, expected 1"
        if not 0.0 <= golden.tolerance < 1.0:
            yield f"{where}.tolerance is {golden.tolerance:g}, expected 0 (the default) or more, below 1"
