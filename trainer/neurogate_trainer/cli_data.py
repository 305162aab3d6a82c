"""`neurogate-trainer data`: fetch, make, import and look at data sets."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from .errors import user_errors
from .progress import Reporter, console_reporter

app = typer.Typer(no_args_is_help=True, help="Fetch, make, import and look at data sets.")

Data = Annotated[
    Path, typer.Argument(help="Folder of class folders, or of Training/ and Testing/ with them.")
]
OutDir = Annotated[
    Path | None,
    typer.Option("--out", help="Where to write; by default the folder .neurogate inside the data set."),
]


@contextlib.contextmanager
def _reporting() -> Iterator[Reporter]:
    """Progress on standard error, and known failures as one line instead of a traceback."""
    try:
        with console_reporter() as reporter:
            yield reporter
    except user_errors() as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


@app.command()
def fetch(
    link: Annotated[Path | None, typer.Argument(help="Symbolic link to make to the data set.")] = None,
    *,
    dataset_version: Annotated[
        int | None, typer.Option(help="Kaggle's version number; by default the pinned one.", min=1)
    ] = None,
) -> None:
    """Fetches the public Kaggle data set and prints where it lies; needs no account and resumes."""
    from neurogate_trainer.data.kaggle import PINNED_VERSION, fetch_kaggle  # noqa: PLC0415

    with _reporting() as reporter:
        fetched = fetch_kaggle(version=dataset_version or PINNED_VERSION, link=link, reporter=reporter)
        for (split, class_id), count in fetched.counts.items():
            reporter.message(f"{split:<6} {class_id:<14} {count:>6,} files")
    typer.echo(link or fetched.path)


@app.command()
def phantom(
    out: Annotated[
        Path, typer.Argument(help="Folder to write to: new, empty, or begun with the same settings.")
    ],
    *,
    train_per_class: Annotated[
        int, typer.Option(help="Training images per class.", min=1, max=100_000)
    ] = 300,
    test_per_class: Annotated[int, typer.Option(help="Test images per class.", min=0, max=100_000)] = 100,
    seed: Annotated[int, typer.Option(help="Another seed, other images.", min=0)] = 0,
    difficulty: Annotated[
        float, typer.Option(help="0 (plain lesions) to 1 (faint ones).", min=0, max=1)
    ] = 0.3,
    size: Annotated[int, typer.Option(help="Side of the images in pixels.", min=32, max=2048)] = 512,
    workers: Annotated[int | None, typer.Option(help="Processes; all cores by default.", min=1)] = None,
) -> None:
    """Makes the synthetic data set for demos and tests: no patient data, no network but the package index."""
    from neurogate_trainer.data.phantom.generate import PhantomSettings, generate_phantom  # noqa: PLC0415

    with _reporting() as reporter:
        settings = PhantomSettings(train_per_class, test_per_class, seed, difficulty, size)
        generate_phantom(out, settings, workers=workers, reporter=reporter)
        reporter.message("This is synthetic: what a model learns from it says nothing about patients.")
    typer.echo(out)


@app.command()
def dicom(
    image: Annotated[Path, typer.Argument(help="An image, e.g. of the phantom.")],
    out: Annotated[Path, typer.Argument(help="The DICOM file.")],
) -> None:
    """Writes an image as an MR DICOM file of nobody, to try things on."""
    try:
        from neurogate_trainer.data.phantom.dicom import write_dicom  # noqa: PLC0415
    except ModuleNotFoundError as error:
        from neurogate_trainer.data.layout import DatasetError  # noqa: PLC0415

        raise DatasetError(f"{error.name} is not installed: pip install 'neurogate[dicom]'") from error
    write_dicom(image, out)
    typer.echo(out)


@app.command(name="import")
def import_(data: Data, *, out: OutDir = None) -> None:
    """Checks any folder of class folders, says what is wrong with it, and what to do next."""
    from neurogate_trainer.data.folder import import_folder  # noqa: PLC0415

    with _reporting() as reporter:
        found = import_folder(data, _out(data, out), reporter=reporter)
        for problem in found.problems:
            reporter.message(f"- {problem}", level="warning")
    counts = ", ".join(f"{class_id} {count:,}" for class_id, count in found.index.counts().items())
    typer.echo(f"{len(found.index.records):,} images: {counts}")
    typer.echo(f"index and audit: {_out(data, out)}")
    if found.refusal:
        typer.echo(f"error: training would refuse this data set: {found.refusal}", err=True)
        raise typer.Exit(1)
    quoted = shlex.quote(str(data))
    typer.echo(f"next: neurogate-trainer data explore {quoted}, then neurogate-trainer train {quoted} …")


@app.command()
def index(data: Data, *, out: OutDir = None) -> None:
    """Builds the index (SQLite: digests, hashes, sizes, brightness) and prints its path."""
    from neurogate_trainer.data.index import build_index  # noqa: PLC0415

    with _reporting() as reporter:
        path = _out(data, out) / "index.sqlite"
        build_index(data, reporter=reporter).save(path)
    typer.echo(path)


@app.command()
def audit(data: Data, *, out: OutDir = None) -> None:
    """Looks for copies, contradicting classes and leakage; writes audit.json and a page of the worst."""
    from neurogate_trainer.data.audit import audit_dataset  # noqa: PLC0415
    from neurogate_trainer.data.index import build_index  # noqa: PLC0415
    from neurogate_trainer.report.figures_data import worst_pairs  # noqa: PLC0415

    with _reporting() as reporter:
        folder = _out(data, out)
        built = build_index(data, reporter=reporter)
        report = audit_dataset(built, reporter=reporter)
        report.save(folder / "audit.json")
        worst_pairs(built, report, folder / "audit_worst_pairs.png")
    for name, value in report.to_json()["counts"].items():
        typer.echo(f"{name.replace('_', ' '):<26} {value:>8,}")
    typer.echo(f"written: {folder / 'audit.json'}, {folder / 'audit_worst_pairs.png'}")


@app.command()
def split(
    data: Data,
    *,
    out: OutDir = None,
    seed: Annotated[int, typer.Option(help="Another seed, other splits.", min=0)] = 0,
    keep_given_test: Annotated[
        bool, typer.Option("--keep-given-test", help="Test on the data set's own Testing/ folder.")
    ] = False,
) -> None:
    """Draws the splits that training with the same seed draws: prints their sizes, writes splits.json."""
    from neurogate_trainer.data.audit import audit_dataset  # noqa: PLC0415
    from neurogate_trainer.data.index import build_index  # noqa: PLC0415
    from neurogate_trainer.data.splits import assert_disjoint, split_dataset  # noqa: PLC0415

    with _reporting() as reporter:
        path = _out(data, out) / "splits.json"
        built = build_index(data, reporter=reporter)
        report = audit_dataset(built, reporter=reporter)
        splits = split_dataset(built, report, seed=seed, keep_given_test=keep_given_test)
        assert_disjoint(splits, report)
        splits.save(path)
    for name, records in splits.parts().items():
        counts = Counter(record.class_id for record in records)
        shown = ", ".join(f"{class_id} {counts[class_id]:,}" for class_id in built.classes)
        typer.echo(f"{name:<10} {len(records):>7,}: {shown}")
    # The first words of a reason say of which kind it is, the rest names the other image.
    kinds = (re.split(": | of ", reason, maxsplit=1)[0] for _, reason in splits.dropped)
    for kind, count in Counter(kinds).items():
        typer.echo(f"left out   {count:>7,}: {kind}")
    typer.echo(f"written: {path}")


@app.command()
def explore(data: Data, *, out: OutDir = None) -> None:
    """Writes dataset_stats.json and figures of classes, brightness, sizes, samples and copies."""
    from neurogate_trainer.data.audit import audit_dataset  # noqa: PLC0415
    from neurogate_trainer.data.index import build_index  # noqa: PLC0415
    from neurogate_trainer.report.explore import explore as look  # noqa: PLC0415

    with _reporting() as reporter:
        folder = _out(data, out)
        built = build_index(data, reporter=reporter)
        look(built, audit_dataset(built, reporter=reporter), folder, reporter=reporter)
    typer.echo(folder)


def _out(data: Path, out: Path | None) -> Path:
    """The folder for results; hidden ones inside a data set are no classes."""
    if out is None and data.is_dir() and not os.access(data, os.W_OK):
        raise PermissionError(f"{data} cannot be written; say with --out where the results should go")
    return out or data / ".neurogate"
