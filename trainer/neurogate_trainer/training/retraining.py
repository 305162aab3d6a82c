"""What a retraining starts from: a base run, examples, perhaps a version's weights, changed settings."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from neurogate_core.hyperparameters import HyperparameterError, parse_hyperparameters
from neurogate_core.manifest import LONGEST_GATE_POLICY
from neurogate_core.names import images_digest

from neurogate_trainer.config import ConfigError, TrainConfig
from neurogate_trainer.data.audit import AuditReport
from neurogate_trainer.data.examples import ExamplesError, count_by_class, index_examples, read_examples
from neurogate_trainer.data.index import MIN_IMAGES_PER_CLASS, DatasetIndex
from neurogate_trainer.data.merge_examples import MergedData, merge_examples
from neurogate_trainer.data.splits import Splits, assert_disjoint
from neurogate_trainer.evaluation.evaluation_set import write_evaluation_set
from neurogate_trainer.progress import Reporter

from .run_folder import RunFolder, RunFolderError, read_settings
from .train import BEST_FILE

EXAMPLES_FILE: Final = "examples.json"


@dataclass(frozen=True, slots=True)
class Retraining:
    """What makes a run a retraining, as state.json keeps it.

    Attributes:
        base_run: Folder of the run whose data set, splits and settings it takes over.
        examples: The document that lists the new examples.
        examples_digest: Names the set of examples; see `neurogate_core.names.images_digest`.
        warm_start: Folder of the run that published the version to start from; "" for initial weights.
        parent_version: That version; None for initial weights.
        gate_policy: What a gateway's gate asks of the version beside its own policy, as TOML; "" for nothing.
    """

    base_run: str
    examples: str
    examples_digest: str
    warm_start: str = ""
    parent_version: int | None = None
    gate_policy: str = ""

    def to_json(self) -> dict[str, Any]:
        """As state.json holds it."""
        return dataclasses.asdict(self)

    @property
    def checkpoint(self) -> Path | None:
        """The weights to start from."""
        return checkpoint_of(Path(self.warm_start)) if self.warm_start else None


def checkpoint_of(run_dir: Path) -> Path:
    """Where a run keeps the weights of the version that it published."""
    return run_dir / "checkpoint" / BEST_FILE


def plan_retraining(
    base_run: Path,
    examples: Path,
    *,
    warm_start: Path | None,
    parent_version: int | None,
    gate_policy: str = "",
) -> Retraining:
    """Looks at everything that a retraining needs before any work is done.

    Raises:
        RunFolderError: `base_run` is no run folder, or its run has not drawn its splits; or the run to start
            from has no weights any longer.
        ExamplesError: The examples are not usable as they are listed.
    """
    data = read_settings(base_run).data
    index = _load_index(base_run, data)
    offered = read_examples(examples, index.classes)
    if warm_start is not None and not checkpoint_of(warm_start).is_file():
        raise RunFolderError(
            f"{warm_start} has no weights to start from: {checkpoint_of(warm_start)} is gone"
        )
    return Retraining(
        base_run=str(base_run.absolute()),
        examples=str(examples.absolute()),
        examples_digest=images_digest(sorted({example.sha256 for example in offered})),
        warm_start=str(warm_start.absolute()) if warm_start is not None else "",
        parent_version=parent_version,
        gate_policy=gate_policy,
    )


def read_gate_policy(path: Path) -> str:
    """The text of a gate policy, which has to be fit for a manifest; what it says is the gateway's to judge.

    Raises:
        ConfigError: It is not TOML, or too long.
        OSError: It cannot be read.
    """
    try:
        text = path.read_bytes().decode()
        tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no gate policy: not TOML: {error}") from None
    if len(text) > LONGEST_GATE_POLICY:
        raise ConfigError(
            f"{path} is no gate policy: it has {len(text)} characters, expected at most {LONGEST_GATE_POLICY}"
        )
    return text


def tuned(config: TrainConfig, changes: Mapping[str, str]) -> TrainConfig:
    """The settings with changes that are given as text, of those that a retraining may change.

    The others decide what the network and its data are; they stay, so that versions can be compared.

    Raises:
        ConfigError: A setting may not change, or is out of its range.
    """
    try:
        values = parse_hyperparameters(changes)
    except HyperparameterError as error:
        raise ConfigError(str(error)) from None
    dropout = tuple(
        values.pop(name, before)
        for name, before in zip(("dropout_hidden", "dropout_logits"), config.dropout, strict=True)
    )
    named: dict[str, Any] = {**values, "dropout": dropout}
    return dataclasses.replace(config, **named)


def merge_phases(folder: RunFolder, config: TrainConfig, retraining: Retraining, reporter: Reporter) -> None:
    """Index, audit and splits of a retraining, where a first training would compute its own.

    Leaves index.sqlite, audit.json, splits.json and evaluation.json as a first training does, and
    examples.json: which examples are in which split, and which were left out why.

    Raises:
        ExamplesError: No example can be used, or a class would have too few images.
        DatasetError: The base run's data set has changed.
        LeakageError: The splits overlap.
    """
    if folder.finished("split"):
        return
    base_run = Path(retraining.base_run)
    data = read_settings(base_run).data
    index = _load_index(base_run, data)
    splits = Splits.load(base_run / "splits.json", index)
    audit = AuditReport.load(base_run / "audit.json", index)
    offered = read_examples(Path(retraining.examples), index.classes)
    usable, unusable = index_examples(offered, reporter=reporter)
    merged = merge_examples(
        (index, audit, splits),
        usable,
        unusable,
        fractions=config.fractions,
        reporter=reporter,
    )
    _check(merged)
    merged.index.save(folder.path / "index.sqlite")
    merged.audit.save(folder.path / "audit.json")
    merged.splits.save(folder.path / "splits.json")
    write_evaluation_set(folder.path, data, merged.splits.test)
    folder.write(EXAMPLES_FILE, _record(merged, retraining))
    sizes = ", ".join(f"{len(records)} {name}" for name, records in merged.splits.parts().items())
    reporter.message(f"{len(merged.added)} of {len(offered)} examples joined: {sizes}")
    for phase in ("index", "audit", "split"):
        folder.finish(phase)


def _load_index(base_run: Path, data: Path) -> DatasetIndex:
    missing = [
        name for name in ("index.sqlite", "audit.json", "splits.json") if not (base_run / name).is_file()
    ]
    if missing:
        raise RunFolderError(
            f"the run in {base_run} has no {missing[0]} yet, so nothing can join its data set"
        )
    return DatasetIndex.load(base_run / "index.sqlite", data)


def _check(merged: MergedData) -> None:
    assert_disjoint(merged.splits, merged.audit)
    counts = count_by_class(merged.splits.train, merged.index.classes)
    if short := [name for name, count in counts.items() if count < MIN_IMAGES_PER_CLASS]:
        found = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise ExamplesError(
            f"the training split has too few images of {', '.join(short)} ({found}); expected "
            f"{MIN_IMAGES_PER_CLASS} or more per class"
        )


def _record(merged: MergedData, retraining: Retraining) -> dict[str, Any]:
    chosen = {record.path for record in merged.added}
    return {
        "digest": retraining.examples_digest,
        "joined": {
            name: count_by_class((r for r in records if r.path in chosen), merged.index.classes)
            for name, records in merged.splits.parts().items()
        },
        "left_out": [
            {"path": r.path, "class": r.class_id, "sha256": r.sha256, "reason": reason}
            for r, reason in merged.left_out
        ],
    }
