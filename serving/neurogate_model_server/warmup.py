"""Replays a version's recorded requests before it serves, so that the first client does not pay for it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import grpc
from google.protobuf.message import DecodeError
from tensorflow.python.framework import errors as tf_errors
from tensorflow.python.lib.io import _pywrap_record_io
from tensorflow_serving.apis import prediction_log_pb2

from .errors import ServingError, from_tensorflow, invalid_argument
from .predict import predict
from .servable import Servable

_log = logging.getLogger(__name__)

WARMUP_FILE = Path("assets.extra/tf_serving_warmup_requests")
_MAX_RECORDS = 1000


def warm_up(servable: Servable, version_dir: Path, *, iterations: int = 1, check_method: bool = False) -> int:
    """Runs every request in the version's warm-up file, if it has one.

    Args:
        servable: The version.
        version_dir: Its folder.
        iterations: How often each request runs.
        check_method: As in `predict`.

    Returns:
        The number of records.

    Raises:
        ServingError: The file is broken, or a request fails; either keeps the version from serving.
    """
    file = version_dir / WARMUP_FILE
    if not file.exists():
        return 0
    count = 0
    for record in _records(file):
        log = prediction_log_pb2.PredictionLog()
        try:
            log.ParseFromString(record)
        except DecodeError:
            text = record.decode("utf-8", "surrogateescape")
            raise invalid_argument(f"Failed to parse warmup record: {text} from {file}") from None
        for _ in range(iterations):
            _run(servable, log, check_method=check_method)
        count += 1
        if count > _MAX_RECORDS:
            raise invalid_argument(f"Number of warmup records exceeds the maximum ({_MAX_RECORDS}) at {file}")
    _log.info("ran %d warm-up records of %s", count, version_dir)
    return count


def _records(file: Path) -> Iterator[bytes]:
    # TensorFlow's own reader: it checks the checksums, and its texts are those of the real server.
    try:
        yield from _pywrap_record_io.RecordIterator(str(file), "")
    except tf_errors.DataLossError as error:
        raise ServingError(
            grpc.StatusCode.DATA_LOSS,
            f"{error.message}. Please verify your warmup data is in TFRecord format.",
        ) from None
    except tf_errors.OpError as error:
        raise from_tensorflow(error) from None


def _run(servable: Servable, log: prediction_log_pb2.PredictionLog, *, check_method: bool) -> None:
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        predict(servable, log.predict_log.request, version=None, check_method=check_method, as_content=False)
    elif kind is not None:
        number = log.DESCRIPTOR.fields_by_name[kind].number
        raise ServingError(grpc.StatusCode.UNIMPLEMENTED, f"Unsupported log_type for warmup: {number}")
