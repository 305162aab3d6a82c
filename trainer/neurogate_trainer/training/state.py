"""What a killed training run needs in order to go on: one file, replaced in one step."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np
import numpy.typing as npt
from neurogate_core.files import replacing

from neurogate_trainer.errors import TrainerError

WARMUP: Final = "warm-up"
FINE_TUNE: Final = "fine-tune"
PHASES: Final = (WARMUP, FINE_TUNE)
STATE_FILE: Final = "state.npz"


class TrainingError(TrainerError, RuntimeError):
    """Training cannot go on; the message says why and what to do."""


@dataclass(slots=True)
class Progress:
    """How far training is; what a killed run needs besides the arrays.

    Attributes:
        phase: The phase that the next epoch belongs to.
        epoch: Finished epochs of that phase.
        best_f1: Best macro F1 on the validation split; below 0 before there is any.
        best_loss: Loss on the validation split in that epoch, which decides between equal scores.
        best_epoch: Number of its epoch over all phases, from 1.
        waited: Epochs of fine-tuning since then.
        history: The entries of history.json.
    """

    phase: str = WARMUP
    epoch: int = 0
    best_f1: float = -1.0
    best_loss: float = 0.0
    best_epoch: int = 0
    waited: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class State:
    """A saved state: progress, and the arrays of the network, its random numbers and the optimiser."""

    path: Path
    progress: Progress
    arrays: list[npt.NDArray[Any]]

    @classmethod
    def read(cls, path: Path) -> State | None:
        """The state in a file; None when there is no such file."""
        if not path.is_file():
            return None
        with np.load(path, allow_pickle=False) as stored:
            progress = Progress(**json.loads(str(stored["progress"])))
            arrays = [stored[name] for name in sorted(stored.files) if name != "progress"]
        return cls(path, progress, arrays)

    @staticmethod
    def write(path: Path, learner: keras.Model, progress: Progress) -> None:
        """Saves the state of a compiled learner."""
        values = [keras.ops.convert_to_numpy(variable) for variable in _variables(learner)]
        named = {f"{number:05d}": value for number, value in enumerate(values)}
        with replacing(path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, progress=np.array(json.dumps(asdict(progress))), **named)

    def restore(self, learner: keras.Model) -> None:
        """Sets every variable of a learner that is compiled for the state's phase.

        Raises:
            TrainingError: The variables are others than those that were saved.
        """
        variables = _variables(learner)
        shapes = [tuple(variable.shape) for variable in variables]
        if shapes != [array.shape for array in self.arrays]:
            raise TrainingError(f"{self.path} is the state of another network; start a new run folder")
        for variable, array in zip(variables, self.arrays, strict=True):
            variable.assign(array)


def _variables(learner: keras.Model) -> list[Any]:
    return [*learner.variables, *learner.optimizer.variables]
