"""`report.html`: one self-contained page about a training run, to read, to print and to send to a colleague.

It is written from what lies in the run folder. Nothing on it comes from elsewhere: images are data URIs,
there is no script, and a content security policy forbids the browser to fetch anything. File names, class
names and settings come from data sets and may be hostile; the template escapes whatever is put into it.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from neurogate_core.evidence import LIMITS
from neurogate_core.files import replace_file
from PIL import Image

from neurogate_trainer.evaluation.metrics import Json

from .run import Run, read_run
from .words import (
    count,
    dataset_name,
    distrust,
    findings,
    interval,
    is_phantom,
    map_warning,
    percent,
    warnings,
)

_MAX_PIXELS: Final = 50_000_000
_AUDIT_NAMES: Final = {
    "exact_duplicate_sets": "Contents that occur more than once",
    "exact_duplicate_files": "Files that hold them",
    "near_duplicate_pairs": "Pairs of near duplicates",
    "class_conflicts": "Pictures under more than one class",
    "leaking_training_images": "Given training images that match a given test image",
    "groups": "Groups that stay together",
    "largest_group": "Images in the largest group",
}


def write_report(run_dir: Path) -> Path:
    """Writes report.html into the run folder and returns its path; an older one is replaced in one step.

    A run that lacks files or figures still gets a page, which says what is missing.

    Raises:
        FileNotFoundError: There is no such folder.
        OSError: The page cannot be written.
    """
    run = read_run(run_dir)
    page: str = _environment().get_template("report.html").render(_context(run))
    path = run_dir / "report.html"
    replace_file(path, f"{page.strip()}\n".encode())
    return path


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("neurogate_trainer.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": count,
        "digits": _digits,
        "ends": _ends,
        "interval": interval,
        "percent": percent,
        "words": lambda name: str(name).replace("_", " "),
    }
    return environment


def _context(run: Run) -> dict[str, Any]:
    """What the template shows; of records that are missing it gets empty ones."""
    names = ("metrics", "calibration", "ood", "splits", "audit", "dataset_stats")
    manifest = run.manifest
    settings: Mapping[str, Any] = run.record("config")
    if manifest is not None and manifest.lineage.hyperparameters:
        settings = manifest.lineage.hyperparameters
    splits = run.record("splits")
    reasons = Counter(
        str(entry.get("reason", "")).split(":")[0].split(" of ")[0] for entry in splits.get("dropped", [])
    )
    return {
        **{name: run.record(name) for name in names},
        "run": run,
        "title": _title(run),
        "subtitle": _subtitle(run),
        "phantom": is_phantom(run),
        "findings": findings(run),
        "distrust": distrust(run),
        "map_warning": map_warning(run.record("metrics")),
        "map_limits": LIMITS,
        "audit_names": _AUDIT_NAMES,
        "split_rows": _split_rows(splits),
        "left_out": ", ".join(f"{number:,} {reason}" for reason, number in reasons.most_common()),
        "settings": sorted((name, str(value)) for name, value in settings.items()),
        "origin": _origin(run),
        "export": [(name.replace("_", " "), _plain(value)) for name, value in run.record("export").items()],
        "environment": [(name, _plain(value)) for name, value in sorted(run.record("environment").items())],
        "packages": sorted(manifest.lineage.packages.items()) if manifest is not None else [],
        "files": manifest.files if manifest is not None else [],
        "now": f"{datetime.now(UTC):%d %B %Y at %H:%M}",
        # Called by the template: figures that cannot be shown are among the warnings that come after them.
        "figure": lambda name: _figure(run, name),
        "warnings": lambda: warnings(run),
    }


def _title(run: Run) -> str:
    published, manifest = run.record("published"), run.manifest
    name = published.get("model") or (manifest.model_name if manifest is not None else "")
    version = published.get("version") or (manifest.version if manifest is not None else 0)
    if not name:
        return f"Run {run.folder.resolve().name}"
    return f"{name}, version {version}" if version else f"{name}, not published"


def _subtitle(run: Run) -> str:
    parts = []
    if run.manifest is not None:
        if run.manifest.lineage.run_id:
            parts.append(f"run {run.manifest.lineage.run_id}")
        if run.manifest.HasField("created_at"):
            parts.append(f"published {run.manifest.created_at.ToDatetime(UTC):%d %B %Y, %H:%M} UTC")
    if dataset_name(run):
        parts.append(f"data set {dataset_name(run)}")
    return " · ".join(parts)


def _split_rows(splits: Json) -> list[tuple[str, list[str]]]:
    names = ("train", "validation", "test", "dropped")
    counts = [Counter(str(entry["class"]) for entry in splits.get(name, [])) for name in names]
    classes = sorted(set().union(*counts))
    rows = [(name, [f"{each[name]:,}" for each in counts]) for name in classes]
    return [*rows, ("All", [f"{each.total():,}" for each in counts])] if rows else []


def _origin(run: Run) -> list[tuple[str, str]]:
    """Where the version came from; what is not known is left out."""
    if (manifest := run.manifest) is None:
        return []
    origin, transform = manifest.lineage, manifest.transform
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
        "Input": f"{transform.width} x {transform.height} pixels, transform revision {transform.revision}",
    }
    return [(name, text) for name, text in texts.items() if text]


def _digits(value: float | None, undefined: str = "unknown", places: int = 3) -> str:
    return undefined if value is None else f"{value:.{places}f}"


def _ends(estimate: Mapping[str, Any]) -> str:
    return "" if estimate["low"] is None else f"{estimate['low']:.3f} to {estimate['high']:.3f}"


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_plain(entry)}" for key, entry in value.items())
    if isinstance(value, list):
        return ", ".join(_plain(entry) for entry in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, slots=True)
class Picture:
    """An image for the page: its data URI, and its size in pixels."""

    source: str
    width: int
    height: int


def _figure(run: Run, name: str) -> Picture | None:
    """A figure of the run by its name without ".png"; a missing or damaged one is noted and left out."""
    path = run.figure(name)
    if path is None:
        run.missing_figures.append(f"{name}.png")
        return None
    try:
        return read_picture(path)
    except OSError as error:
        run.gaps.append(f"The figure {name}.png cannot be shown: {error}.")
        return None


def read_picture(path: Path) -> Picture:
    """A PNG as data URI; as lossy WebP where that is smaller than the file.

    Raises:
        OSError: The file is missing or is no image.
    """
    data = path.read_bytes()
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            width, height = image.size
            if width * height > _MAX_PIXELS:
                raise OSError(f"{path.name} has {width} x {height} pixels, more than a page should hold")
            packed = io.BytesIO()
            image.convert("RGB").save(packed, "WEBP", quality=88, method=4)
    except (SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OSError(f"{path.name} is not a readable PNG: {error}") from error
    kind, data = min(("png", data), ("webp", packed.getvalue()), key=lambda choice: len(choice[1]))
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return Picture(source, width, height)
