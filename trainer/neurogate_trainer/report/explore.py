"""A first look at a data set: numbers for programs, figures for people."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from neurogate_core.files import replace_json
from neurogate_core.preprocessing.transform import default_spec, transform

from neurogate_trainer.data.audit import AuditReport
from neurogate_trainer.data.index import DatasetIndex, ImageRecord
from neurogate_trainer.progress import Reporter

from .style import ACCENT, MUTED, PALETTE, class_color, class_line, figure, file_word, plural, shorten

STATS_FILE = "dataset_stats.json"

SAMPLES = 24
"""Pictures on a page of samples."""

WORST_PAIRS = 12
"""Pairs on the page of worst pairs."""

_PAGE_DPI = 100
_SPLIT_NAMES = {"train": "given training folder", "test": "given test folder", "": "no given split"}


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
    class_distribution(index, figures / "dataset_classes.png")
    reporter.advance()
    brightness(index, figures / "dataset_brightness.png")
    reporter.advance()
    resolution(index, figures / "dataset_resolution.png")
    reporter.advance()
    worst_pairs(index, audit, figures / "duplicates.png")
    reporter.advance()
    for number, class_id in enumerate(index.classes):
        samples(index, class_id, figures / f"samples_{file_word(class_id, number)}.png")
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
        axes.set(xlabel="images", xlim=(0, left.max() * 1.45))
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
    spread = np.unique(np.linspace(0, len(records) - 1, SAMPLES).astype(int))
    tiles = [(_pixels(index.root, records[n]), shorten(Path(records[n].path).name, 26)) for n in spread]
    subtitle = f"{len(tiles)} of {plural(len(records), 'image')}, evenly spread over the file names"
    _page(path, f"Samples of {class_id}", subtitle, tiles, columns=6)


def worst_pairs(index: DatasetIndex, audit: AuditReport, path: Path) -> None:
    """Pictures of the pairs that matter most: contradicting classes, leakage, then the most similar ones."""
    counts = audit.to_json()["counts"]
    subtitle = (
        f"{_about(index)}; {plural(counts['exact_duplicate_sets'], 'set')} of exact copies, "
        f"{plural(counts['near_duplicate_pairs'], 'near-duplicate pair')}, "
        f"{plural(counts['class_conflicts'], 'class conflict')}, "
        f"{plural(counts['leaking_training_images'], 'leaking training image')}"
    )
    records = {record.path: record for record in index.records}
    gap = np.full((224, 6, 3), 255, np.uint8)
    tiles = []
    for left, right, why in choose_worst_pairs(index, audit):
        both = np.hstack([_pixels(index.root, records[left]), gap, _pixels(index.root, records[right])])
        tiles.append((both, f"{why}\n{shorten(left, 50)}\n{shorten(right, 50)}"))
    _page(path, "Copies in the data set", subtitle, tiles, columns=3)


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


def _page(
    path: Path, title: str, subtitle: str, tiles: list[tuple[npt.NDArray[np.uint8], str]], *, columns: int
) -> None:
    """Pictures of one size in rows, each with its caption above.

    One axes for all of them: laying out an axes for every picture takes seconds a page.
    """
    if not tiles:
        with figure(path, title, subtitle=subtitle, size=(9.6, 1.3), dpi=_PAGE_DPI) as canvas:
            canvas.text(0.012, 0.15, "None were found.", color=MUTED)
        return
    lines = 1 + max(caption.count("\n") for _, caption in tiles)
    tall, wide, _ = tiles[0][0].shape
    # In pixels of the pictures, of which a page is 9.6 inches wide.
    gap = 12
    width = columns * (wide + gap) - gap
    inch = width / 9.2
    caption_height = inch * (0.05 + 0.125 * lines)
    rows = -(-len(tiles) // columns)
    height = rows * (tall + caption_height + gap)
    with figure(path, title, subtitle=subtitle, size=(9.6, height / inch + 0.8), dpi=_PAGE_DPI) as canvas:
        axes = canvas.subplots()
        axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
        axes.set_axis_off()
        for number, (picture, caption) in enumerate(tiles):
            left = number % columns * (wide + gap)
            top = number // columns * (tall + caption_height + gap) + caption_height
            axes.imshow(picture, extent=(left, left + wide, top + tall, top), interpolation="antialiased")
            axes.text(left, top - inch * 0.03, caption, size=6.5, color=MUTED, va="bottom")
        axes.set(xlim=(0, width), ylim=(height, 0))


def _pixels(root: Path, record: ImageRecord) -> npt.NDArray[np.uint8]:
    return transform((root / record.path).read_bytes(), default_spec())


def _about(index: DatasetIndex) -> str:
    left_out = f", {plural(len(index.unreadable), 'unusable file')} left out" if index.unreadable else ""
    return f"{index.name}: {plural(len(index.records), 'image')} of {len(index.classes)} classes{left_out}"
