"""The queue of batches for one set of tensors of one version, and the tasks in it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import grpc
import numpy as np

from .batching_options import BatchingOptions
from .errors import ServingError, invalid_argument
from .servable import Runner
from .tensors import Array

_QUEUE_FULL = "The batch scheduling queue to which this task was submitted is full"


class Task:
    """One request that waits for its share of a batch, or a part of it.

    Args:
        inputs: Tensors by name.
        size: Their number of rows.
        deadline: When nobody waits any more, on the monotonic clock; None for never.
    """

    def __init__(self, inputs: Mapping[str, Array], size: int, deadline: float | None) -> None:
        self.inputs = inputs
        self.size = size
        self.deadline = deadline
        self.done = threading.Event()
        self._results: Mapping[str, Array] = {}
        self._error: ServingError | None = None

    def succeed(self, results: Mapping[str, Array]) -> None:
        """Hands over the outputs by name."""
        self._results = results
        self.done.set()

    def fail(self, error: ServingError) -> None:
        """Hands over the failure."""
        self._error = error
        self.done.set()

    def result(self) -> Mapping[str, Array]:
        """The outputs by name; raises the failure if there was one."""
        if self._error is not None:
            raise self._error
        return self._results

    def split(self, sizes: Sequence[int]) -> list[Task]:
        """Parts with so many rows each, whose results come together in this task."""
        parts: list[Task] = []
        joint = _Joint(self, len(sizes))
        start = 0
        for index, size in enumerate(sizes):
            rows = {name: array[start : start + size] for name, array in self.inputs.items()}
            parts.append(_Part(rows, size, self.deadline, joint, index))
            start += size
        return parts


class _Joint:
    """Collects the parts of a split task."""

    def __init__(self, whole: Task, count: int) -> None:
        self._whole = whole
        self._lock = threading.Lock()
        self._results: list[Mapping[str, Array]] = [{}] * count
        self._missing = count
        self._error: ServingError | None = None

    def part_done(self, index: int, results: Mapping[str, Array], error: ServingError | None) -> None:
        with self._lock:
            self._results[index] = results
            self._error = self._error or error
            self._missing -= 1
            if self._missing:
                return
        if self._error is not None:
            self._whole.fail(self._error)
            return
        try:
            joined = {
                name: np.concatenate([part[name] for part in self._results]) for name in self._results[0]
            }
        except Exception as failure:  # noqa: BLE001  (it is the whole task's, not this part's batch's)
            # Padded to what else was in their batches, parts can have outputs of different inner shapes.
            message = f"The results of the parts of a split task cannot be joined: {failure}"
            self._whole.fail(ServingError(grpc.StatusCode.INTERNAL, message))
        else:
            self._whole.succeed(joined)


class _Part(Task):
    def __init__(
        self, inputs: Mapping[str, Array], size: int, deadline: float | None, joint: _Joint, index: int
    ) -> None:
        super().__init__(inputs, size, deadline)
        self._joint = joint
        self._index = index

    def succeed(self, results: Mapping[str, Array]) -> None:
        super().succeed(results)
        self._joint.part_done(self._index, results, None)

    def fail(self, error: ServingError) -> None:
        super().fail(error)
        self._joint.part_done(self._index, {}, error)


@dataclass
class _Batch:
    tasks: list[Task] = field(default_factory=list)
    size: int = 0
    started: float = 0.0


class BatchQueue:
    """Batches that wait for a thread; the last one is open for further tasks. Not thread-safe.

    Args:
        runner: The version that runs them.
        inputs: Names of the tensors that every task brings.
        outputs: Names of the tensors that every task wants.
        options: Sizes and times.
    """

    def __init__(
        self, runner: Runner, inputs: Sequence[str], outputs: Sequence[str], options: BatchingOptions
    ) -> None:
        self.runner = runner
        self.inputs = inputs
        self.outputs = outputs
        self.options = options
        self._batches: deque[_Batch] = deque([_Batch()])

    def add(self, task: Task, now: float) -> None:
        """Puts a task into the open batch, or into a new one if it does not fit.

        Raises:
            ServingError: The task is larger than a batch may be, or the queue is full.
        """
        options = self.options
        if task.size > options.max_batch_size:
            raise invalid_argument(
                f"Task size {task.size} is larger than maximum input batch size {options.max_batch_size}"
            )
        room = options.execution_size - self._batches[-1].size
        if task.size <= room:
            self._append(task, now)
            return
        if not options.split_large:
            if len(self._batches) >= options.max_enqueued_batches:
                raise ServingError(
                    grpc.StatusCode.UNAVAILABLE,
                    f"{_QUEUE_FULL}; currently {len(self._batches)} batches enqueued and "
                    f"max_enqueued_batches is {options.max_enqueued_batches}",
                )
            self._batches.append(_Batch())
            self._append(task, now)
            return
        self._add_in_parts(task, room, now)

    def take(self, now: float) -> list[Task] | None:
        """The tasks of the next batch that may run now; None if there is none."""
        due = self.due()
        if due is None or due > now:
            return None
        if len(self._batches) == 1:
            self._batches.append(_Batch())
        return self._batches.popleft().tasks

    def due(self) -> float | None:
        """When the next batch may run; None if nothing waits."""
        first = self._batches[0]
        if len(self._batches) > 1 or first.size >= self.options.execution_size:
            return 0.0
        # A batch of no rows waits for one that has some.
        return first.started + self.options.batch_timeout if first.size else None

    def fail_all(self, error: ServingError) -> None:
        """Fails every task that waits."""
        for batch in self._batches:
            for task in batch.tasks:
                task.fail(error)
        self._batches = deque([_Batch()])

    def _append(self, task: Task, now: float) -> None:
        batch = self._batches[-1]
        if not batch.size:
            batch.started = now
        batch.tasks.append(task)
        batch.size += task.size

    def _add_in_parts(self, task: Task, room: int, now: float) -> None:
        options = self.options
        free = max(0, options.max_enqueued_batches - len(self._batches))
        capacity = free * options.execution_size + room
        if task.size > capacity:
            raise ServingError(
                grpc.StatusCode.UNAVAILABLE,
                f"{_QUEUE_FULL}; task size is {task.size} but scheduling capacity is only {capacity} "
                f"(num_enqueued_batches={len(self._batches)}, "
                f"max_enqueued_batches={options.max_enqueued_batches}, "
                f"open_batch_size={self._batches[-1].size}, "
                f"max_execution_batch_size={options.execution_size})",
            )
        sizes = [room] if room else []
        left = task.size - room
        while left > 0:
            sizes.append(min(left, options.execution_size))
            left -= sizes[-1]
        for part in task.split(sizes):
            if part.size > options.execution_size - self._batches[-1].size:
                self._batches.append(_Batch())
            self._append(part, now)
