"""All figures of a training run, from its predictions and from what lies in the run folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from neurogate_core.files import replacing

from neurogate_trainer.evaluation.metrics import Json
from neurogate_trainer.evaluation.predictions import Predictions
from neurogate_trainer.progress import Reporter

from . import figures_evidence as figures_gradcam
from . import figures_quality as figures
from . import figures_trust
from .figures_evidence import Explainer, Loader
from .figures_localisation import localisation_examples
from .figures_style import file_word

Scores = npt.NDArray[np.float32]


def read_record(path: Path) -> Json:
    """The JSON object in a run folder's file; empty when the file does not exist yet.

    Raises:
        ValueError: The file holds something else.
    """
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(content, dict):
        return content
    raise ValueError(f"{path} holds a JSON {type(content).__name__}, expected an object")


def save_ood_scores(run_dir: Path, sources: Mapping[str, Scores]) -> None:
    """Write ood_scores.npz: the scores of all foreign images, [M], and beside each the name of its source."""
    names = np.repeat(np.array(list(sources), dtype=np.str_), [len(scores) for scores in sources.values()])
    scores = np.concatenate([np.empty(0, dtype=np.float32), *sources.values()])
    with replacing(run_dir / "ood_scores.npz") as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, source=names, score=scores)


def load_ood_scores(run_dir: Path) -> dict[str, Scores]:
    """What `save_ood_scores` wrote; empty when the run has no such file."""
    path = run_dir / "ood_scores.npz"
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as stored:
        names, scores = stored["source"], stored["score"].astype(np.float32)
    return {str(name): scores[names == name] for name in np.unique(names)}


def draw_figures(
    run_dir: Path,
    predictions: Predictions,
    metrics: Json,
    *,
    load: Loader,
    explain: Explainer,
    pointed: Mapping[int, bool] | None = None,
    lesion: Callable[[int], npt.NDArray[np.bool_]] | None = None,
    reporter: Reporter,
) -> None:
    """Write every figure that the run folder has the material for to its figures/.

    Args:
        run_dir: The run folder; uses its history.json, calibration.json, ood.json and ood_scores.npz.
        predictions: Answers on the test split.
        metrics: The content of metrics.json.
        load: Gives the pixels of an image by its path in the data set.
        explain: Gives the evidence maps of the images that are drawn.
        pointed: Whether the map points at the lesion, by place in the predictions, where that was measured.
        lesion: Gives the mask of such an image by its place; needed where there is any.
        reporter: Hears of the phase "figures", and of what had to be left out.
    """
    out = run_dir / "figures"
    reporter.phase("figures", unit="figures")
    history_file = run_dir / "history.json"
    history = json.loads(history_file.read_text(encoding="utf-8")) if history_file.is_file() else []
    if history:
        figures.training_history(history, out / "training_history.png")
    else:
        reporter.message("no training history in the run folder, so no figure of it", level="warning")
    figures.confusion_matrix(metrics, out / "confusion_matrix.png")
    figures.per_class_metrics(metrics, out / "per_class.png")
    figures.roc_and_pr(predictions, metrics, out / "roc_pr.png")
    figures_trust.reliability(_reliability_panels(metrics, run_dir), out / "reliability.png")
    figures_trust.risk_coverage(predictions, metrics, out / "risk_coverage.png")
    ood: Mapping[str, Any] = metrics.get("ood") or {}
    if ood.get("threshold") is not None:
        inside, sources = predictions.ood_score, load_ood_scores(run_dir)
        figures_trust.ood_histogram(inside, sources, ood["threshold"], ood["method"], out / "ood_scores.png")
    figures_gradcam.confident_mistakes(predictions, load, out / "confident_mistakes.png")
    for index, name in enumerate(predictions.classes):
        path = out / f"gradcam_{file_word(name, index)}.png"
        figures_gradcam.gradcam_grid(predictions, index, load, explain, path)
    if pointed and lesion is not None:
        path = out / "localisation.png"
        localisation_examples(predictions, path, pointed=pointed, load=load, explain=explain, lesion=lesion)


def _reliability_panels(metrics: Json, run_dir: Path) -> list[tuple[str, float, list[Json]]]:
    """Validation before and after scaling, where the calibration recorded it, and the test split."""
    calibration = read_record(run_dir / "calibration.json")
    panels = [
        (f"validation, {when} scaling", calibration[f"ece_{when}"], calibration[f"reliability_{when}"])
        for when in ("before", "after")
        if f"reliability_{when}" in calibration
    ]
    return [*panels, ("test split", metrics["ece"]["value"], metrics["reliability"])]
