"""A training run from images to a published version, one phase after another.

index, audit, split, explore, weights, inputs, warm-up, fine-tune, calibrate, ood, export, evaluate, publish,
report. Each phase leaves its result in the run folder. A run that is killed goes on with the phase it was in
(training with the epoch it was in); what is finished is read back.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np
from neurogate.v1 import manifest_pb2
from neurogate_serving.manifest import read_manifest
from neurogate_serving.repository import ModelRepository, PublishedVersion
from neurogate_serving.transform import default_spec, transform

from neurogate_trainer import environment
from neurogate_trainer.audit import AuditReport, audit_dataset
from neurogate_trainer.calibrate import calibrate
from neurogate_trainer.config import TrainConfig
from neurogate_trainer.datasets.index import DatasetIndex, ImageRecord, build_index
from neurogate_trainer.evaluate import Evaluation, evaluate_run, evaluation_metrics
from neurogate_trainer.explore import explore
from neurogate_trainer.export import decision_thresholds, export_version, manifest_calibration
from neurogate_trainer.inputs import Examples, decode_examples
from neurogate_trainer.model import backbone, build_model
from neurogate_trainer.ood import FeatureDistance, fit_ood
from neurogate_trainer.ood_sources import foreign_images
from neurogate_trainer.progress import Reporter
from neurogate_trainer.publication import already_published, draft_manifest, record_publication
from neurogate_trainer.report import write_report
from neurogate_trainer.run_folder import RunFolder, read_audit, read_settings
from neurogate_trainer.splits import Splits, assert_disjoint, split_dataset
from neurogate_trainer.train import STATE_FILE, Trainer, predict_logits
from neurogate_trainer.weights import InitialWeights, find_initial_weights, load_into

_CACHE: Final = "cache"
_CLASS_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class PipelineError(RuntimeError):
    """A run cannot start or end; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class _Run:
    """What every phase needs."""

    folder: RunFolder
    config: TrainConfig
    data: Path
    spec: manifest_pb2.TransformSpec
    reporter: Reporter

    def phase(self, name: str) -> None:
        self.reporter.phase(name)


def run_training(
    data: Path, run_dir: Path, *, repository: Path, model: str, config: TrainConfig, reporter: Reporter
) -> PublishedVersion:
    """Trains a model on a data set and publishes it as the next version.

    Args:
        data: The data set: class folders, or Training/ and Testing/ with class folders.
        run_dir: The run folder: new, or that of an unfinished run with the same data set and settings.
        repository: Root of the model repository.
        model: Name of the model in it.
        config: The settings.
        reporter: Told about everything.

    Raises:
        DatasetError: The data set cannot be used.
        LeakageError: The splits overlap.
        WeightsError: There are no initial weights.
        RunFolderError: The run folder is in use, or of another run.
        TrainingError: Training cannot go on.
        ExportError: The exported graph does not give the network's answers; nothing was published.
        RepositoryError: The repository or the model's name is not valid.
        OSError: Something cannot be written.
    """
    versions = ModelRepository(repository)
    versions.versions(model)  # refuses a bad name before any work
    with RunFolder.open(run_dir, config, data) as folder, folder.reporting(reporter) as told:
        if (done := already_published(folder, versions, model)) is not None:
            told.message(f"run {folder.run_id} has published version {done.version} before")
            _finish(folder, done, told)
            return done
        told.message(f"run {folder.run_id} in {folder.path}")
        run = _Run(folder, config, data, default_spec(config.image_size, config.image_size), told)
        published = _run(run, versions, model)
        _finish(folder, published, told)
        return published


def _run(run: _Run, versions: ModelRepository, model: str) -> PublishedVersion:
    compute = environment.prepare(run.config)
    run.folder.write("environment.json", environment.describe(compute))
    index = _index(run)
    audit = _audit(run, index)
    splits = _splits(run, index, audit)
    _explore(run, index, audit)
    network, weights = _network(run, index)
    training, validation = _examples(run, index, splits)
    Trainer(run.config, compute, network, training, validation, run.folder.path, run.reporter).run()
    calibration = _calibration(run, network, validation)
    ood, distance = _ood(run, network, training, validation)
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
        )
        run.folder.write("export.json", exported.parity)
        evaluation = _evaluation(run, staged, splits, index)
        manifest = draft_manifest(
            run.folder.run_id, config=run.config, spec=run.spec, index=index, splits=splits, weights=weights
        )
        manifest.calibration.CopyFrom(manifest_calibration(calibration))
        manifest.thresholds.CopyFrom(decision_thresholds(calibration, ood))
        manifest.metrics.CopyFrom(evaluation_metrics(evaluation.metrics, evaluation.ood_auroc))
        manifest.goldens.extend(exported.goldens)
        run.phase("publish")
        return versions.publish(model, staged, manifest)


def _finish(folder: RunFolder, published: PublishedVersion, reporter: Reporter) -> None:
    """Records of the publication, the report, and an end to what can be computed again."""
    record_publication(folder, published)
    report = write_report(folder.path)
    shutil.rmtree(folder.path / _CACHE, ignore_errors=True)
    reporter.message(f"published {published.model} version {published.version}: {published.path}")
    reporter.message(f"report: {report}")


def _index(run: _Run) -> DatasetIndex:
    path = run.folder.path / "index.sqlite"
    if run.folder.finished("index"):
        return DatasetIndex.load(path, run.data)
    index = build_index(run.data, reporter=run.reporter)
    # What publication would refuse in the end is refused here, before hours of training.
    bad = [name for name in index.classes if not _CLASS_ID.fullmatch(name)]
    if bad:
        raise PipelineError(
            f"class folder {bad[0]!r}: a class is named by up to 64 letters, digits, '_', '-' or '.', the "
            "first a letter or digit"
        )
    index.save(path)
    run.folder.finish("index")
    return index


def _audit(run: _Run, index: DatasetIndex) -> AuditReport:
    path = run.folder.path / "audit.json"
    if run.folder.finished("audit"):
        return read_audit(path, index)
    audit = audit_dataset(index, reporter=run.reporter)
    audit.save(path)
    run.folder.finish("audit")
    return audit


def _splits(run: _Run, index: DatasetIndex, audit: AuditReport) -> Splits:
    path = run.folder.path / "splits.json"
    if run.folder.finished("split"):
        return Splits.load(path, index)
    run.phase("split")
    splits = split_dataset(
        index,
        audit,
        seed=run.config.seed,
        fractions=run.config.fractions,
        keep_given_test=run.config.keep_given_test,
    )
    assert_disjoint(splits, audit)
    splits.save(path)
    sizes = ", ".join(f"{len(records)} {name}" for name, records in splits.parts().items())
    run.reporter.message(f"splits: {sizes}, {len(splits.dropped)} left out")
    run.folder.finish("split")
    return splits


def _explore(run: _Run, index: DatasetIndex, audit: AuditReport) -> None:
    if not run.folder.finished("explore"):
        explore(index, audit, run.folder.path, reporter=run.reporter)
        run.folder.finish("explore")


def _network(run: _Run, index: DatasetIndex) -> tuple[keras.Model, InitialWeights]:
    network = build_model(run.config, len(index.classes))
    if run.folder.finished("weights"):
        record = run.folder.read("weights.json")
        weights = InitialWeights(**record, path=None)
        if (run.folder.path / "checkpoint" / STATE_FILE).is_file():
            return network, weights
    run.phase("weights")
    weights = find_initial_weights(
        run.config.initial_weights, allow_random=run.config.allow_random_init, reporter=run.reporter
    )
    load_into(backbone(network), weights)
    run.folder.write("weights.json", {"source": weights.source, "digest": weights.digest})
    run.folder.finish("weights")
    return network, weights


def _examples(run: _Run, index: DatasetIndex, splits: Splits) -> tuple[Examples, Examples]:
    run.reporter.phase("inputs", total=len(splits.train) + len(splits.validation), unit="images")

    def decoded(records: tuple[ImageRecord, ...]) -> Examples:
        return decode_examples(
            records,
            index.root,
            run.spec,
            classes=index.classes,
            cache=run.folder.path / _CACHE,
            reporter=run.reporter,
        )

    return decoded(splits.train), decoded(splits.validation)


def _calibration(run: _Run, network: keras.Model, validation: Examples) -> dict[str, Any]:
    if run.folder.finished("calibrate"):
        return run.folder.read("calibration.json")
    run.phase("calibrate")
    logits = predict_logits(network, validation)
    calibration = calibrate(logits, validation.labels, target_risk=run.config.target_risk)
    run.folder.write("calibration.json", calibration)
    run.folder.finish("calibrate")
    return calibration


def _ood(
    run: _Run, network: keras.Model, training: Examples, validation: Examples
) -> tuple[dict[str, Any], FeatureDistance | None]:
    arrays = run.folder.path / "ood.npz"
    if run.folder.finished("ood"):
        record = run.folder.read("ood.json")
        return record, FeatureDistance.load(arrays) if arrays.is_file() else None
    foreign = foreign_images(validation.pixels, run.spec, part="selection", seed=run.config.seed)
    record, distance = fit_ood(
        network,
        training,
        validation,
        foreign,
        acceptance=run.config.ood_acceptance,
        reporter=run.reporter,
    )
    if distance is not None:
        distance.save(arrays)
    run.folder.write("ood.json", record)
    run.folder.finish("ood")
    return record, distance


def _evaluation(run: _Run, version_dir: Path, splits: Splits, index: DatasetIndex) -> Evaluation:
    heads = np.stack([transform((index.root / r.path).read_bytes(), run.spec) for r in splits.test])
    foreign = foreign_images(heads, run.spec, part="report", seed=run.config.seed)
    return evaluate_run(
        run.folder.path,
        version_dir,
        splits,
        index,
        spec=run.spec,
        foreign=foreign,
        seed=run.config.seed,
        reporter=run.reporter,
    )


def evaluate_published(run_dir: Path, *, reporter: Reporter) -> Path:
    """Measures the version that a run has published on its test split again, and rewrites the report.

    Returns:
        The path of report.html.

    Raises:
        RunFolderError: No run, or one that another process works on.
        PipelineError: The run has published nothing, or the version is gone.
    """
    config, data = read_settings(run_dir)
    with RunFolder.open(run_dir, config, data) as folder, folder.reporting(reporter) as told:
        if not (run_dir / "published.json").is_file():
            raise PipelineError(f"the run in {run_dir} has published nothing yet")
        version = Path(folder.read("published.json")["path"])
        if not version.is_dir():
            raise PipelineError(f"{version} is gone; `neurogate-trainer export` publishes the model again")
        run = _Run(folder, config, data, read_manifest(version).transform, told)
        index = _index(run)
        _evaluation(run, version, _splits(run, index, _audit(run, index)), index)
        return write_report(folder.path)
