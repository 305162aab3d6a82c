"""`neurogate-trainer`: data sets, training runs, and what can be made again from a run folder."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shlex
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from neurogate_core.command import write_output
from neurogate_core.silence_imports import quiet_imports

from ._stopping import STOPPED_STATUS, stop_on_sigterm
from .config import PRESETS, ConfigError, TrainConfig, preset, read_config
from .errors import user_errors
from .progress import JsonLinesReporter, Reporter, TeeReporter, console_reporter

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(no_args_is_help=True, help="Fetch, make, import and look at data sets.")
app.add_typer(data_app, name="data")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"neurogate-trainer {version('neurogate')}")
        raise typer.Exit


@app.callback()
def options(
    *,
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it and exit.")
    ] = False,
) -> None:
    """Train, evaluate and publish models of brain MRI slices."""


RunDir = Annotated[
    Path, typer.Option("--run-dir", help="Folder of the run; an unfinished run goes on there.")
]


Data = Annotated[
    Path, typer.Argument(help="Folder of class folders, or of Training/ and Testing/ with them.")
]
OutDir = Annotated[
    Path | None,
    typer.Option("--out", help="Where to write; by default the folder .neurogate inside the data set."),
]


@app.command()
def train(
    data: Annotated[Path, typer.Argument(help="Folder of class folders, or of Training/ and Testing/.")],
    *,
    repository: Annotated[Path, typer.Option(help="Model repository to publish to.")],
    run_dir: RunDir,
    model: Annotated[str, typer.Option(help="Name of the model in the repository.")] = "brain_tumor",
    preset_name: Annotated[str, typer.Option("--preset", help=" or ".join(PRESETS))] = "default",
    settings: Annotated[
        Path | None,
        typer.Option(
            "--config", help="JSON file of settings over the preset's, such as a run's config.json."
        ),
    ] = None,
    keep_given_test: Annotated[
        bool, typer.Option("--keep-given-test", help="Test on the data set's own Testing/ folder.")
    ] = False,
    weights: Annotated[
        str | None, typer.Option(help="Initial weights: auto, imagenet, offline, or a .keras or .h5 file.")
    ] = None,
    allow_random_init: Annotated[
        bool, typer.Option("--allow-random-init", help="Start from random weights if there are no others.")
    ] = False,
    epochs: Annotated[int | None, typer.Option(help="Largest number of epochs of fine-tuning.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Highest learning rate of fine-tuning.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per step.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the input in pixels.")] = None,
    unfrozen_layers: Annotated[int | None, typer.Option(help="How many of the last layers to tune.")] = None,
    target_risk: Annotated[
        float | None, typer.Option(help="Error rate aimed at above the abstention threshold.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Another seed, another run.")] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="The same bytes from every run on the same CPU.")
    ] = False,
    events: Annotated[Path | None, typer.Option(help="Also write events as JSON lines to this file.")] = None,
) -> None:
    """Trains a model, evaluates it on sealed images, publishes it, and prints the new version's path."""
    given: dict[str, Any] = {
        "initial_weights": weights,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "image_size": image_size,
        "unfrozen_layers": unfrozen_layers,
        "target_risk": target_risk,
        "seed": seed,
        "keep_given_test": keep_given_test or None,
        "allow_random_init": allow_random_init or None,
        "deterministic": deterministic or None,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    with _reporting(events) as (reporter, announce):
        base = preset(preset_name)
        config: TrainConfig = dataclasses.replace(
            read_config(settings, base) if settings else base, **changes
        )
        with quiet_imports():
            from .pipeline import run_training  # noqa: PLC0415 - TensorFlow takes seconds

        published = run_training(
            data, run_dir, repository=repository, model=model, config=config, reporter=reporter
        )
        announce(published.version)
    typer.echo(published.path)


@app.command()
def retrain(
    base_run: Annotated[Path, typer.Argument(help="Run folder whose data set, splits and settings to take.")],
    *,
    examples: Annotated[Path, typer.Option(help="JSON document that lists the new examples.")],
    repository: Annotated[Path, typer.Option(help="Model repository to publish to.")],
    run_dir: RunDir,
    model: Annotated[str, typer.Option(help="Name of the model in the repository.")] = "brain_tumor",
    warm_start: Annotated[
        Path | None, typer.Option(help="Run folder of the version to start from; default: initial weights.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting that differs from the base run's: NAME=VALUE."),
    ] = None,
    gate_policy: Annotated[
        Path | None,
        typer.Option(help="TOML file with what a gateway's gate asks of this version beside its own policy."),
    ] = None,
    run_id: Annotated[str, typer.Option(help="Identifier of a new run.")] = "",
    events: Annotated[Path | None, typer.Option(help="Also write events as JSON lines to this file.")] = None,
) -> None:
    """Trains on a base run's data and new examples, tests on the same sealed images, publishes a version."""
    with _reporting(events) as (reporter, announce):
        pairs = [text.partition("=") for text in changes or []]
        if wrong := [name for name, equals, _ in pairs if not equals]:
            raise ConfigError(f"--set {wrong[0]}: expected NAME=VALUE")
        with quiet_imports():
            from .pipeline import run_retraining  # noqa: PLC0415 - TensorFlow takes seconds

        published = run_retraining(
            base_run,
            run_dir,
            examples=examples,
            warm_start=warm_start,
            changes={name: value for name, _, value in pairs},
            gate_policy=gate_policy,
            repository=repository,
            model=model,
            reporter=reporter,
            run_id=run_id,
        )
        announce(published.version)
    typer.echo(published.path)


@app.command()
def export(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a run whose training is finished.")],
    *,
    repository: Annotated[Path, typer.Option(help="Model repository to publish to.")],
    model: Annotated[str, typer.Option(help="Name of the model in the repository.")] = "brain_tumor",
) -> None:
    """Publishes a run's model to this repository too; trains only what is missing."""
    with _reporting() as (reporter, _):
        with quiet_imports():
            from neurogate_trainer.training.run_folder import read_settings  # noqa: PLC0415

            from .pipeline import run_training  # noqa: PLC0415 - TensorFlow takes seconds

        config, data, _ = read_settings(run_dir)
        published = run_training(
            data, run_dir, repository=repository, model=model, config=config, reporter=reporter
        )
    typer.echo(published.path)


@app.command()
def evaluate(run_dir: Annotated[Path, typer.Argument(help="Folder of a run that has published.")]) -> None:
    """Measures a run's published version on the sealed test split again; rewrites figures and report."""
    with _reporting() as (reporter, _):
        with quiet_imports():
            from .pipeline import evaluate_published  # noqa: PLC0415 - as above

        report_path = evaluate_published(run_dir, reporter=reporter)
    typer.echo(report_path)


@app.command()
def calibrate(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a run that has published.")],
    *,
    target_risk: Annotated[
        float | None, typer.Option(help="Error rate aimed at among the answers; default: the run's.")
    ] = None,
) -> None:
    """Fits temperature and abstention threshold to the validation split again, and prints them.

    The published version keeps its own.
    """
    with _reporting() as (reporter, _):
        with quiet_imports():
            from .pipeline import calibrate_published  # noqa: PLC0415 - as above

        found = calibrate_published(run_dir, target_risk=target_risk, reporter=reporter)
    typer.echo(
        f"temperature      {found['temperature']:.4f}, from {found['images']:,} validation images\n"
        f"calibration      expected error {found['ece_before']:.4f} before, {found['ece_after']:.4f} after\n"
        f"abstain below    {found['abstain_below']:.4f}, for a target risk of {found['target_risk']:.2%}\n"
        f"answered         {found['coverage']:.1%} of the validation images\n"
        f"risk             {found['risk']:.2%} of the answers are wrong"
    )


@app.command()
def explain(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a run that has published.")],
    image: Annotated[Path, typer.Argument(help="An image file.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="PNG to write.")] = Path("explanation.png"),
) -> None:
    """Draws which places of an image speak for each class, by the run's published version."""
    with _reporting():
        with quiet_imports():
            from neurogate_trainer.report.explain import explain_image  # noqa: PLC0415 - as above

            from .pipeline import published_version  # noqa: PLC0415

        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            drawn = Path(folder) / "explanation.png"
            explained = explain_image(published_version(run_dir), image, drawn)
            write_output(output, drawn.read_bytes())
    for class_id, share in zip(explained.classes, explained.probabilities, strict=True):
        typer.echo(f"{class_id:<16} {share:8.2%}")
    typer.echo(f"written: {output}")


@app.command()
def report(run_dir: Annotated[Path, typer.Argument(help="Folder of a run.")]) -> None:
    """Writes report.html from what lies in a run folder, and prints its path."""
    from neurogate_trainer.report.page import write_report  # noqa: PLC0415 - matplotlib takes a second

    with _reporting():
        if not (run_dir / "config.json").is_file():
            raise FileNotFoundError(
                f"{run_dir} is no run folder: it has no config.json, which every run begins with"
            )
        path = write_report(run_dir)
    typer.echo(path)


@data_app.command()
def fetch(
    link: Annotated[Path | None, typer.Argument(help="Symbolic link to make to the data set.")] = None,
    *,
    dataset_version: Annotated[
        int | None, typer.Option(help="Kaggle's version number; by default the pinned one.", min=1)
    ] = None,
) -> None:
    """Fetches the public Kaggle data set and prints where it lies; needs no account and resumes."""
    from neurogate_trainer.data.kaggle import PINNED_VERSION, fetch_kaggle  # noqa: PLC0415

    with _reporting() as (reporter, _):
        fetched = fetch_kaggle(version=dataset_version or PINNED_VERSION, link=link, reporter=reporter)
        for (split, class_id), count in fetched.counts.items():
            reporter.message(f"{split:<6} {class_id:<14} {count:>6,} files")
    typer.echo(link or fetched.path)


@data_app.command()
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

    with _reporting() as (reporter, _):
        settings = PhantomSettings(train_per_class, test_per_class, seed, difficulty, size)
        generate_phantom(out, settings, workers=workers, reporter=reporter)
        reporter.message("This is synthetic: what a model learns from it says nothing about patients.")
    typer.echo(out)


@data_app.command()
def dicom(
    image: Annotated[Path, typer.Argument(help="An image, e.g. of the phantom.")],
    out: Annotated[Path, typer.Argument(help="The DICOM file.")],
) -> None:
    """Writes an image as an MR DICOM file of nobody, to try things on."""
    from neurogate_trainer.data.layout import DatasetError  # noqa: PLC0415

    with _reporting():
        try:
            from neurogate_trainer.data.phantom.dicom import write_dicom  # noqa: PLC0415
        except ModuleNotFoundError as error:
            text = f"{error.name} is not installed: pip install 'neurogate[dicom]'"
            raise DatasetError(text) from error
        write_dicom(image, out)
    typer.echo(out)


@data_app.command(name="import")
def import_(data: Data, *, out: OutDir = None) -> None:
    """Checks any folder of class folders, says what is wrong with it, and what to do next."""
    from neurogate_trainer.data.folder import import_folder  # noqa: PLC0415

    with _reporting() as (reporter, _):
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


@data_app.command()
def index(data: Data, *, out: OutDir = None) -> None:
    """Builds the index (SQLite: digests, hashes, sizes, brightness) and prints its path."""
    from neurogate_trainer.data.index import build_index  # noqa: PLC0415

    with _reporting() as (reporter, _):
        path = _out(data, out) / "index.sqlite"
        build_index(data, reporter=reporter).save(path)
    typer.echo(path)


@data_app.command()
def audit(data: Data, *, out: OutDir = None) -> None:
    """Looks for copies, contradicting classes and leakage; writes audit.json and a page of the worst."""
    from neurogate_trainer.data.audit import audit_dataset  # noqa: PLC0415
    from neurogate_trainer.data.index import build_index  # noqa: PLC0415
    from neurogate_trainer.report.explore import worst_pairs  # noqa: PLC0415

    with _reporting() as (reporter, _):
        folder = _out(data, out)
        built = build_index(data, reporter=reporter)
        report = audit_dataset(built, reporter=reporter)
        report.save(folder / "audit.json")
        worst_pairs(built, report, folder / "audit_worst_pairs.png")
    for name, value in report.to_json()["counts"].items():
        typer.echo(f"{name.replace('_', ' '):<26} {value:>8,}")
    typer.echo(f"written: {folder / 'audit.json'}, {folder / 'audit_worst_pairs.png'}")


@data_app.command()
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

    with _reporting() as (reporter, _):
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


@data_app.command("explore")
def explore_data(data: Data, *, out: OutDir = None) -> None:
    """Writes dataset_stats.json and figures of classes, brightness, sizes, samples and copies."""
    from neurogate_trainer.data.audit import audit_dataset  # noqa: PLC0415
    from neurogate_trainer.data.index import build_index  # noqa: PLC0415
    from neurogate_trainer.report.explore import explore  # noqa: PLC0415

    with _reporting() as (reporter, _):
        folder = _out(data, out)
        built = build_index(data, reporter=reporter)
        explore(built, audit_dataset(built, reporter=reporter), folder, reporter=reporter)
    typer.echo(folder)


def _out(data: Path, out: Path | None) -> Path:
    """The folder for results; hidden ones inside a data set are no classes."""
    if out is None and data.is_dir() and not os.access(data, os.W_OK):
        raise PermissionError(f"{data} cannot be written; say with --out where the results should go")
    return out or data / ".neurogate"


@contextlib.contextmanager
def _reporting(events: Path | None = None) -> Iterator[tuple[Reporter, Callable[[int], None]]]:
    """Progress for people on standard error, for programs in a file; known failures as one line.

    Yields the reporter, and what is called with the version that was published.
    """
    with contextlib.ExitStack() as stack:
        lines: JsonLinesReporter | None = None

        def end(outcome: str, *, version: int | None = None, reason: str = "") -> None:
            # A full disk must not hide what went wrong before.
            with contextlib.suppress(OSError):
                if lines is not None:
                    lines.end(outcome, version=version, reason=reason)

        try:
            reporters: list[Reporter] = [stack.enter_context(console_reporter())]
            if events is not None:
                lines = stack.enter_context(JsonLinesReporter(events))
                reporters.append(lines)
            yield TeeReporter(*reporters), lambda version: end("published", version=version)
        except (KeyboardInterrupt, SystemExit) as stop:
            end("stopped", reason="a signal asked for it")
            typer.echo("stopped; the same command goes on from here", err=True)
            raise typer.Exit(130 if isinstance(stop, KeyboardInterrupt) else STOPPED_STATUS) from None
        except Exception as error:
            end("failed", reason=str(error) or type(error).__name__)
            # Any other is a defect, and keeps its traceback.
            if not isinstance(error, user_errors()):
                raise
            stack.close()
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from error


def main() -> None:
    """The command."""
    # TensorFlow's own log lines tell a user nothing; whoever wants them sets the variable.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    stop_on_sigterm()
    app()
