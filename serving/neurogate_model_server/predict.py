"""Predict requests: those of callers, and those that warm a version up before it serves."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import grpc
from google.protobuf.message import DecodeError
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from .errors import ServingError, failed_precondition, invalid_argument
from .servable import Servable
from .tensorflow_runtime import Array, read_records
from .tensors import decode_input, encode

DEFAULT_SIGNATURE = "serving_default"
PREDICT_METHOD = "tensorflow/serving/predict"
CLASSIFY_METHOD = "tensorflow/serving/classify"
REGRESS_METHOD = "tensorflow/serving/regress"
WARMUP_FILE = Path("assets.extra/tf_serving_warmup_requests")
_MAX_RECORDS = 1000

_log = logging.getLogger(__name__)


def predict(
    servable: Servable,
    request: predict_pb2.PredictRequest,
    *,
    version: int | None,
    check_method: bool,
    as_content: bool,
    deadline: float | None = None,
) -> predict_pb2.PredictResponse:
    """Runs a Predict request on a loaded version.

    Args:
        servable: The version.
        request: Its model name is only echoed.
        version: Number to name in the response; None for none.
        check_method: Whether the signature's method name must be a known one.
        as_content: Whether results go out as packed bytes instead of typed fields.
        deadline: When the caller stops waiting, on the monotonic clock; None for never.

    Raises:
        ServingError: With the real server's code and text, checked in its order.
    """
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    signature = servable.signatures.get(name)
    if signature is None:
        raise failed_precondition(f'Serving signature key "{name}" not found.')
    if check_method and signature.method_name not in (PREDICT_METHOD, CLASSIFY_METHOD, REGRESS_METHOD):
        raise ServingError(
            grpc.StatusCode.INTERNAL,
            f"Expected prediction signature method_name to be one of {{{PREDICT_METHOD}, {CLASSIFY_METHOD}, "
            f"{REGRESS_METHOD}}}. Was: {signature.method_name}",
        )
    _check_number_of_inputs(signature, request)
    feeds = _inputs(signature, request.inputs)
    aliases = _outputs(signature, request.output_filter)
    results = servable.run(feeds, [signature.outputs[alias].name for alias in aliases], deadline=deadline)
    response = predict_pb2.PredictResponse()
    # What ran: never by label, and always with the signature's full name.
    response.model_spec.name = request.model_spec.name
    response.model_spec.signature_name = name
    if version is not None:
        response.model_spec.version.value = version
    for alias, result in zip(aliases, results, strict=True):
        encode(result, response.outputs[alias], as_content=as_content)
    return response


def _check_number_of_inputs(
    signature: meta_graph_pb2.SignatureDef, request: predict_pb2.PredictRequest
) -> None:
    sent, wanted = request.inputs, signature.inputs
    if len(sent) == len(wanted) or (len(sent) < len(wanted) and signature.defaults):
        return
    raise invalid_argument(
        f"input size does not match signature: {len(sent)}!={len(wanted)} "
        f"len({_names(sent)}) != len({_names(wanted)}). Sent extra: {_names(set(sent) - set(wanted))}. "
        f"Missing but required: {_names(set(wanted) - set(sent))}."
    )


def _inputs(
    signature: meta_graph_pb2.SignatureDef, sent: Mapping[str, tensor_pb2.TensorProto]
) -> list[tuple[str, Array]]:
    feeds = []
    for alias in sorted(signature.inputs):
        feed_name = signature.inputs[alias].name
        if alias in sent:
            feeds.append((feed_name, decode_input(alias, sent[alias])))
        elif alias in signature.defaults:
            feeds.append((feed_name, decode_input(alias, signature.defaults[alias])))
        else:
            raise invalid_argument(
                f"Signature input alias: {alias}(feed name: {feed_name}) not found in request and no "
                f"default value provided. Inputs expected to be in the request {_names(sent)}, or default "
                "input alias set: " + ",".join(sorted(signature.defaults))
            )
    return feeds


def _outputs(signature: meta_graph_pb2.SignatureDef, wanted: Sequence[str]) -> list[str]:
    seen: set[str] = set()
    for alias in wanted:
        if alias not in signature.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the set "
                f"{_names(signature.outputs)}."
            )
        if alias in seen:
            raise invalid_argument(f"duplicate output tensor alias: {alias}")
        seen.add(alias)
    return list(wanted) or sorted(signature.outputs)


def _names(names: Iterable[str]) -> str:
    return f"{{{','.join(sorted(names))}}}"


# --- warm-up ---------------------------------------------------------------------------------


def warm_up(servable: Servable, version_dir: Path, *, iterations: int = 1, check_method: bool = False) -> int:
    """Runs every request in the version's warm-up file, if it has one.

    Returns:
        The number of records; each ran `iterations` times.

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
    try:
        yield from read_records(file)
    except ServingError as error:
        if error.code is grpc.StatusCode.DATA_LOSS:
            error = ServingError(
                error.code, f"{error.message}. Please verify your warmup data is in TFRecord format."
            )
        raise error from None


def _run(servable: Servable, log: prediction_log_pb2.PredictionLog, *, check_method: bool) -> None:
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        predict(servable, log.predict_log.request, version=None, check_method=check_method, as_content=False)
    elif kind is not None:
        number = log.DESCRIPTOR.fields_by_name[kind].number
        raise ServingError(grpc.StatusCode.UNIMPLEMENTED, f"Unsupported log_type for warmup: {number}")
