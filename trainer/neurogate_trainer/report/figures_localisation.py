"""The figure that holds explanations to the truth: where the map points, and where the lesion is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from neurogate_core.evidence import stretch
from PIL import Image

from neurogate_trainer.evaluation.pointing import peak
from neurogate_trainer.evaluation.predictions import Predictions

from .figures_evidence import COLUMNS, Explainer, Loader, blank, overlay, scale, spread, tile
from .figures_style import RIGHT, WRONG, figure, plural, shorten

_OUTLINE = "#5fd7ff"
_ROWS_OF_HITS = 2


def localisation_examples(
    predictions: Predictions,
    path: Path,
    *,
    pointed: Mapping[int, bool],
    load: Loader,
    explain: Explainer,
    lesion: Callable[[int], npt.NDArray[np.bool_]],
) -> None:
    """Right answers with the lesion outlined: maps that point at it above, maps that do not below.

    Those that do are taken evenly from the most to the least confident, the others most confident first.

    Args:
        predictions: The answers.
        path: The PNG to write.
        pointed: Whether the map points at the lesion, by place in the predictions; at least one.
        load: Gives the pixels of an image by its path.
        explain: Gives the maps of images.
        lesion: Gives the mask of an image by its place, bool, of any size.
    """
    hits = np.array([position for position, hit in pointed.items() if hit], dtype=np.int64)
    misses = np.array([position for position, hit in pointed.items() if not hit], dtype=np.int64)
    worst = misses[np.argsort(-predictions.confidence[misses], kind="stable")][:COLUMNS].tolist()
    shown = spread(hits, predictions.confidence, _ROWS_OF_HITS * COLUMNS)
    rows = [
        *(("points at it", shown[i : i + COLUMNS], RIGHT) for i in range(0, len(shown), COLUMNS)),
        *([("points elsewhere", worst, WRONG)] if worst else []),
    ]
    subtitle = (
        f"{plural(len(pointed), 'right answer')} to test images with a lesion: the map's maximum (cross) is "
        f"at the lesion (outlined) in {len(hits):,}, elsewhere in {len(misses):,}"
    )
    with figure(
        path, "Where the evidence points", subtitle=subtitle, size=(9.6, 1.35 + 1.75 * len(rows)), dpi=112
    ) as canvas:
        grid = canvas.subplots(len(rows), COLUMNS, squeeze=False)
        for axes in grid.flat:
            blank(axes)
        for row, (kind, positions, color) in enumerate(rows):
            grid[row, 0].set_ylabel(kind, color=color)
            images = [load(predictions.paths[position]) for position in positions]
            maps = explain(np.stack(images))
            for axes, position, pixels, heats in zip(grid[row], positions, images, maps, strict=False):
                answer = int(predictions.predicted[position])
                heat = np.ascontiguousarray(heats[:, :, answer])
                label = f"{predictions.classes[answer]} {predictions.confidence[position]:.1%}"
                name = shorten(predictions.paths[position])
                tile(axes, overlay(pixels, heat), label, color=color, caption=name)
                height, width = pixels.shape[:2]
                mask = Image.fromarray(lesion(position).astype(np.float32))
                share = np.asarray(mask.resize((width, height), Image.Resampling.BOX))
                half = min(0.5, float(share.max()) / 2)
                axes.contour(share, levels=[half], colors=_OUTLINE, linewidths=0.9)
                found = peak(stretch(heat, (width, height), (width, height)))
                if found is not None:
                    axes.plot(found[1], found[0], "+", color="white", markersize=7, markeredgewidth=1.4)
        scale(canvas, grid, "Evidence for the class that was named, relative to the image's strongest place")
