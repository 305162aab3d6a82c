"""What can be asked again of a version that a run has published; the version itself never changes."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neurogate_core.manifest import read_manifest

from neurogate_trainer.evaluation.calibrate import calibrate
from neurogate_trainer.report.page import write_report
from neurogate_trainer.training.run_folder import RunFolder, read_settings

from .evaluate import predict_saved_model
from .phases import PipelineError, Run, audit_phase, evaluation_phase, index_phase, splits_phase
from .progress import Reporter


def published_version(run_dir: Path) -> Path:
    """Folder of the version that a run has published.

    Raises:
        RunFolderError: No run.
        PipelineError: It has published nothing, or the version is gone.
    """
    config, data = read_settings(run_dir)
    with RunFolder.open(run_dir, config, data) as folder:
        return _version_of(folder)


def evaluate_published(run_dir: Path, *, reporter: Reporter) -> Path:
    """Measures the version that a run has published on its test split again, and rewrites the report.

    Returns:
        The path of report.html.

    Raises:
        RunFolderError: No run, or one that another process works on.
        PipelineError: The run has published nothing, or the version is gone.
    """
    with _opened(run_dir, reporter) as (run, version):
        index = index_phase(run)
        evaluation_phase(run, version, splits_phase(run, index, audit_phase(run, index)), index)
        return write_report(run.folder.path)


def calibrate_published(
    run_dir: Path, *, target_risk: float | None = None, reporter: Reporter
) -> dict[str, Any]:
    """Fits temperature and abstention threshold to the answers of a run's published version once more.

    The answers are the exported graph's, on the validation split. Nothing is written: a published version
    keeps its own temperature and threshold.

    Args:
        run_dir: The run folder.
        target_risk: Error rate aimed at, 0 to 1; None for the run's own.
        reporter: Hears of the phase "evaluate" in images.

    Returns:
        As `calibrate.calibrate`.

    Raises:
        ConfigError: `target_risk` is out of its range.
        Exception: As `evaluate_published`.
    """
    config, _ = read_settings(run_dir)
    wanted = config if target_risk is None else dataclasses.replace(config, target_risk=target_risk)
    with _opened(run_dir, reporter) as (run, version):
        index = index_phase(run)
        splits = splits_phase(run, index, audit_phase(run, index))
        answers = predict_saved_model(
            version, splits.validation, index.root, run.spec, classes=index.classes, reporter=run.reporter
        )
    return calibrate(answers.logits, answers.labels, target_risk=wanted.target_risk)


@contextlib.contextmanager
def _opened(run_dir: Path, reporter: Reporter) -> Iterator[tuple[Run, Path]]:
    config, data = read_settings(run_dir)
    with RunFolder.open(run_dir, config, data) as folder, folder.reporting(reporter) as told:
        version = _version_of(folder)
        yield Run(folder, config, data, read_manifest(version).transform, told), version


def _version_of(folder: RunFolder) -> Path:
    if not (folder.path / "published.json").is_file():
        raise PipelineError(f"the run in {folder.path} has published nothing yet")
    version = Path(folder.read("published.json")["path"])
    if not version.is_dir():
        raise PipelineError(f"{version} is gone; `neurogate-trainer export` publishes the model again")
    if (found := read_manifest(version).lineage.run_id) != folder.run_id:
        raise PipelineError(
            f"{version} is of run {found} and not of {folder.run_id}, which {folder.path} holds"
        )
    return version
