"""Does the training's input pipeline keep the model busy?

Trains epochs of the demo's network, in turn from the run's memory-mapped pixels through the trainer's own
batches, and from the same batches that lie in memory already. Everything else is the same.

    python bench/input_pipeline.py
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from neurogate_bench import machine, results
from neurogate_bench.stats import figure, ratios
from neurogate_trainer.config import preset
from neurogate_trainer.data.inputs import Batch, EpochBatches, Examples, as_dataset
from neurogate_trainer.model.network import build_model
from neurogate_trainer.progress import NullReporter
from neurogate_trainer.training.environment import prepare
from neurogate_trainer.training.state import FINE_TUNE
from neurogate_trainer.training.train import Trainer

CLASSES = 4


def pixels_file(folder: Path, count: int, side: int) -> Examples:
    """Pixels as the trainer keeps them: one file, mapped."""
    path = folder / "pixels.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8))
    return Examples(np.load(path, mmap_mode="r"), np.arange(count) % CLASSES)


def measure(rounds: int, images: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds per epoch, and of them the processor's, by where its batches come from and by round."""
    config = dataclasses.replace(preset("demo"), epochs=rounds + 1)
    seconds: dict[str, list[float]] = {"pipeline": [], "memory": []}
    processor: dict[str, list[float]] = {"pipeline": [], "memory": []}
    with tempfile.TemporaryDirectory() as name:
        examples = pixels_file(Path(name), images, config.image_size)
        trainer = Trainer(
            config=config,
            compute=prepare(config),
            model=build_model(config, CLASSES),
            training=examples,
            validation=examples,
            run_dir=Path(name),
            reporter=NullReporter(),
        )
        learner = trainer._learner()  # noqa: SLF001 - what is measured is what the trainer runs
        trainer._prepare(learner, FINE_TUNE)  # noqa: SLF001

        def batches(epoch: int) -> EpochBatches:
            weights = np.ones(CLASSES, np.float32)
            return EpochBatches(examples, weights, batch_size=config.batch_size, seed=0, epoch=epoch)

        def epoch(data: EpochBatches | list[Batch]) -> tuple[float, float]:
            began, used = time.perf_counter(), time.process_time()
            learner.fit(as_dataset(data), shuffle=False, verbose=0)
            return time.perf_counter() - began, time.process_time() - used

        epoch(batches(0))
        for number in range(1, rounds + 1):
            made = batches(number)
            ready = [made[at] for at in range(len(made))]
            # The order changes from round to round, so that neither always follows the other.
            order = [("pipeline", made), ("memory", ready)][:: 1 if number % 2 else -1]
            for source, data in order:
                wall, used = epoch(data)
                seconds[source].append(wall)
                processor[source].append(used)
    return seconds, processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--images", type=int, default=320)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    cores = machine.pin_to_cores(2)
    began, started_at, load = time.monotonic(), machine.now(), machine.load_average()
    seconds, processor = measure(arguments.rounds, arguments.images)
    ratio = figure("pipeline to memory", "epoch", "x", ratios(seconds["pipeline"], seconds["memory"]))
    result = results.Result(
        schema=results.SCHEMA,
        scenario="input_pipeline",
        title="The training's input pipeline",
        question="How much longer does an epoch take than the same steps on data already in memory?",
        started_at=started_at,
        seconds=round(time.monotonic() - began, 1),
        backend="none",
        machine=machine.describe_machine(cores),
        versions=machine.describe_versions(),
        source=machine.describe_source(),
        load_average_at_start=load,
        settings={"rounds": arguments.rounds, "images": arguments.images, "preset": "demo"},
        commands={"all": "python bench/input_pipeline.py"},
        figures=[
            ratio,
            figure(
                "pipeline to memory",
                "processor time",
                "x",
                ratios(processor["pipeline"], processor["memory"]),
            ),
            *(figure(source, "epoch", "s", values) for source, values in seconds.items()),
            *(figure(source, "processor time", "s", values) for source, values in processor.items()),
        ],
        checks={},
        targets=[results.target("pipeline to memory", "<=", 1.1, ratio["median"], "x")],
        notes=[
            "Epochs from the mapped file and from memory alternate, on the same compiled training step.",
            "Images are decoded once, before training; that is not part of an epoch.",
        ],
        void=[],
        details={},
    )
    print(results.save(result, arguments.results))
    print(f"an epoch takes {ratio['median']:.3f} times as long ({ratio['min']:.3f} to {ratio['max']:.3f})")


if __name__ == "__main__":
    main()
