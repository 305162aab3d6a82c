"""Figures of a data set: what it holds, how bright and how large its images are, and which are copies."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
from neurogate_serving.transform import default_spec, transform

from neurogate_trainer.audit import AuditReport
from neurogate_trainer.datasets.index import DatasetIndex, ImageRecord
from neurogate_trainer.figures_style import (
    ACCENT,
    FAINT,
    MUTED,
    PALETTE,
    WRONG,
    class_color,
    class_line,
    figure,
    plural,
    shorten,
)

SAMPLES = (4, 6)
"""Rows and columns of a page of samples."""

WORST_PAIRS = 12
"""Pairs on the page of worst pairs."""

_SPLIT_NAMES = {"train": "given training folder", "test": "given test folder", "": "no given split"}


def class_distribution(index: DatasetIndex, path: Path) -> None:
    """Images per class, by given split."""
    splits = [split for split in _SPLIT_NAMES if any(record.given_split == split for record in index.records)]
    counts = Counter((record.class_id, record.given_split) for record in index.records)
    height = 1.5 + 0.42 * len(index.classes)
    with figure(path, "Images per class", subtitle=_about(index), size=(7.2, height)) as canvas:
        axes = canvas.subplots()
        left = np.zeros(len(index.classes))
        for position, split in enumerate(splits):
            widths = np.array([counts[class_id, split] for class_id in index.classes])
            color = ACCENT if position == 0 else PALETTE[4]
            axes.barh(index.classes, widths, left=left, height=0.62, color=color, label=_SPLIT_NAMES[split])
            left += widths
        for row, (total, class_id) in enumerate(zip(left, index.classes, strict=True)):
            share = total / len(index.records)
            parts = " + ".join(f"{counts[class_id, split]:,}" for split in splits)
            detail = f"{parts} = {total:,.0f}" if len(splits) > 1 else f"{total:,.0f}"
            axes.text(total, row, f"  {detail}  ({share:.1%})", va="center", color=MUTED)
        axes.set(xlabel="images", xlim=(0, left.max() * 1.32))
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        if len(splits) > 1:
            canvas.legend(loc="outside lower center", ncols=len(splits))


def brightness(index: DatasetIndex, path: Path) -> None:
    """The distribution of mean brightness in every class."""
    with figure(path, "Brightness of the images", subtitle=_about(index), size=(7.2, 3.6)) as canvas:
        axes = canvas.subplots()
        values = {
            c: np.array([r.brightness for r in index.records if r.class_id == c]) for c in index.classes
        }
        top = max(float(v.max()) for v in values.values() if len(v))
        bins = np.linspace(0, min(255.0, top * 1.05 + 1), 41)
        for number, (class_id, found) in enumerate(values.items()):
            density, _ = np.histogram(found, bins)
            label = f"{class_id}: median {np.median(found):.0f}, {plural(len(found), 'image')}"
            axes.stairs(
                density / max(1, len(found)), bins, color=class_color(number), linestyle=class_line(number),
                linewidth=1.8, label=label,
            )  # fmt: skip
        axes.set(
            xlabel="mean brightness of an image (0 black, 255 white)", ylabel="share of the class per bin",
            xlim=(0, bins[-1]), ylim=(0, None),
        )  # fmt: skip
        axes.legend()


def resolution(index: DatasetIndex, path: Path) -> None:
    """Width and height of the stored images, and their pixel formats."""
    sizes = Counter((record.width, record.height) for record in index.records)
    modes = Counter(record.mode for record in index.records)
    subtitle = f"{_about(index)}, {plural(len(sizes), 'size')}"
    with figure(path, "Size and pixel format of the files", subtitle=subtitle, size=(8.6, 3.8)) as canvas:
        points, bars = canvas.subplots(1, 2, width_ratios=[1.5, 1])
        count = np.array(list(sizes.values()))
        points.scatter(
            [w for w, _ in sizes],
            [h for _, h in sizes],
            s=12 + 260 * count / count.max(),
            color=ACCENT,
            alpha=0.45,
        )
        for (width, height), number in sizes.most_common(3):
            text = f"  {width} x {height}: {number:,}"
            points.annotate(
                text, (width, height), xytext=(6, 6), textcoords="offset points", color=MUTED, size=9
            )
        points.set(title="Size", xlabel="width, pixels", ylabel="height, pixels")
        points.margins(0.25)
        names = [mode for mode, _ in modes.most_common()]
        bars.bar(names, [modes[mode] for mode in names], width=0.6, color=ACCENT)
        for position, mode in enumerate(names):
            bars.text(position, modes[mode], f"{modes[mode]:,}", ha="center", va="bottom", color=MUTED)
        bars.set(
            title="Pixel format (L: gray, RGB: colour)",
            ylabel="images",
            xlim=(-0.7, max(1, len(names)) - 0.3),
        )
        bars.grid(visible=False, axis="x")


def samples(index: DatasetIndex, class_id: str, path: Path) -> None:
    """A page of images of one class, evenly spread over it."""
    records = [record for record in index.records if record.class_id == class_id]
    rows, columns = SAMPLES
    chosen = [records[n] for n in np.unique(np.linspace(0, len(records) - 1, rows * columns).astype(int))]
    rows = -(-len(chosen) // columns)
    subtitle = f"{len(chosen)} of {plural(len(records), 'image')}, evenly spread over the file names"
    with figure(
        path, f"Samples of {class_id}", subtitle=subtitle, size=(9.0, 1.65 * rows + 0.8), dpi=100
    ) as canvas:
        grid = canvas.subplots(rows, columns, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for axes, record in zip(grid.flat, chosen, strict=False):
            axes.imshow(_pixels(index.root, record))
            axes.set_title(shorten(Path(record.path).name, 24), size=7, weight="normal", color=MUTED, pad=2)


def worst_pairs(index: DatasetIndex, audit: AuditReport, path: Path) -> None:
    """Pictures of the pairs that matter most: contradicting classes, leakage, then the most similar ones."""
    counts = audit.to_json()["counts"]
    subtitle = (
        f"{_about(index)}; {plural(counts['exact_duplicate_sets'], 'set')} of exact copies, "
        f"{plural(counts['near_duplicate_pairs'], 'near-duplicate pair')}, "
        f"{plural(counts['class_conflicts'], 'class conflict')}, "
        f"{plural(counts['leaking_training_images'], 'leaking training image')}"
    )
    pairs = choose_worst_pairs(index, audit)
    records = {record.path: record for record in index.records}
    columns = min(3, max(1, len(pairs)))
    rows = max(1, -(-len(pairs) // columns))
    size = (9.9, 2.2 * rows + 0.8) if pairs else (9.9, 1.5)
    with figure(path, "Copies in the data set", subtitle=subtitle, size=size, dpi=100) as canvas:
        grid = canvas.subplots(rows, columns, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        if not pairs:
            grid[0, 0].text(0.5, 0.5, "No copies were found.", ha="center", va="center", color=MUTED)
        gap = np.full((224, 8, 3), 255, np.uint8)
        for axes, (left, right, why) in zip(grid.flat, pairs, strict=False):
            axes.imshow(
                np.hstack([_pixels(index.root, records[left]), gap, _pixels(index.root, records[right])])
            )
            axes.set_title(why, size=8.5, color=FAINT if why == "exact copy" else WRONG, pad=3)
            axes.text(
                0.5, -0.04, f"{shorten(left, 44)}\n{shorten(right, 44)}", transform=axes.transAxes, ha="center",
                va="top", size=6.5, color=MUTED,
            )  # fmt: skip


def choose_worst_pairs(index: DatasetIndex, audit: AuditReport) -> list[tuple[str, str, str]]:
    """Up to WORST_PAIRS pairs of paths with what is wrong with them, most serious first, none twice."""
    class_of = {record.path: record.class_id for record in index.records}
    chosen: dict[tuple[str, str], str] = {}
    for conflict in audit.class_conflicts:
        first = conflict.paths[0]
        pair = (first, next(path for path in conflict.paths if class_of[path] != class_of[first]))
        chosen.setdefault(pair, f"{conflict.kind} copy, two classes")
    for leak in audit.leakage:
        pair = (min(leak.train, leak.test), max(leak.train, leak.test))
        words = "same group" if leak.kind == "group" else f"{leak.kind} copy"
        chosen.setdefault(pair, f"{words}, training and test")
    for near in audit.near_duplicates:
        mirrored = ", mirrored" if near.mirrored else ""
        chosen.setdefault((near.left, near.right), f"near copy{mirrored}, correlation {near.correlation:.4f}")
    for paths in audit.exact_duplicates:
        chosen.setdefault((paths[0], paths[1]), "exact copy")
    return [(left, right, why) for (left, right), why in list(chosen.items())[:WORST_PAIRS]]


def _pixels(root: Path, record: ImageRecord) -> npt.NDArray[np.uint8]:
    return transform((root / record.path).read_bytes(), default_spec())


def _about(index: DatasetIndex) -> str:
    left_out = f", {plural(len(index.unreadable), 'unusable file')} left out" if index.unreadable else ""
    return f"{index.name}: {plural(len(index.records), 'image')} of {len(index.classes)} classes{left_out}"
