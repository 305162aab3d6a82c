import dataclasses
import itertools
import json
import math
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from neurogate_testing.toy_network import SIDE, toy_examples, toy_network
from neurogate_trainer.config import Augmentation, TrainConfig
from neurogate_trainer.progress import Reporter
from neurogate_trainer.training.environment import Compute
from neurogate_trainer.training.state import FINE_TUNE, STATE_FILE, WARMUP, TrainingError
from neurogate_trainer.training.train import BEST_FILE, Trainer, _schedule, predict_logits
from tensorflow.python.framework import config as tf_config

# Keras asks numpy 2 for copies in the way of numpy 1.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

CONFIG = TrainConfig(
    image_size=SIDE,
    unfrozen_layers=4,
    batch_size=8,
    warmup_epochs=2,
    epochs=4,
    learning_rate=5e-3,
    warmup_learning_rate=1e-2,
    patience=4,
    augmentation=Augmentation(rotation=2, noise=2),
)


@pytest.fixture(scope="module", autouse=True)
def _deterministic():
    """Adam turns a rounding difference into a step, so the same run must be the same to the last bit."""
    tf.config.experimental.enable_op_determinism()
    yield
    tf_config.disable_op_determinism()


class Interrupted(BaseException):
    """What a test raises in place of a kill."""


class Recorder(Reporter):
    def __init__(self, stop_at_step: int | None = None) -> None:
        self.phases: list[tuple[str, int | None]] = []
        self.results: list[dict[str, float]] = []
        self.messages: list[str] = []
        self.steps = 0
        self.stop_at_step = stop_at_step

    def phase(self, name: str, *, total: int | None = None, unit: str = "") -> None:
        self.phases.append((name, total))

    def advance(self, n: int = 1, **metrics: float) -> None:
        if n == 0:
            self.results.append(metrics)
        elif "loss" in metrics:
            self.steps += n
            if self.steps == self.stop_at_step:
                raise Interrupted

    def message(self, text: str, *, level: str = "info") -> None:
        self.messages.append(text)


def trainer(run_dir: Path, reporter: Recorder | None = None, **changes: object) -> Trainer:
    config = dataclasses.replace(CONFIG, **changes)
    return Trainer(
        config=config,
        compute=Compute("float32", jit=False),
        model=toy_network(seed=config.seed),
        training=toy_examples(40),
        validation=toy_examples(18, seed=1),
        run_dir=run_dir,
        reporter=reporter or Recorder(),
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Trainer, Recorder]:
    reporter = Recorder()
    made = trainer(tmp_path_factory.mktemp("run"), reporter)
    made.run()
    return made, reporter


def history(run_dir: Path) -> list[dict]:
    return json.loads((run_dir / "history.json").read_text())


def test_two_phases_are_trained_and_recorded(finished):
    made, reporter = finished
    entries = history(made.run_dir)
    assert [entry["phase"] for entry in entries] == [WARMUP] * 2 + [FINE_TUNE] * 4
    assert [entry["epoch"] for entry in entries] == [1, 2, 3, 4, 5, 6]
    assert set(entries[0]) == {
        "epoch",
        "phase",
        "loss",
        "accuracy",
        "val_loss",
        "val_accuracy",
        "val_macro_f1",
        "learning_rate",
        "seconds",
    }
    assert reporter.phases == [(WARMUP, 10), (FINE_TUNE, 20)]
    assert reporter.steps == 30
    assert [result["epoch"] for result in reporter.results] == [1, 2, 3, 4, 5, 6]
    assert list((made.run_dir / "tensorboard").iterdir())


def test_it_learns_and_ends_with_the_best_weights(finished):
    made, _ = finished
    entries = history(made.run_dir)
    best = max(entries, key=lambda entry: (entry["val_macro_f1"], -entry["val_loss"]))
    logits = predict_logits(made.model, made.validation)
    assert (logits.argmax(axis=1) == made.validation.labels).mean() == pytest.approx(best["val_accuracy"])
    assert best["val_accuracy"] > 0.6
    kept = keras.models.load_model(made.run_dir / "checkpoint" / BEST_FILE, compile=False)
    np.testing.assert_array_equal(predict_logits(kept, made.validation), logits)


@pytest.mark.parametrize("step", [pytest.param(3, marks=pytest.mark.slow), 11, 24])
def test_an_interrupted_run_goes_on_at_its_epoch_and_ends_the_same(finished, tmp_path, step):
    """Step 3 is in the first epoch, 11 the first of fine-tuning, 24 in its third epoch."""
    expected, _ = finished
    with pytest.raises(Interrupted):
        trainer(tmp_path, Recorder(stop_at_step=step)).run()
    done = len(history(tmp_path)) if (tmp_path / "history.json").is_file() else 0
    assert done == (step - 1) // 5
    reporter = Recorder()
    resumed = trainer(tmp_path, reporter)
    resumed.run()
    assert reporter.steps == 30 - 5 * done
    assert [result["epoch"] for result in reporter.results] == list(range(done + 1, 7))
    # Where it goes on within a phase it says so, in numbers of the whole run.
    assert reporter.messages[:1] == (["going on with fine-tune, epoch 5 of 6"] if step == 24 else [])
    for ours, theirs in zip(resumed.model.get_weights(), expected.model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    strip = [[{**entry, "seconds": 0} for entry in history(run)] for run in (tmp_path, expected.run_dir)]
    assert strip[0] == strip[1]


def test_a_finished_run_trains_nothing_again(finished):
    made, _ = finished
    reporter = Recorder()
    again = trainer(made.run_dir, reporter)
    again.run()
    assert reporter.steps == 0
    np.testing.assert_array_equal(
        predict_logits(again.model, made.validation), predict_logits(made.model, made.validation)
    )


def test_early_stopping_goes_by_macro_f1(tmp_path):
    reporter = Recorder()
    # Too slow for another answer, and what is learned makes the loss on wrong labels grow: no epoch is better
    # than the first.
    made = trainer(
        tmp_path,
        reporter,
        warmup_epochs=1,
        epochs=6,
        patience=2,
        learning_rate=1e-6,
        warmup_learning_rate=1e-6,
        batch_norm="frozen",
    )
    wrong = dataclasses.replace(made.validation, labels=(made.validation.labels + 1) % 3)
    made = dataclasses.replace(made, validation=wrong)
    progress = made.run()
    assert progress.epoch == progress.waited + (progress.best_epoch - 1)
    assert progress.epoch < 6
    # Numbered as the figures are: over both phases.
    assert f"stopped after {len(progress.history)} of 7 epochs" in reporter.messages[-1]


def test_a_loss_that_is_no_number_ends_the_run_with_advice(tmp_path):
    made = trainer(tmp_path)
    made.model.get_layer("logits").kernel.assign(np.full((8, 3), np.nan))
    with pytest.raises(TrainingError, match="lower learning rate"):
        made.run()
    assert not (tmp_path / "checkpoint" / BEST_FILE).exists()


def test_a_full_disk_keeps_nothing_of_the_weights(tmp_path, monkeypatch):
    def full(model, path):
        Path(path).write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    made = trainer(tmp_path, warmup_epochs=1, epochs=0)
    monkeypatch.setattr(type(made.model), "save", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*best\.keras'"):
        made.run()
    assert list((tmp_path / "checkpoint").iterdir()) == []


def test_the_state_of_another_network_is_refused(finished, tmp_path):
    made, _ = finished
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / STATE_FILE).write_bytes(
        (made.run_dir / "checkpoint" / STATE_FILE).read_bytes()
    )
    other = dataclasses.replace(
        trainer(tmp_path), model=toy_network(classes=4), training=toy_examples(40, classes=4)
    )
    with pytest.raises(TrainingError, match="another network"):
        other.run()


def test_the_learning_rate_rises_and_falls():
    config = dataclasses.replace(CONFIG, epochs=10, ramp_epochs=1.0, final_learning_rate_share=0.1)
    schedule = _schedule(config, 20)
    rates = [float(schedule(step)) for step in range(201)]
    assert rates[0] < config.learning_rate / 10
    assert rates[20] == pytest.approx(config.learning_rate)
    assert max(rates) <= config.learning_rate * (1 + 1e-6)
    assert all(a >= b for a, b in itertools.pairwise(rates[20:]))
    assert rates[200] == pytest.approx(0.1 * config.learning_rate)
    flat = dataclasses.replace(config, ramp_epochs=0)
    assert float(_schedule(flat, 20)(0)) == pytest.approx(config.learning_rate)


def test_warmup_alone_and_fine_tuning_alone(tmp_path):
    head = trainer(tmp_path / "head", epochs=0, warmup_epochs=1)
    before = head.model.get_layer("Conv_1").get_weights()[0]
    head.run()
    np.testing.assert_array_equal(head.model.get_layer("Conv_1").get_weights()[0], before)
    whole = trainer(tmp_path / "whole", warmup_epochs=0, epochs=1)
    whole.run()
    assert [entry["phase"] for entry in history(tmp_path / "whole")] == [FINE_TUNE]
    assert math.isfinite(history(tmp_path / "whole")[0]["val_loss"])
