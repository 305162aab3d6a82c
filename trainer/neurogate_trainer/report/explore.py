"""A first look at a data set: numbers for programs, figures for people."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from neurogate_core.files import replace_json

from neurogate_trainer.data.audit import AuditReport
from neurogate_trainer.data.index import DatasetIndex, ImageRecord
from neurogate_trainer.progress import Reporter

from . import figures_data

STATS_FILE = "dataset_stats.json"


def explore(index: DatasetIndex, audit: AuditReport, out_dir: Path, *, reporter: Reporter) -> dict[str, Any]:
    """Writes dataset_stats.json and figures/*.png into `out_dir`, and returns the statistics.

    The figures: dataset_classes, dataset_brightness, dataset_resolution, duplicates, and samples_<class> for
    every class.

    Raises:
        OSError: `out_dir` cannot be written, or an image has vanished since the index was built.
        TransformError: An image has changed since the index was built.
    """
    stats = dataset_stats(index, audit)
    replace_json(out_dir / STATS_FILE, stats)
    figures = out_dir / "figures"
    reporter.phase("explore", total=4 + len(index.classes), unit="figures")
    figures_data.class_distribution(index, figures / "dataset_classes.png")
    reporter.advance()
    figures_data.brightness(index, figures / "dataset_brightness.png")
    reporter.advance()
    figures_data.resolution(index, figures / "dataset_resolution.png")
    reporter.advance()
    figures_data.worst_pairs(index, audit, figures / "duplicates.png")
    reporter.advance()
    for number, class_id in enumerate(index.classes):
        figures_data.samples(index, class_id, figures / f"samples_{_file_word(class_id, number)}.png")
        reporter.advance()
    return stats


def dataset_stats(index: DatasetIndex, audit: AuditReport) -> dict[str, Any]:
    """Counts and distributions, as dataset_stats.json holds them; brightness is mean luma, 0 to 255."""
    counts = index.counts()
    sizes = Counter((record.width, record.height) for record in index.records)
    return {
        "name": index.name,
        "digest": index.digest(),
        "images": len(index.records),
        "unreadable": [{"path": u.path, "class": u.class_id, "reason": u.reason} for u in index.unreadable],
        "classes": {
            class_id: _class_stats([r for r in index.records if r.class_id == class_id])
            for class_id in counts
        },
        "imbalance": round(max(counts.values()) / min(counts.values()), 4),
        "sizes": [{"width": w, "height": h, "images": n} for (w, h), n in sizes.most_common()],
        "modes": dict(Counter(record.mode for record in index.records).most_common()),
        "with_given_group": sum(1 for record in index.records if record.group),
        "duplicates": audit.to_json()["counts"],
    }


def _class_stats(records: list[ImageRecord]) -> dict[str, Any]:
    values = np.array([record.brightness for record in records])
    low, first, median, third, high = (
        round(float(q), 2) for q in np.quantile(values, (0, 0.25, 0.5, 0.75, 1))
    )
    return {
        "images": len(records),
        "given_splits": dict(sorted(Counter(record.given_split or "none" for record in records).items())),
        "brightness": {
            "mean": round(float(values.mean()), 2),
            "std": round(float(values.std()), 2),
            "min": low,
            "quartiles": [first, median, third],
            "max": high,
        },
    }


def _file_word(class_id: str, number: int) -> str:
    """The class's name, as it is where it can be part of a file name, else made safe and unique."""
    safe = re.sub(r"[^\w.-]", "_", class_id)
    return safe if safe == class_id else f"{safe}_{number}"
