"""Training in two phases: the head alone, then the last layers of the network with it.

After every epoch the whole state goes to one file, replaced in one step: weights, optimiser, random numbers,
best result so far, history. A run that is killed goes on at the epoch it was in, and ends with the same
weights as one that was not.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from neurogate_core.files import replace_json, replacing
from scipy.special import log_softmax
from sklearn.metrics import f1_score

from neurogate_trainer.config import TrainConfig
from neurogate_trainer.data.inputs import EpochBatches, Examples, as_dataset, balanced_weights
from neurogate_trainer.model.network import freeze_backbone, unfreeze_last
from neurogate_trainer.progress import Reporter

from .augment import augmentation_layers
from .environment import Compute
from .state import FINE_TUNE, PHASES, STATE_FILE, WARMUP, Progress, State, TrainingError

BEST_FILE: Final = "best.keras"

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Trainer:
    """A training run over decoded images.

    Writes checkpoint/, tensorboard/ and history.json into the run folder. `model` has the initial weights
    before and the best ones after `run`.
    """

    config: TrainConfig
    compute: Compute
    model: keras.Model
    training: Examples
    validation: Examples
    run_dir: Path
    reporter: Reporter

    def run(self) -> Progress:
        """Trains to the end, from wherever an earlier call was stopped; `model` has the best weights then.

        Raises:
            TrainingError: The loss is not a number any more, or the saved state is of another network.
            OSError: The run folder cannot be written.
        """
        checkpoint = self.run_dir / "checkpoint"
        saved = State.read(checkpoint / STATE_FILE)
        progress = saved.progress if saved else Progress()
        learner = self._learner()
        with tf.summary.create_file_writer(str(self.run_dir / "tensorboard")).as_default():
            for phase in PHASES[PHASES.index(progress.phase) :]:
                if phase != progress.phase:
                    progress.phase, progress.epoch = phase, 0
                self._prepare(learner, phase)
                if saved:
                    saved.restore(learner)
                    saved = None
                self._run_phase(learner, progress)
        best = keras.models.load_model(checkpoint / BEST_FILE, compile=False)
        self.model.set_weights(best.get_weights())
        return progress

    def _learner(self) -> keras.Model:
        """The network behind its augmentation, from uint8 images to logits."""
        layers = augmentation_layers(self.config.augmentation, seed=self.config.seed)
        side = self.config.image_size
        return keras.Sequential(
            [
                keras.Input((side, side, 3), dtype="uint8"),
                keras.layers.Rescaling(1.0, dtype="float32", name="as_float"),
                *layers,
                self.model,
            ],
            name="learner",
        )

    def _epochs(self, phase: str) -> int:
        return self.config.warmup_epochs if phase == WARMUP else self.config.epochs

    def _steps(self) -> int:
        return max(1, len(self.training) // self.config.batch_size)

    def _prepare(self, learner: keras.Model, phase: str) -> None:
        """Decides what learns, with a fresh optimiser."""
        if phase == WARMUP:
            freeze_backbone(self.model)
            rate: Any = self.config.warmup_learning_rate
        else:
            unfreeze_last(self.model, self.config)
            rate = _schedule(self.config, self._steps())
        learner.compile(
            optimizer=keras.optimizers.Adam(rate),
            loss=keras.losses.CategoricalCrossentropy(
                from_logits=True, label_smoothing=self.config.label_smoothing
            ),
            metrics=["accuracy"],
            jit_compile=self.compute.jit,
        )
        learner.optimizer.build(learner.trainable_variables)

    def _run_phase(self, learner: keras.Model, progress: Progress) -> None:
        epochs, steps = self._epochs(progress.phase), self._steps()
        if progress.epoch >= epochs or self._exhausted(progress):
            return
        # Epochs are numbered over both phases, wherever they are shown.
        last = self.config.warmup_epochs + self.config.epochs
        self.reporter.phase(progress.phase, total=epochs * steps, unit="steps")
        if progress.epoch:
            self.reporter.message(
                f"going on with {progress.phase}, epoch {len(progress.history) + 1} of {last}"
            )
            self.reporter.advance(progress.epoch * steps)
        while progress.epoch < epochs and not self._exhausted(progress):
            entry = self._epoch(learner, progress)
            self._record(learner, progress, entry)
        if progress.epoch < epochs:
            self.reporter.message(
                f"stopped after {len(progress.history)} of {last} epochs: no better macro F1 for "
                f"{self.config.patience} epochs"
            )

    def _exhausted(self, progress: Progress) -> bool:
        return progress.phase == FINE_TUNE and progress.waited >= self.config.patience

    def _epoch(self, learner: keras.Model, progress: Progress) -> dict[str, Any]:
        """One epoch and its validation: an entry of history.json."""
        number = len(progress.history) + 1
        started = time.monotonic()
        weights = balanced_weights(self.training.labels, self.model.output_shape[-1])
        batches = EpochBatches(
            self.training,
            weights if self.config.class_weights else np.ones_like(weights),
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            epoch=number,
        )

        def report_step(_: int, logs: dict[str, float]) -> None:
            self.reporter.advance(1, epoch=number, loss=logs["loss"], accuracy=logs["accuracy"])

        callback = keras.callbacks.LambdaCallback(on_train_batch_end=report_step)
        fitted = learner.fit(as_dataset(batches), shuffle=False, verbose=0, callbacks=[callback]).history
        loss = float(fitted["loss"][0])
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss} in epoch {number}; try a lower learning rate than "
                f"{self.config.learning_rate:g}"
            )
        validation = _validate(self.model, self.validation)
        rate = learner.optimizer.learning_rate
        return {
            "epoch": number,
            "phase": progress.phase,
            "loss": loss,
            "accuracy": float(fitted["accuracy"][0]),
            **validation,
            "learning_rate": float(keras.ops.convert_to_numpy(rate)),
            "seconds": time.monotonic() - started,
        }

    def _record(self, learner: keras.Model, progress: Progress, entry: dict[str, Any]) -> None:
        """Notes a finished epoch; a crash at any point in here repeats the epoch, and nothing else."""
        progress.epoch += 1
        progress.history.append(entry)
        checkpoint = self.run_dir / "checkpoint"
        if (entry["val_macro_f1"], -entry["val_loss"]) > (progress.best_f1, -progress.best_loss):
            progress.best_f1, progress.best_loss = entry["val_macro_f1"], entry["val_loss"]
            progress.best_epoch, progress.waited = entry["epoch"], 0
            with replacing(checkpoint / BEST_FILE) as temporary:
                # Keras goes by the suffix.
                named = temporary.with_suffix(".keras")
                try:
                    self.model.save(named)
                    named.rename(temporary)
                finally:
                    # Half of it on a full disk would take the room that somebody frees.
                    named.unlink(missing_ok=True)
        elif progress.phase == FINE_TUNE:
            progress.waited += 1
        for name, value in entry.items():
            if name not in {"epoch", "phase"}:
                tf.summary.scalar(name, value, step=entry["epoch"])
        tf.summary.flush()
        State.write(checkpoint / STATE_FILE, learner, progress)
        replace_json(self.run_dir / "history.json", progress.history)
        shown = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "val_macro_f1", "learning_rate")
        self.reporter.advance(0, **{name: entry[name] for name in shown})


def _schedule(config: TrainConfig, steps: int) -> Any:  # noqa: ANN401 - Keras carries no types
    """A linear ramp and half a cosine, by step."""
    ramp = round(config.ramp_epochs * steps)
    total = max(1, config.epochs * steps)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=config.learning_rate / max(1, ramp) if ramp else config.learning_rate,
        decay_steps=max(1, total - ramp),
        alpha=config.final_learning_rate_share,
        warmup_target=config.learning_rate if ramp else None,
        warmup_steps=ramp,
    )


def predict_logits(model: keras.Model, examples: Examples, *, batch_size: int = 64) -> Floats:
    """The network's logits, float32 [N, C], of images as they are."""
    parts = [
        np.asarray(model.predict_on_batch(examples.pixels[start : start + batch_size].astype(np.float32)))
        for start in range(0, len(examples), batch_size)
    ]
    return np.concatenate(parts)


def _validate(model: keras.Model, examples: Examples) -> dict[str, float]:
    logits = predict_logits(model, examples)
    answers = logits.argmax(axis=1)
    likelihood = log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(examples)), examples.labels]
    return {
        "val_loss": float(-likelihood.mean()),
        "val_accuracy": float((answers == examples.labels).mean()),
        "val_macro_f1": float(f1_score(examples.labels, answers, average="macro", zero_division=0.0)),
    }
