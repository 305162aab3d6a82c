"""The settings of batching: TensorFlow Serving's BatchingParameters."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory, wrappers_pb2
from google.protobuf.message import Message

from .config import read_text_proto
from .errors import invalid_argument


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
    wrappers_pb2.DESCRIPTOR.CopyToProto(wrappers)
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
    return options_from_parameters(json_format.MessageToDict(read_text_proto(path, _parameters_class()())))


def options_from_parameters(parameters: Mapping[str, Any]) -> BatchingOptions:
    """The settings in a BatchingParameters message in its JSON form, checked as the real server checks them.

    Raises:
        ServingError: INVALID_ARGUMENT.
    """
    names = ("maxBatchSize", "batchTimeoutMicros", "maxEnqueuedBatches", "numBatchThreads")
    given = {name: int(parameters[name]) for name in (*names, "maxExecutionBatchSize") if name in parameters}
    for name, smallest in zip(names, (1, 0, 0, 1), strict=True):
        if given.get(name, smallest) < smallest:
            raise invalid_argument(f"{name} must be at least {smallest}; was {given[name]}")
    defaults = BatchingOptions()
    options = BatchingOptions(
        max_batch_size=given.get("maxBatchSize", defaults.max_batch_size),
        batch_timeout=given.get("batchTimeoutMicros", 0) / 1e6,
        max_enqueued_batches=given.get("maxEnqueuedBatches", defaults.max_enqueued_batches),
        num_batch_threads=given.get("numBatchThreads", defaults.num_batch_threads),
        allowed_batch_sizes=tuple(int(size) for size in parameters.get("allowedBatchSizes", ())),
        pad_variable_length=bool(parameters.get("padVariableLengthInputs")),
        split_large=bool(parameters.get("enableLargeBatchSplitting")),
        max_execution_batch_size=given.get("maxExecutionBatchSize", 0),
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
