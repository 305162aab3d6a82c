"""All figures of a training run, from its predictions and from what lies in the run folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neurogate_trainer.evaluation.metrics import Json, read_record
from neurogate_trainer.evaluation.predictions import Predictions
from neurogate_trainer.progress import Reporter

from . import charts, pictures
from .pictures import Explainer, Loader
from .style import file_word


def draw_figures(
    run_dir: Path,
    predictions: Predictions,
    metrics: Json,
    *,
    foreign: Mapping[str, npt.NDArray[np.float32]],
    load: Loader,
    explain: Explainer,
    pointed: Mapping[int, bool] | None = None,
    lesion: Callable[[int], npt.NDArray[np.bool_]] | None = None,
    reporter: Reporter,
) -> None:
    """Write every figure that the run folder has the material for to its figures/.

    `foreign` is the `ood_score` of foreign images by kind. `load` gives the pixels of an image by its path in
    the data set, `explain` the maps of images. `pointed` tells, by place in the predictions, whether the map
    points at the lesion; `lesion` gives the mask of such an image.
    """
    out = run_dir / "figures"
    reporter.phase("figures", unit="figures")
    history_file = run_dir / "history.json"
    history = json.loads(history_file.read_text(encoding="utf-8")) if history_file.is_file() else []
    if history:
        charts.training_history(history, out / "training_history.png")
    else:
        reporter.message("no training history in the run folder, so no figure of it", level="warning")
    charts.confusion_matrix(metrics, out / "confusion_matrix.png")
    charts.per_class_metrics(metrics, out / "per_class.png")
    charts.roc_and_pr(predictions, metrics, out / "roc_pr.png")
    charts.reliability(_reliability_panels(metrics, run_dir), out / "reliability.png")
    charts.risk_coverage(predictions, metrics, out / "risk_coverage.png")
    ood: Mapping[str, Any] = metrics.get("ood") or {}
    if ood.get("threshold") is not None:
        charts.ood_histogram(
            predictions.ood_score, foreign, ood["threshold"], ood["method"], out / "ood_scores.png"
        )
    pictures.confident_mistakes(predictions, load, out / "confident_mistakes.png")
    for index, name in enumerate(predictions.classes):
        path = out / f"gradcam_{file_word(name, index)}.png"
        pictures.gradcam_grid(predictions, index, load, explain, path)
    if pointed and lesion is not None:
        path = out / "localisation.png"
        pictures.localisation_examples(
            predictions, path, pointed=pointed, load=load, explain=explain, lesion=lesion
        )


def _reliability_panels(metrics: Json, run_dir: Path) -> list[tuple[str, float, list[Json]]]:
    """Validation before and after scaling, where the calibration recorded it, and the test split."""
    calibration = read_record(run_dir / "calibration.json")
    panels = [
        (f"validation, {when} scaling", calibration[f"ece_{when}"], calibration[f"reliability_{when}"])
        for when in ("before", "after")
        if f"reliability_{when}" in calibration
    ]
    return [*panels, ("test split", metrics["ece"]["value"], metrics["reliability"])]
