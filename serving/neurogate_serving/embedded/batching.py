"""Batching: runs requests that need the same tensors together, in one run of the graph."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping, Sequence

import grpc
import numpy as np
from tensorflow.core.protobuf import meta_graph_pb2

from .batch_queue import BatchQueue, Task
from .batching_options import BatchingOptions
from .caller import PATIENT, Caller
from .errors import ServingError, failed_precondition, invalid_argument
from .servable import Runner
from .states import StoppedError
from .tensors import Array

_Key = tuple[frozenset[str], frozenset[str]]

_LOOK_SECONDS = 0.5


class BatchScheduler:
    """The threads that run batches, shared by all loaded versions.

    Args:
        options: Sizes, times and threads.
    """

    def __init__(self, options: BatchingOptions) -> None:
        self.options = options
        lock = threading.Lock()
        self._changed = threading.Condition(lock)
        # Apart from the one above, so that the end of a batch wakes no idle thread.
        self._batch_ended = threading.Condition(lock)
        self._queues: list[BatchQueue] = []
        # The queue of every batch that a thread has taken, so as often as it has batches in process.
        self._in_process: list[BatchQueue] = []
        self._stopped = False
        self._threads = [
            threading.Thread(target=self._work, name=f"batch-{number}", daemon=True)
            for number in range(options.num_batch_threads)
        ]
        for thread in self._threads:
            thread.start()

    def wrap(self, runner: Runner) -> BatchingRunner:
        """The same version, run in batches."""
        return BatchingRunner(runner, self)

    def add_queue(self, queue: BatchQueue) -> None:
        """Takes batches of a further queue."""
        with self._changed:
            self._queues.append(queue)

    def remove_queues(self, queues: Collection[BatchQueue]) -> None:
        """Takes no more batches of the queues of a version, and waits until none is in process.

        Tasks still queued fail.

        Raises:
            StoppedError: The server is stopping, and a batch is still in process.
        """
        with self._changed:
            for queue in queues:
                self._queues.remove(queue)
                queue.fail_all(ServingError(grpc.StatusCode.UNAVAILABLE, "The version is being unloaded"))
            # The callers of a batch may all have gone while it runs on.
            self._batch_ended.wait_for(lambda: self._stopped or not self._runs_any_of(queues))
            if self._runs_any_of(queues):
                raise StoppedError

    def submit(self, queue: BatchQueue, task: Task) -> None:
        """Puts a task into a queue.

        Raises:
            ServingError: It is too large, or the queue is full.
            StoppedError: The server is stopping.
        """
        with self._changed:
            if self._stopped:
                raise StoppedError
            queue.add(task, time.monotonic())
            self._changed.notify_all()

    def stop(self) -> None:
        """Ends the threads; tasks still queued fail."""
        with self._changed:
            self._stopped = True
            for queue in self._queues:
                queue.fail_all(ServingError(grpc.StatusCode.UNAVAILABLE, "The server is stopping"))
            self._changed.notify_all()
            self._batch_ended.notify_all()

    def _runs_any_of(self, queues: Collection[BatchQueue]) -> bool:
        return any(queue in queues for queue in self._in_process)

    def _work(self) -> None:
        # One call for each batch: an idle thread must not keep a version that is unloaded in memory.
        while self._run_next():
            pass

    def _run_next(self) -> bool:
        with self._changed:
            while True:
                if self._stopped:
                    return False
                taken = self._take(time.monotonic())
                if taken is not None:
                    break
                self._changed.wait(self._seconds_to_next(time.monotonic()))
            queue, tasks = taken
            self._in_process.append(queue)
        try:
            _process(queue, tasks)
        finally:
            with self._changed:
                self._in_process.remove(queue)
                self._batch_ended.notify_all()
        return True

    def _take(self, now: float) -> tuple[BatchQueue, list[Task]] | None:
        for index, queue in enumerate(self._queues):
            tasks = queue.take(now)
            if tasks is not None:
                # The next thread starts behind this queue, so that a busy one cannot starve the others.
                self._queues = self._queues[index + 1 :] + self._queues[: index + 1]
                return queue, tasks
        return None

    def _seconds_to_next(self, now: float) -> float | None:
        times = [due - now for queue in self._queues if (due := queue.due()) is not None]
        return max(0.0, min(times)) if times else None


class BatchingRunner:
    """A loaded version whose runs are batched; thread-safe."""

    def __init__(self, runner: Runner, scheduler: BatchScheduler) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._lock = threading.Lock()
        self._queues: dict[_Key, BatchQueue] = {}

    @property
    def signatures(self) -> Mapping[str, meta_graph_pb2.SignatureDef]:
        """The model's signatures, by name."""
        return self._runner.signatures

    def run(
        self, feeds: Sequence[tuple[str, Array]], fetches: Sequence[str], *, caller: Caller = PATIENT
    ) -> list[Array]:
        """Runs with whatever else needs the same tensors; raises `ServingError`."""
        size = _batch_size([array for _, array in feeds])
        queue = self._queue(frozenset(name for name, _ in feeds), frozenset(fetches))
        task = Task(dict(feeds), size, caller.deadline)
        self._scheduler.submit(queue, task)
        # As in the real server, a task of size 0 never runs by itself: the end of the call frees the thread.
        while not task.done.wait(_LOOK_SECONDS):
            if not caller.is_waiting():
                raise ServingError(grpc.StatusCode.CANCELLED, "The caller does not wait any more")
        results = task.result()
        return [results[name] for name in fetches]

    def close(self) -> None:
        """Frees the version, once no batch runs on it any more.

        Raises:
            StoppedError: The server is stopping, and a batch still runs.
        """
        with self._lock:
            queues = list(self._queues.values())
            self._queues.clear()
        self._scheduler.remove_queues(queues)
        self._runner.close()

    def _queue(self, inputs: frozenset[str], outputs: frozenset[str]) -> BatchQueue:
        with self._lock:
            queue = self._queues.get((inputs, outputs))
            if queue is None:
                queue = BatchQueue(self._runner, sorted(inputs), sorted(outputs), self._scheduler.options)
                self._queues[inputs, outputs] = queue
                self._scheduler.add_queue(queue)
            return queue


def _batch_size(inputs: Sequence[Array]) -> int:
    if not inputs:
        raise invalid_argument("Batching Run() must have at least one input tensor")
    size: int | None = None
    for array in inputs:
        if array.ndim == 0:
            raise invalid_argument("Batching Run() input tensors must have at least one dimension")
        if size is not None and array.shape[0] != size:
            raise invalid_argument("Batching Run() input tensors must have equal 0th-dimension size")
        size = int(array.shape[0])
    return size or 0


def _process(queue: BatchQueue, tasks: list[Task]) -> None:
    """Runs one batch and hands every task its share, or the failure that all of them share."""
    try:
        now = time.monotonic()
        caller = Caller(_deadline(tasks, now))
        size = sum(task.size for task in tasks)
        padding = queue.options.padded_size(size) - size
        feeds = [
            (name, _merge(name, tasks, padding, pad=queue.options.pad_variable_length))
            for name in queue.inputs
        ]
        combined = queue.runner.run(feeds, queue.outputs, caller=caller)
        shares = _split(dict(zip(queue.outputs, combined, strict=True)), tasks, size + padding)
        for task, share in zip(tasks, shares, strict=True):
            task.succeed(share)
    except ServingError as error:
        _fail_unanswered(tasks, error)
    except Exception as error:  # noqa: BLE001  (a batch thread must outlive any model)
        _fail_unanswered(tasks, ServingError(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}"))


def _fail_unanswered(tasks: Sequence[Task], error: ServingError) -> None:
    for task in tasks:
        if not task.done.is_set():
            task.fail(error)


def _deadline(tasks: Sequence[Task], now: float) -> float | None:
    """When the batch is given up: at the deadline of its most patient task."""
    if all(task.deadline is not None and task.deadline <= now for task in tasks):
        raise ServingError(
            grpc.StatusCode.RESOURCE_EXHAUSTED, "Run() timeout exceeded while waiting in batching queue"
        )
    deadlines = [task.deadline for task in tasks]
    known = [deadline for deadline in deadlines if deadline is not None]
    return max(known) if len(known) == len(deadlines) else None


def _merge(name: str, tasks: Sequence[Task], padding: int, *, pad: bool) -> Array:
    """The inputs of all tasks under each other, filled up with the last task's first row."""
    arrays = [task.inputs[name] for task in tasks]
    if pad:
        arrays = _pad_to_common_shape(arrays)
    for array in arrays[1:]:
        if array.shape[1:] != arrays[0].shape[1:]:
            raise failed_precondition(
                f"Tensors with name '{name}' from different tasks have different shapes and padding is "
                "turned off. Set pad_variable_length_inputs to true, or ensure that all tensors with the "
                "same name have equal dimensions starting with the first dim."
            )
    for array in arrays[1:]:
        if array.dtype != arrays[0].dtype:
            raise ServingError(
                grpc.StatusCode.INTERNAL,
                "Tensor concat operation failed: INVALID_ARGUMENT: Cannot concatenate tensors that have "
                "different data types.",
            )
    arrays.extend([arrays[-1][:1]] * padding)
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _pad_to_common_shape(arrays: Sequence[Array]) -> list[Array]:
    """All arrays with the largest size in every dimension but the first, filled with their first element."""
    if len({array.ndim for array in arrays}) > 1:
        raise invalid_argument("Tensors with same name in different batch inputs must have same rank")
    largest = [max(sizes) for sizes in zip(*(array.shape[1:] for array in arrays), strict=True)]
    padded = []
    for array in arrays:
        if list(array.shape[1:]) == largest or array.size == 0:
            padded.append(array)
            continue
        filled = np.full((array.shape[0], *largest), array.reshape(-1)[0], array.dtype)
        filled[tuple(slice(size) for size in array.shape)] = array
        padded.append(filled)
    return padded


def _split(combined: Mapping[str, Array], tasks: Sequence[Task], size: int) -> list[dict[str, Array]]:
    shares: list[dict[str, Array]] = [{} for _ in tasks]
    for name, array in combined.items():
        if array.ndim == 0:
            raise failed_precondition("Batched output tensor has 0 dimensions")
        if array.shape[0] != size:
            raise failed_precondition(
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of "
                "the input tensors"
            )
        start = 0
        for task, share in zip(tasks, shares, strict=True):
            share[name] = array[start : start + task.size]
            start += task.size
    return shares
