"""A training run from images to a published version, and what can be asked again of that version.

index, audit, split, explore, weights, inputs, warm-up, fine-tune, calibrate, ood, export, evaluate, publish,
report. Each phase leaves its result in the run folder. A run that is killed goes on with the phase it was in
(training with the epoch it was in); what is finished is read back.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import tensorflow as tf
from neurogate_core.manifest import read_manifest
from neurogate_core.preprocessing.transform import default_spec
from neurogate_core.repository import ModelRepository, PublishedVersion

from neurogate_trainer.data.splits import assert_disjoint
from neurogate_trainer.evaluation.calibrate import calibrate
from neurogate_trainer.evaluation.evaluate import predict_saved_model
from neurogate_trainer.evaluation.localisation_summary import localisation_message
from neurogate_trainer.evaluation.metrics import metrics_message
from neurogate_trainer.evaluation.saved_model import check_path
from neurogate_trainer.export.publishing import already_published, draft_manifest, record_published
from neurogate_trainer.export.version import export_version
from neurogate_trainer.report.page import write_report
from neurogate_trainer.training.retraining import (
    Retraining,
    merge_phases,
    plan_retraining,
    read_gate_policy,
    tuned,
)
from neurogate_trainer.training.run_folder import RunFolder, RunFolderError, read_settings
from neurogate_trainer.training.train import Trainer

from ._stopping import past_stopping
from .config import TrainConfig
from .phases import (
    CACHE,
    PipelineError,
    Run,
    audit_phase,
    calibration_phase,
    evaluation_phase,
    examples_phase,
    explore_phase,
    index_phase,
    network_phase,
    ood_phase,
    splits_phase,
)
from .progress import Reporter
from .training import environment

VERSION_ROOM: Final = 64 * 2**20
"""Bytes that the repository's disk has to have free before a run begins."""


def run_training(
    data: Path,
    run_dir: Path,
    *,
    repository: Path,
    model: str,
    config: TrainConfig,
    reporter: Reporter,
    run_id: str = "",
    retraining: Retraining | None = None,
) -> PublishedVersion:
    """Trains a model on a data set and publishes it as the next version.

    `run_dir` is new, or the folder of an unfinished run with the same data set and settings; an unfinished
    retraining stays one. `run_id` is made up where it is empty.

    Raises:
        PipelineError: There is no data set, or no room for a version.
        DatasetError: The data set cannot be used.
        LeakageError: The splits overlap.
        WeightsError: There are no initial weights.
        RunFolderError: The run folder is in use, or of another run.
        TrainingError: Training cannot go on.
        ExportError: The exported graph does not give the network's answers; nothing was published.
        RepositoryError: The repository or the model's name is not valid.
        EvaluationError: The repository has a path that TensorFlow cannot read.
        OSError: Something cannot be written.
    """
    versions = ModelRepository(repository)
    versions.versions(model)  # refuses a bad name before any work
    check_path(versions.root)
    if not data.is_dir():
        raise PipelineError(f"there is no folder {data}; expected a data set of class folders")
    record = retraining.to_json() if retraining is not None else None
    with (
        RunFolder.open(run_dir, config, data, run_id=run_id, retraining=record) as folder,
        folder.reporting(reporter) as everyone,
    ):
        if (done := already_published(folder.run_id, versions, model)) is not None:
            everyone.message(f"run {folder.run_id} has published version {done.version} before")
            _finish(folder, done, everyone)
            return done
        # Hours before the version: a repository that cannot be written is to be known now.
        with versions.staging(model, folder.run_id) as staged:
            if (free := shutil.disk_usage(staged).free) < VERSION_ROOM:
                raise PipelineError(
                    f"the disk of {repository} has {free / 1e6:.0f} MB left, expected at least "
                    f"{VERSION_ROOM / 1e6:.0f} MB for a version"
                )
        everyone.message(f"run {folder.run_id} in {folder.path}")
        plan = Retraining(**folder.retraining) if folder.retraining is not None else None
        spec = default_spec(config.image_size, config.image_size)
        run = Run(folder, config, data, spec, everyone, plan)
        if plan is not None:
            merge_phases(folder, config, plan, everyone)
        with _explain_full_disk():
            published = _run(run, versions, model)
        _finish(folder, published, everyone)
        return published


def run_retraining(
    base_run: Path,
    run_dir: Path,
    *,
    examples: Path,
    warm_start: Path | None,
    changes: Mapping[str, str],
    repository: Path,
    model: str,
    reporter: Reporter,
    gate_policy: Path | None = None,
    run_id: str = "",
) -> PublishedVersion:
    """Trains on a base run's data set and new examples, and publishes the next version.

    Data set, splits and settings are those of `base_run`. `warm_start` is the folder of the run that
    published the version to start from; None for initial weights. `changes` are settings as text by name; see
    `neurogate_core.hyperparameters`. `gate_policy` is a TOML file with what a gateway's gate asks of this
    version beside its own policy; it goes into the manifest, and the gateway judges what it says.

    The test split stays the base run's, so that versions can be compared; see
    `neurogate_trainer.data.merge_examples`.

    Raises:
        ExamplesError: The examples cannot be learnt from.
        ConfigError: A setting cannot be changed so, or the gate policy is not TOML or too long.
        RunFolderError: `base_run` or `warm_start` is not the folder of a finished run; or as `run_training`.
        Exception: What else `run_training` raises.
    """
    config, data, _ = read_settings(base_run)
    config = tuned(config, changes)
    parent: PublishedVersion | None = None
    if warm_start is not None:
        parent = already_published(read_settings(warm_start).run_id, ModelRepository(repository), model)
        if parent is None:
            raise RunFolderError(
                f"the run in {warm_start} has published no version of {model} to {repository}"
            )
    retraining = plan_retraining(
        base_run,
        examples,
        warm_start=warm_start,
        parent_version=parent.version if parent else None,
        gate_policy=read_gate_policy(gate_policy) if gate_policy is not None else "",
    )
    return run_training(
        data,
        run_dir,
        repository=repository,
        model=model,
        config=config,
        reporter=reporter,
        run_id=run_id,
        retraining=retraining,
    )


@contextlib.contextmanager
def _explain_full_disk() -> Iterator[None]:
    """TensorFlow has an error of its own for a disk that takes no more, which says less of what to do."""
    try:
        yield
    except tf.errors.OpError as error:
        if os.strerror(errno.ENOSPC) not in error.message:
            raise
        raise PipelineError(
            f"the disk is full ({error.message}); the same command goes on from here"
        ) from error


def _run(run: Run, versions: ModelRepository, model: str) -> PublishedVersion:
    compute = environment.prepare(run.config)
    run.folder.write("environment.json", environment.describe(compute))
    index = index_phase(run)
    audit = audit_phase(run, index)
    splits = splits_phase(run, index, audit)
    explore_phase(run, index, audit)
    network, weights = network_phase(run, index)
    training, validation = examples_phase(run, index, splits)
    Trainer(run.config, compute, network, training, validation, run.folder.path, run.reporter).run()
    calibration = calibration_phase(run, network, validation)
    ood, distance = ood_phase(run, network, training, validation)
    assert_disjoint(splits, audit)
    with versions.staging(model, run.folder.run_id) as staged:
        run.phase("export")
        exported = export_version(
            network,
            staged,
            name=model,
            temperature=calibration["temperature"],
            distance=distance,
            examples=validation,
            records=splits.validation,
            root=index.root,
            spec=run.spec,
            classes=index.classes,
            goldens_per_class=run.config.goldens_per_class,
            spare=training,
        )
        run.folder.write("export.json", exported.parity)
        evaluation = evaluation_phase(run, staged, splits, index)
        manifest = draft_manifest(
            run.folder.run_id,
            config=run.config,
            spec=run.spec,
            index=index,
            splits=splits,
            weights=weights,
            calibration=calibration,
            ood=ood,
            retraining=run.retraining,
        )
        manifest.metrics.CopyFrom(metrics_message(evaluation.metrics, evaluation.ood_auroc))
        manifest.localisation.CopyFrom(localisation_message(evaluation.metrics["localisation"]))
        manifest.goldens.extend(exported.goldens)
        run.phase("publish")
        past_stopping()
        return versions.publish(model, staged, manifest)


def _finish(folder: RunFolder, published: PublishedVersion, reporter: Reporter) -> None:
    """Records of the publication, the report, and an end to what can be computed again."""
    record_published(folder, published)
    report = write_report(folder.path)
    shutil.rmtree(folder.path / CACHE, ignore_errors=True)
    reporter.message(f"published {published.model} version {published.version}: {published.path}")
    reporter.message(f"report: {report}")


def published_version(run_dir: Path) -> Path:
    """Folder of the version that a run has published.

    Raises:
        RunFolderError: No run.
        PipelineError: It has published nothing, or the version is gone.
    """
    config, data, _ = read_settings(run_dir)
    with RunFolder.open(run_dir, config, data) as folder:
        return _version_of(folder)


def evaluate_published(run_dir: Path, *, reporter: Reporter) -> Path:
    """Measures the version that a run has published on its test split again, and rewrites the report.

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

    Raises:
        ConfigError: `target_risk` is out of its range.
        Exception: As `evaluate_published`.
    """
    config, *_ = read_settings(run_dir)
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
    config, data, _ = read_settings(run_dir)
    with RunFolder.open(run_dir, config, data) as folder, folder.reporting(reporter) as everyone:
        version = _version_of(folder)
        yield Run(folder, config, data, read_manifest(version).transform, everyone), version


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
