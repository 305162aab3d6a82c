"""Figures with pictures: the most confident mistakes, evidence maps, and where they point."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from neurogate_core.evidence import stretch
from PIL import Image

from neurogate_trainer.evaluation.pointing import peak
from neurogate_trainer.evaluation.predictions import Predictions

from .style import ACCENT, INK, MUTED, RIGHT, WRONG, figure, plural, shorten

COLUMNS: Final = 6
HEAT: Final = "inferno"
STRONGEST_ALPHA: Final = 0.75
_OUTLINE: Final = "#5fd7ff"
_ROWS_OF_HITS: Final = 2

Pixels = npt.NDArray[np.uint8]
Loader = Callable[[str], Pixels]
"""Pixels, uint8 [H, W, 3], of an image by its path in the data set: those that the model saw."""

Explainer = Callable[[Pixels], npt.NDArray[np.float32]]
"""Evidence maps, float32 [N, h, w, C], at least 0, of images uint8 [N, H, W, 3]."""


def overlay(pixels: Pixels, heat: npt.NDArray[np.float32], *, peak: float | None = None) -> Pixels:
    """An evidence map over its image; the stronger the evidence, the more colour.

    Args:
        pixels: uint8 [H, W, 3], what the network saw.
        heat: float32 [h, w], at least 0. A map of zeros leaves the image as it is.
        peak: Evidence that gets the strongest colour; None for the map's own maximum.

    Returns:
        uint8 [H, W, 3].
    """
    peak = float(heat.max(initial=0.0)) if peak is None else peak
    if not np.isfinite(peak) or peak <= 0:
        return pixels
    size = (pixels.shape[1], pixels.shape[0])
    smooth = np.clip(stretch((heat / peak).astype(np.float32), size, size), 0.0, 1.0)[..., None]
    color = mpl.colormaps[HEAT](smooth[..., 0])[..., :3] * 255.0
    alpha = STRONGEST_ALPHA * smooth
    mixed: Pixels = np.rint(pixels * (1.0 - alpha) + color * alpha).astype(np.uint8)
    return mixed


def tile(axes: Axes, pixels: Pixels, title: str, *, color: str = INK, caption: str = "") -> None:
    """A picture with its title, and small words below it."""
    axes.imshow(pixels)
    axes.set_title(title, size=8.5, weight="normal", color=color, pad=3, loc="center")
    if caption:
        axes.set_xlabel(caption, size=6.5, color=MUTED, labelpad=2)


def blank(axes: Axes) -> None:
    """Axes without anything but what is drawn into them."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)


def scale(canvas: Figure, grid: npt.NDArray[Any], label: str) -> None:
    """The colour bar of the maps below all tiles."""
    scale = ScalarMappable(mpl.colors.Normalize(0.0, 1.0), HEAT)
    bar = canvas.colorbar(scale, ax=grid, location="bottom", fraction=0.02, aspect=60, pad=0.02)
    bar.set_label(label)
    bar.outline.set_visible(False)


def confident_mistakes(predictions: Predictions, load: Loader, path: Path, *, count: int = 12) -> int:
    """The wrong answers with the highest probabilities, most confident first.

    Returns:
        How many mistakes are shown; with 0 no figure is written, since there is nothing to see.
    """
    wrong = np.flatnonzero(~predictions.correct)
    shown = wrong[np.argsort(-predictions.confidence[wrong], kind="stable")][:count].tolist()
    if not shown:
        return 0
    rows = -(-len(shown) // COLUMNS)
    subtitle = (
        f"{len(shown)} of {plural(len(wrong), 'wrong answer')} to {plural(len(predictions), 'test image')}, "
        "most confident first"
    )
    with figure(
        path, "Most confident mistakes", subtitle=subtitle, size=(9.6, 0.8 + 2.1 * rows), dpi=112
    ) as canvas:
        grid = list(canvas.subplots(rows, COLUMNS, squeeze=False).flat)
        for axes in grid:
            blank(axes)
        for axes, index in zip(grid, shown, strict=False):
            answer = predictions.classes[predictions.predicted[index]]
            truth = predictions.classes[predictions.labels[index]]
            title = f"{answer} {predictions.confidence[index]:.1%}\ntruth: {truth}"
            name = shorten(predictions.paths[index])
            tile(axes, load(predictions.paths[index]), title, color=WRONG, caption=name)
    return len(shown)


def spread(indices: npt.NDArray[np.int64], confidence: npt.NDArray[np.float32], count: int) -> list[int]:
    """Up to `count` of the images, evenly from the most to the least confident."""
    ordered = indices[np.argsort(-confidence[indices], kind="stable")]
    if len(ordered) <= count:
        return [int(index) for index in ordered]
    return [
        int(ordered[position]) for position in np.linspace(0, len(ordered) - 1, count).round().astype(int)
    ]


def gradcam_grid(
    predictions: Predictions, class_index: int, load: Loader, explain: Explainer, path: Path
) -> int:
    """Evidence over images of one class: right answers above, wrong ones below.

    Right answers are taken evenly from the most to the least confident, wrong ones most confident first. The
    map is always that of the class which the model named.

    Returns:
        How many images are shown; with 0 (no image of the class) no figure is written.
    """
    members = predictions.labels == class_index
    right = np.flatnonzero(members & predictions.correct)
    wrong = np.flatnonzero(members & ~predictions.correct)
    worst = wrong[np.argsort(-predictions.confidence[wrong], kind="stable")][:COLUMNS].tolist()
    groups = [
        ("right answers", spread(right, predictions.confidence, COLUMNS), RIGHT),
        ("wrong answers", worst, WRONG),
    ]
    groups = [group for group in groups if group[1]]
    if not groups:
        return 0
    count = plural(int(members.sum()), "test image")
    subtitle = f"{count} of the class: {len(right):,} answered right, {len(wrong):,} wrong"
    title = f"What speaks for the answer: images of class {predictions.classes[class_index]}"
    with figure(path, title, subtitle=subtitle, size=(9.6, 1.45 + 3.35 * len(groups)), dpi=112) as canvas:
        grid = canvas.subplots(2 * len(groups), COLUMNS, squeeze=False)
        for axes in grid.flat:
            blank(axes)
        for row, (kind, indices, color) in enumerate(groups):
            grid[2 * row, 0].set_ylabel(kind, color=color)
            grid[2 * row + 1, 0].set_ylabel("evidence")
            images = [load(predictions.paths[index]) for index in indices]
            maps = explain(np.stack(images))
            for column, (index, pixels) in enumerate(zip(indices, images, strict=True)):
                answer = int(predictions.predicted[index])
                heat = maps[column, :, :, answer]
                label = f"{predictions.classes[answer]} {predictions.confidence[index]:.1%}"
                tile(grid[2 * row, column], pixels, label, color=color)
                note = "" if heat.max() > 0 else "no evidence in the map"
                name = shorten(predictions.paths[index])
                tile(grid[2 * row + 1, column], overlay(pixels, heat), note, caption=name)
        scale(
            canvas,
            grid,
            "Evidence for the class that the model named, relative to the strongest place of the image",
        )
    return sum(len(indices) for _, indices, _ in groups)


def evidence_figure(
    pixels: Pixels,
    probabilities: Mapping[str, float],
    maps: npt.NDArray[np.float32],
    path: Path,
    *,
    title: str,
    subtitle: str,
) -> None:
    """One image, and beside it the evidence for every class, in one scale so that classes can be compared.

    `probabilities` are in the order of the maps, float32 [h, w, C], at least 0.
    """
    peak = float(maps.max(initial=0.0))
    answer = max(probabilities, key=lambda name: probabilities[name])
    columns = min(COLUMNS, len(probabilities) + 1)
    rows = -(-(len(probabilities) + 1) // columns)
    with figure(path, title, subtitle=subtitle, size=(9.6, 1.5 + 2.1 * rows), dpi=112) as canvas:
        grid = canvas.subplots(rows, columns, squeeze=False)
        for axes in grid.flat:
            blank(axes)
        first, *others = grid.flat
        tile(first, pixels, "the image", caption=f"{pixels.shape[1]} x {pixels.shape[0]} px")
        for index, (axes, (name, share)) in enumerate(zip(others, probabilities.items(), strict=False)):
            heat = maps[:, :, index]
            note = f"{heat.shape[1]} x {heat.shape[0]} cells" if heat.max() > 0 else "no evidence in the map"
            label = f"{name} {share:.1%}"
            shown = overlay(pixels, heat, peak=peak)
            tile(axes, shown, label, color=ACCENT if name == answer else INK, caption=note)
        scale(canvas, grid, "Evidence for each class, relative to the strongest place of any class")


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

    `pointed` tells, by place in the predictions, whether the map points at the lesion: at least one. `lesion`
    gives the mask of an image by its place, bool, of any size.

    Those that do are taken evenly from the most to the least confident, the others most confident first.
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
