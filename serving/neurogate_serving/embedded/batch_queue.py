"""The queue of batches for one set of tensors of one version, and the settings of batching."""

from __future__ import annotations

import functools
import os
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf import wrappers_pb2 as _wrappers_pb2
from google.protobuf.message import Message

from .config import read_text_proto
from .errors import ServingError, invalid_argument
from .servable import Runner
from .tensors import Array


@dataclass(frozen=True)
class BatchingOptions:
    """TensorFlow Serving's BatchingParameters, with its defaults.

    Attributes:
        max_batch_size: Rows that a batch may have, and (unless it is split) a request.
        batch_timeout: Seconds that a batch waits for further requests.
        max_enqueued_batches: Batches that may wait for a thread; more requests are refused.
        num_batch_threads: Batches that run at once.
        allowed_batch_sizes: Sizes that batches are filled up to; none for no filling.
        pad_variable_length: Whether inputs of different inner shapes are padded to a common one.
        split_large: Whether a request larger than a batch is spread over several.
        max_execution_batch_size: Rows that run at once when large requests are split; 0 for `max_batch_size`.
    """

    max_batch_size: int = 1000
    batch_timeout: float = 0.0
    max_enqueued_batches: int = 10
    num_batch_threads: int = os.cpu_count() or 1
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length: bool = False
    split_large: bool = False
    max_execution_batch_size: int = 0

    @property
    def execution_size(self) -> int:
        """Rows that run at once."""
        return (
            self.max_execution_batch_size
            if self.split_large and self.max_execution_batch_size
            else self.max_batch_size
        )

    def padded_size(self, size: int) -> int:
        """The allowed size that a batch of `size` rows is filled up to: the first that is large enough."""
        return next((allowed for allowed in self.allowed_batch_sizes if allowed >= size), size)


@functools.cache
def _parameters_class() -> type[Message]:
    """BatchingParameters, which the stubs of tensorflow-serving-api do not contain."""
    field_type = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="neurogate_serving/embedded/batching_parameters.proto",
        package="neurogate_serving.embedded",
        syntax="proto3",
        dependency=["google/protobuf/wrappers.proto"],
    )
    message = file.message_type.add(name="BatchingParameters")
    wrapped = {
        "max_batch_size": (1, "Int64Value"),
        "batch_timeout_micros": (2, "Int64Value"),
        "max_enqueued_batches": (3, "Int64Value"),
        "num_batch_threads": (4, "Int64Value"),
        "thread_pool_name": (5, "StringValue"),
        "max_execution_batch_size": (9, "Int64Value"),
    }
    for name, (number, kind) in wrapped.items():
        message.field.add(
            name=name,
            number=number,
            label=field_type.LABEL_OPTIONAL,
            type=field_type.TYPE_MESSAGE,
            type_name=f".google.protobuf.{kind}",
        )
    sizes = message.field.add(name="allowed_batch_sizes", number=6)
    sizes.label, sizes.type = field_type.LABEL_REPEATED, field_type.TYPE_INT64
    for name, number in (("pad_variable_length_inputs", 7), ("enable_large_batch_splitting", 8)):
        message.field.add(
            name=name, number=number, label=field_type.LABEL_OPTIONAL, type=field_type.TYPE_BOOL
        )
    pool = descriptor_pool.DescriptorPool()
    wrappers = descriptor_pb2.FileDescriptorProto()
    _wrappers_pb2.DESCRIPTOR.CopyToProto(wrappers)
    pool.Add(wrappers)
    pool.Add(file)
    return message_factory.GetMessageClass(
        pool.FindMessageTypeByName("neurogate_serving.embedded.BatchingParameters")
    )


def read_batching_options(path: Path) -> BatchingOptions:
    """Reads --batching_parameters_file.

    Raises:
        ServingError: It cannot be read, or the real server would refuse it.
    """
    return options_from_parameters(read_text_proto(path, _parameters_class()()))


def options_from_parameters(parameters: Message) -> BatchingOptions:
    """The settings in a BatchingParameters message, checked as the real server checks them."""
    given: dict[str, int] = {
        name: getattr(parameters, name).value
        for name in ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")
        if parameters.HasField(name)
    }
    for name in ("max_batch_size", "num_batch_threads"):
        if given.get(name, 1) < 1:
            raise invalid_argument(f"{name} must be positive; was {given[name]}")
    for name in ("batch_timeout_micros", "max_enqueued_batches"):
        if given.get(name, 0) < 0:
            raise invalid_argument(f"{name} must be non-negative; was {given[name]}")
    timeout = given.pop("batch_timeout_micros", 0) / 1e6
    execution = (
        parameters.max_execution_batch_size.value if parameters.HasField("max_execution_batch_size") else 0
    )
    options = BatchingOptions(
        **given,
        batch_timeout=timeout,
        allowed_batch_sizes=tuple(parameters.allowed_batch_sizes),
        pad_variable_length=parameters.pad_variable_length_inputs,
        split_large=parameters.enable_large_batch_splitting,
        max_execution_batch_size=execution,
    )
    last = options.allowed_batch_sizes[-1] if options.allowed_batch_sizes else options.execution_size
    if last != options.execution_size:
        raise invalid_argument(
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was "
            f"{last}; expected {options.execution_size}"
        )
    if options.execution_size > options.max_batch_size:
        raise invalid_argument("max_execution_batch_size must not be above max_batch_size")
    return options


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
        else:
            names = self._results[0]
            self._whole.succeed(
                {name: np.concatenate([part[name] for part in self._results]) for name in names}
            )


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
                    "The batch scheduling queue to which this task was submitted is full; currently "
                    f"{len(self._batches)} batches enqueued and max_enqueued_batches is {options.max_enqueued_batches}",
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
                f"The batch scheduling queue to which this task was submitted is full; task size is {task.size} but "
                f"scheduling capacity is only {capacity} (num_enqueued_batches={len(self._batches)}, "
                f"max_enqueued_batches={options.max_enqueued_batches}, open_batch_size={self._batches[-1].size}, "
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
