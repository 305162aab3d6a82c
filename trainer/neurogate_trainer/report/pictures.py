"""Figures with pictures: the most confident mistakes, evidence maps, and where they point."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
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

    `heat` is float32 [h, w], at least 0; a map of zeros leaves the image as it is. Evidence of `peak` gets
    the strongest colour; None stands for the map's own maximum.
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


def _tile(axes: Axes, pixels: Pixels, title: str, *, color: str = INK, caption: str = "") -> None:
    """A picture with its title, and small words below it."""
    axes.imshow(pixels)
    axes.set_title(title, size=8.5, weight="normal", color=color, pad=3, loc="center")
    if caption:
        axes.set_xlabel(caption, size=6.5, color=MUTED, labelpad=2)


@contextmanager
def _tiles(
    path: Path,
    title: str,
    subtitle: str,
    rows: int,
    height: float,
    *,
    columns: int = COLUMNS,
    scale: str = "",
) -> Iterator[npt.NDArray[Any]]:
    """A figure of blank axes [rows, columns], `height` inches high; `scale` labels a colour bar below."""
    with figure(path, title, subtitle=subtitle, size=(9.6, height), dpi=112) as canvas:
        grid = canvas.subplots(rows, columns, squeeze=False)
        for axes in grid.flat:
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            axes.grid(visible=False)
        yield grid
        if scale:
            values = ScalarMappable(mpl.colors.Normalize(0.0, 1.0), HEAT)
            bar = canvas.colorbar(values, ax=grid, location="bottom", fraction=0.02, aspect=60, pad=0.02)
            bar.set_label(scale)
            bar.outline.set_visible(False)


def _most_confident(predictions: Predictions, indices: npt.NDArray[np.int64]) -> list[int]:
    order = np.argsort(-predictions.confidence[indices], kind="stable")
    found: list[int] = indices[order].tolist()
    return found


def _spread(ordered: list[int], count: int) -> list[int]:
    """Up to `count` of the images, evenly from the first to the last."""
    if len(ordered) <= count:
        return ordered
    return [ordered[position] for position in np.linspace(0, len(ordered) - 1, count).round().astype(int)]


def _explained(
    predictions: Predictions, indices: Sequence[int], load: Loader, explain: Explainer
) -> Iterator[tuple[int, Pixels, npt.NDArray[np.float32], str]]:
    """Of each image its index, its pixels, the map of the class that was named, and that class in words."""
    images = [load(predictions.paths[index]) for index in indices]
    for index, pixels, maps in zip(indices, images, explain(np.stack(images)), strict=True):
        answer = int(predictions.predicted[index])
        label = f"{predictions.classes[answer]} {predictions.confidence[index]:.1%}"
        yield index, pixels, np.ascontiguousarray(maps[:, :, answer]), label


def confident_mistakes(predictions: Predictions, load: Loader, path: Path, *, count: int = 12) -> int:
    """The wrong answers with the highest probabilities, most confident first.

    Returns:
        How many mistakes are shown; with 0 no figure is written, since there is nothing to see.
    """
    wrong = _most_confident(predictions, np.flatnonzero(~predictions.correct))
    if not (shown := wrong[:count]):
        return 0
    rows = -(-len(shown) // COLUMNS)
    subtitle = (
        f"{len(shown)} of {plural(len(wrong), 'wrong answer')} to {plural(len(predictions), 'test image')}, "
        "most confident first"
    )
    with _tiles(path, "Most confident mistakes", subtitle, rows, 0.8 + 2.1 * rows) as grid:
        for axes, index in zip(grid.flat, shown, strict=False):
            answer = predictions.classes[predictions.predicted[index]]
            truth = predictions.classes[predictions.labels[index]]
            title = f"{answer} {predictions.confidence[index]:.1%}\ntruth: {truth}"
            name = predictions.paths[index]
            _tile(axes, load(name), title, color=WRONG, caption=shorten(name))
    return len(shown)


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
    right = _most_confident(predictions, np.flatnonzero(members & predictions.correct))
    wrong = _most_confident(predictions, np.flatnonzero(members & ~predictions.correct))
    groups = [("right answers", _spread(right, COLUMNS), RIGHT), ("wrong answers", wrong[:COLUMNS], WRONG)]
    groups = [group for group in groups if group[1]]
    if not groups:
        return 0
    count = plural(int(members.sum()), "test image")
    subtitle = f"{count} of the class: {len(right):,} answered right, {len(wrong):,} wrong"
    title = f"What speaks for the answer: images of class {predictions.classes[class_index]}"
    scale = "Evidence for the class that the model named, relative to the strongest place of the image"
    height = 1.45 + 3.35 * len(groups)
    with _tiles(path, title, subtitle, 2 * len(groups), height, scale=scale) as grid:
        for row, (kind, indices, color) in enumerate(groups):
            grid[2 * row, 0].set_ylabel(kind, color=color)
            grid[2 * row + 1, 0].set_ylabel("evidence")
            shown = _explained(predictions, indices, load, explain)
            for column, (index, pixels, heat, label) in enumerate(shown):
                _tile(grid[2 * row, column], pixels, label, color=color)
                note = "" if heat.max() > 0 else "no evidence in the map"
                name = shorten(predictions.paths[index])
                _tile(grid[2 * row + 1, column], overlay(pixels, heat), note, caption=name)
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
    strongest = float(maps.max(initial=0.0))
    answer = max(probabilities, key=lambda name: probabilities[name])
    columns = min(COLUMNS, len(probabilities) + 1)
    rows = -(-(len(probabilities) + 1) // columns)
    scale = "Evidence for each class, relative to the strongest place of any class"
    with _tiles(path, title, subtitle, rows, 1.5 + 2.1 * rows, columns=columns, scale=scale) as grid:
        first, *others = grid.flat
        _tile(first, pixels, "the image", caption=f"{pixels.shape[1]} x {pixels.shape[0]} px")
        for index, (axes, (name, share)) in enumerate(zip(others, probabilities.items(), strict=False)):
            heat = maps[:, :, index]
            note = f"{heat.shape[1]} x {heat.shape[0]} cells" if heat.max() > 0 else "no evidence in the map"
            color, shown = ACCENT if name == answer else INK, overlay(pixels, heat, peak=strongest)
            _tile(axes, shown, f"{name} {share:.1%}", color=color, caption=note)


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

    `pointed` says, by place in the predictions, whether the map points at the lesion: at least one. `lesion`
    gives the mask of an image by its place, bool, of any size. Those that do point at it are taken evenly
    from the most to the least confident, the others most confident first.
    """
    hits = np.array([position for position, hit in pointed.items() if hit], dtype=np.int64)
    misses = np.array([position for position, hit in pointed.items() if not hit], dtype=np.int64)
    worst = _most_confident(predictions, misses)[:COLUMNS]
    shown = _spread(_most_confident(predictions, hits), _ROWS_OF_HITS * COLUMNS)
    rows = [
        *(("points at it", shown[i : i + COLUMNS], RIGHT) for i in range(0, len(shown), COLUMNS)),
        *([("points elsewhere", worst, WRONG)] if worst else []),
    ]
    subtitle = (
        f"{plural(len(pointed), 'right answer')} to test images with a lesion: the map's maximum (cross) is "
        f"at the lesion (outlined) in {len(hits):,}, elsewhere in {len(misses):,}"
    )
    scale = "Evidence for the class that was named, relative to the image's strongest place"
    height = 1.35 + 1.75 * len(rows)
    with _tiles(path, "Where the evidence points", subtitle, len(rows), height, scale=scale) as grid:
        for row, (kind, positions, color) in enumerate(rows):
            grid[row, 0].set_ylabel(kind, color=color)
            examples = _explained(predictions, positions, load, explain)
            for axes, (position, pixels, heat, label) in zip(grid[row], examples, strict=False):
                name = shorten(predictions.paths[position])
                _tile(axes, overlay(pixels, heat), label, color=color, caption=name)
                size = (pixels.shape[1], pixels.shape[0])
                mask = Image.fromarray(lesion(position).astype(np.float32))
                share = np.asarray(mask.resize(size, Image.Resampling.BOX))
                half = min(0.5, float(share.max()) / 2)
                axes.contour(share, levels=[half], colors=_OUTLINE, linewidths=0.9)
                if (found := peak(stretch(heat, size, size))) is not None:
                    axes.plot(found[1], found[0], "+", color="white", markersize=7, markeredgewidth=1.4)
