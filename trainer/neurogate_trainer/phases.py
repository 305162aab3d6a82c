"""The phases of a training run: each computes its result, or reads back what an earlier start has left."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np
from neurogate.v1 import manifest_pb2
from neurogate_core.preprocessing.transform import transform

from neurogate_trainer.data.audit import AuditReport, audit_dataset
from neurogate_trainer.data.folder import doubtful_classes
from neurogate_trainer.data.index import DatasetIndex, ImageRecord, build_index
from neurogate_trainer.data.inputs import Examples, decode_examples
from neurogate_trainer.data.masks import read_mask
from neurogate_trainer.data.splits import Splits, assert_disjoint, split_dataset
from neurogate_trainer.evaluation.calibrate import calibrate
from neurogate_trainer.evaluation.evaluate import Evaluation, evaluate_run
from neurogate_trainer.evaluation.evaluation_set import write_evaluation_set
from neurogate_trainer.evaluation.ood import FeatureDistance, fit_ood
from neurogate_trainer.evaluation.ood_sources import foreign_images
from neurogate_trainer.model.network import backbone_of, build_model
from neurogate_trainer.model.weights import (
    InitialWeights,
    find_initial_weights,
    load_into,
    load_whole,
    version_weights,
)
from neurogate_trainer.report.explore import explore
from neurogate_trainer.report.figures import draw_figures
from neurogate_trainer.training.retraining import Retraining
from neurogate_trainer.training.run_folder import RunFolder
from neurogate_trainer.training.state import STATE_FILE
from neurogate_trainer.training.train import predict_logits

from .config import TrainConfig
from .errors import TrainerError
from .progress import Reporter

CACHE: Final = "cache"


class PipelineError(TrainerError, RuntimeError):
    """A run cannot start or end; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Run:
    """What every phase needs; `retraining` is None in a first training."""

    folder: RunFolder
    config: TrainConfig
    data: Path
    spec: manifest_pb2.TransformSpec
    reporter: Reporter
    retraining: Retraining | None = None

    def phase(self, name: str) -> None:
        """Begins a phase without a count."""
        self.reporter.phase(name)


def index_phase(run: Run) -> DatasetIndex:
    """The index of the data set."""
    path = run.folder.path / "index.sqlite"
    if run.folder.finished("index"):
        return DatasetIndex.load(path, run.data)
    index = build_index(run.data, reporter=run.reporter)
    for doubt in doubtful_classes(index):
        run.reporter.message(doubt, level="warning")
    index.save(path)
    run.folder.finish("index")
    return index


def audit_phase(run: Run, index: DatasetIndex) -> AuditReport:
    """Its audit."""
    path = run.folder.path / "audit.json"
    if run.folder.finished("audit"):
        return AuditReport.load(path, index)
    audit = audit_dataset(index, reporter=run.reporter)
    audit.save(path)
    run.folder.finish("audit")
    return audit


def splits_phase(run: Run, index: DatasetIndex, audit: AuditReport) -> Splits:
    """The splits, which share no group."""
    path = run.folder.path / "splits.json"
    if run.folder.finished("split"):
        splits = Splits.load(path, index)
        # Runs of a release that did not write it get theirs here.
        write_evaluation_set(run.folder.path, index.root, splits.test)
        return splits
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
    write_evaluation_set(run.folder.path, index.root, splits.test)
    sizes = ", ".join(f"{len(records)} {name}" for name, records in splits.parts().items())
    run.reporter.message(f"splits: {sizes}, {len(splits.dropped)} left out")
    run.folder.finish("split")
    return splits


def explore_phase(run: Run, index: DatasetIndex, audit: AuditReport) -> None:
    """Statistics and figures of the data set."""
    if not run.folder.finished("explore"):
        explore(index, audit, run.folder.path, reporter=run.reporter)
        run.folder.finish("explore")


def network_phase(run: Run, index: DatasetIndex) -> tuple[keras.Model, InitialWeights]:
    """The network with its initial weights, and where they come from.

    After the first epoch the saved state has the weights, so they are not looked for again.
    """
    network = build_model(run.config, len(index.classes))
    if run.folder.finished("weights"):
        record = run.folder.read("weights.json")
        weights = InitialWeights(**record, path=None)
        if (run.folder.path / "checkpoint" / STATE_FILE).is_file():
            return network, weights
    run.phase("weights")
    if run.retraining is not None and run.retraining.checkpoint is not None:
        weights = version_weights(run.retraining.checkpoint, run.reporter)
        load_whole(network, weights)
    else:
        weights = find_initial_weights(
            run.config.initial_weights, allow_random=run.config.allow_random_init, reporter=run.reporter
        )
        load_into(backbone_of(network), weights)
    run.folder.write("weights.json", {"source": weights.source, "digest": weights.digest})
    run.folder.finish("weights")
    return network, weights


def examples_phase(run: Run, index: DatasetIndex, splits: Splits) -> tuple[Examples, Examples]:
    """The decoded training and validation images."""
    run.reporter.phase("inputs", total=len(splits.train) + len(splits.validation), unit="images")

    def decoded(records: tuple[ImageRecord, ...]) -> Examples:
        return decode_examples(
            records,
            index.root,
            run.spec,
            classes=index.classes,
            cache=run.folder.path / CACHE,
            reporter=run.reporter,
        )

    return decoded(splits.train), decoded(splits.validation)


def calibration_phase(run: Run, network: keras.Model, validation: Examples) -> dict[str, Any]:
    """What calibration.json holds."""
    if run.folder.finished("calibrate"):
        return run.folder.read("calibration.json")
    run.phase("calibrate")
    logits = predict_logits(network, validation)
    calibration = calibrate(logits, validation.labels, target_risk=run.config.target_risk)
    run.folder.write("calibration.json", calibration)
    run.folder.finish("calibrate")
    return calibration


def ood_phase(
    run: Run, network: keras.Model, training: Examples, validation: Examples
) -> tuple[dict[str, Any], FeatureDistance | None]:
    """What ood.json holds, and the distance unless the energy score was better."""
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


def evaluation_phase(run: Run, version_dir: Path, splits: Splits, index: DatasetIndex) -> Evaluation:
    """The evaluation of an exported version on the test split, with its figures."""
    heads = np.stack([transform((index.root / r.path).read_bytes(), run.spec) for r in splits.test])
    foreign = foreign_images(heads, run.spec, part="report", seed=run.config.seed)
    evaluation = evaluate_run(
        run.folder.path,
        version_dir,
        splits,
        index,
        spec=run.spec,
        foreign=foreign,
        seed=run.config.seed,
        reporter=run.reporter,
    )
    draw_figures(
        run.folder.path,
        evaluation.predictions,
        evaluation.metrics,
        foreign=evaluation.foreign,
        load=lambda path: transform((index.root / path).read_bytes(), run.spec),
        explain=evaluation.maps,
        pointed=evaluation.pointed,
        lesion=lambda position: read_mask(index.root, splits.test[position]),
        reporter=run.reporter,
    )
    return evaluation
