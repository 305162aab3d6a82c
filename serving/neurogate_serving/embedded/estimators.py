"""Classify, Regress and MultiInference: signatures that take serialized `tf.Example`s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import grpc
import numpy as np
from google.protobuf import text_format
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.python.framework import dtypes
from tensorflow_serving.apis import classification_pb2, inference_pb2, input_pb2, model_pb2, regression_pb2

from .caller import PATIENT, Caller
from .errors import ServingError, invalid_argument
from .predict import CLASSIFY_METHOD, DEFAULT_SIGNATURE, REGRESS_METHOD, set_model_spec
from .servable import Runner
from .tensors import Array

SignatureDef: TypeAlias = meta_graph_pb2.SignatureDef


def classify(
    runner: Runner,
    request: classification_pb2.ClassificationRequest,
    *,
    version: int | None,
    check_method: bool,
    caller: Caller = PATIENT,
) -> classification_pb2.ClassificationResponse:
    """Runs a Classify request on a loaded version; raises `ServingError`. Arguments as in `predict`."""
    signature = _signature(runner, request.model_spec)
    fetches = _classify_outputs(signature, check_method=check_method)
    count, results = _run(runner, request.input, [signature.inputs["inputs"].name], fetches, caller)
    response = classification_pb2.ClassificationResponse()
    set_model_spec(response.model_spec, request.model_spec.name, request.model_spec.signature_name, version)
    _write_classifications(signature, count, results, response.result)
    return response


def regress(
    runner: Runner,
    request: regression_pb2.RegressionRequest,
    *,
    version: int | None,
    check_method: bool,
    caller: Caller = PATIENT,
) -> regression_pb2.RegressionResponse:
    """Runs a Regress request on a loaded version; raises `ServingError`. Arguments as in `predict`."""
    signature = _signature(runner, request.model_spec)
    fetches = _regress_outputs(signature, check_method=check_method)
    count, results = _run(runner, request.input, [signature.inputs["inputs"].name], fetches, caller)
    response = regression_pb2.RegressionResponse()
    set_model_spec(response.model_spec, request.model_spec.name, request.model_spec.signature_name, version)
    _write_regressions(signature, count, results, response.result)
    return response


def multi_inference(
    runner: Runner,
    request: inference_pb2.MultiInferenceRequest,
    *,
    version: int | None,
    check_method: bool,
    caller: Caller = PATIENT,
) -> inference_pb2.MultiInferenceResponse:
    """Runs several signatures on one input, in one run of the graph; raises `ServingError`."""
    signatures: dict[str, SignatureDef] = {}
    feeds: set[str] = set()
    fetches: set[str] = set()
    for task in request.tasks:
        name = _check_task(request.tasks[0].model_spec.name, task, signatures)
        signature = runner.signatures.get(name)
        if signature is None:
            raise invalid_argument(f"Requested signature not found in model graph: {name}")
        if task.method_name == CLASSIFY_METHOD:
            fetches.update(_classify_outputs(signature, check_method=check_method))
        elif task.method_name == REGRESS_METHOD:
            fetches.update(_regress_outputs(signature, check_method=check_method))
        else:
            message = f"Unsupported signature method_name: {task.method_name}"
            raise ServingError(grpc.StatusCode.UNIMPLEMENTED, message)
        feeds.add(signature.inputs["inputs"].name)
        signatures[name] = signature
    count, results = _run(runner, request.input, sorted(feeds), sorted(fetches), caller)
    response = inference_pb2.MultiInferenceResponse()
    for task in request.tasks:
        signature = signatures[task.model_spec.signature_name or DEFAULT_SIGNATURE]
        answer = response.results.add()
        if task.method_name == CLASSIFY_METHOD:
            _write_classifications(signature, count, results, answer.classification_result)
        else:
            _write_regressions(signature, count, results, answer.regression_result)
        set_model_spec(answer.model_spec, task.model_spec.name, task.model_spec.signature_name, version)
    return response


def _check_task(model_name: str, task: inference_pb2.InferenceTask, seen: Mapping[str, SignatureDef]) -> str:
    """The name of a task's signature, once it is clear that the task fits those before it."""
    if not task.model_spec.name:
        raise invalid_argument("Found ModelSpec with an empty model name.")
    if task.model_spec.name != model_name:
        raise invalid_argument("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
    name = str(task.model_spec.signature_name or DEFAULT_SIGNATURE)
    if name in seen:
        raise invalid_argument(f"Duplicate evaluation of signature: {name}")
    return name


def _signature(runner: Runner, spec: model_pb2.ModelSpec) -> SignatureDef:
    name = spec.signature_name or DEFAULT_SIGNATURE
    signature = runner.signatures.get(name)
    if signature is None:
        raise invalid_argument(f"No signature was found with the name: {name}")
    return signature


def _classify_outputs(signature: SignatureDef, *, check_method: bool) -> list[str]:
    """The tensors to fetch for a classification."""
    _check_method(signature, "classification", CLASSIFY_METHOD, check_method=check_method)
    if len(signature.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")
    if len(signature.outputs) not in (1, 2):
        raise invalid_argument(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    if "inputs" not in signature.inputs:
        raise invalid_argument(f"No classification inputs found in SignatureDef: {_text(signature)}")
    names = [signature.outputs[key].name for key in ("classes", "scores") if key in signature.outputs]
    if not names:
        raise invalid_argument(
            'Expected classification signature outputs to contain at least one of "classes" or "scores". '
            f"Signature was: {_text(signature)}"
        )
    return names


def _regress_outputs(signature: SignatureDef, *, check_method: bool) -> list[str]:
    """The tensor to fetch for a regression."""
    _check_method(signature, "regression", REGRESS_METHOD, check_method=check_method)
    if len(signature.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")
    if len(signature.outputs) != 1:
        raise invalid_argument("Expected one output Tensor.")
    if "inputs" not in signature.inputs:
        raise invalid_argument(f"No regression inputs found in SignatureDef: {_text(signature)}")
    if "outputs" not in signature.outputs:
        raise invalid_argument(f"No regression outputs found in SignatureDef: {_text(signature)}")
    return [signature.outputs["outputs"].name]


def _check_method(signature: SignatureDef, kind: str, method: str, *, check_method: bool) -> None:
    if check_method and signature.method_name != method:
        raise invalid_argument(
            f"Expected {kind} signature method_name to be {method}. Was: {signature.method_name}"
        )


def _text(signature: SignatureDef) -> str:
    return text_format.MessageToString(signature)


def _examples(message: input_pb2.Input) -> list[bytes]:
    kind = message.WhichOneof("kind")
    if kind == "example_list":
        return [example.SerializeToString() for example in message.example_list.examples]
    if kind == "example_list_with_context":
        # Serialized messages that follow each other parse as one, in which later fields win.
        context = message.example_list_with_context.context.SerializeToString()
        return [
            context + example.SerializeToString() for example in message.example_list_with_context.examples
        ]
    return []


def _run(
    runner: Runner,
    message: input_pb2.Input,
    feeds: Sequence[str],
    fetches: Sequence[str],
    caller: Caller,
) -> tuple[int, dict[str, Array]]:
    examples = _examples(message)
    if not examples:
        raise invalid_argument("Input is empty.")
    tensor = np.empty(len(examples), object)
    tensor[:] = examples
    results = runner.run([(feed, tensor) for feed in feeds], fetches, caller=caller)
    return len(examples), dict(zip(fetches, results, strict=True))


def _write_classifications(
    signature: SignatureDef,
    count: int,
    results: Mapping[str, Array],
    result: classification_pb2.ClassificationResult,
) -> None:
    classes = _matrix(signature, count, results, "classes", types_pb2.DT_STRING)
    scores = _matrix(signature, count, results, "scores", types_pb2.DT_FLOAT)
    if classes is not None and scores is not None and classes.shape[1] != scores.shape[1]:
        raise invalid_argument(
            "Tensors class and score should match in dim_size(1). Got "
            f"{classes.shape[1]} vs. {scores.shape[1]}"
        )
    for row in range(count):
        classification = result.classifications.add()
        for column in range(next(array.shape[1] for array in (classes, scores) if array is not None)):
            entry = classification.classes.add()
            if classes is not None:
                entry.label = classes[row, column].decode("utf-8", "replace")
            if scores is not None:
                entry.score = float(scores[row, column])


def _matrix(
    signature: SignatureDef, count: int, results: Mapping[str, Array], key: str, dtype: int
) -> Array | None:
    if key not in signature.outputs:
        return None
    array = results[signature.outputs[key].name]
    if array.ndim != 2:
        raise invalid_argument(f"Expected Tensor shape: [batch_size num_classes] but got {_shape(array)}")
    if _dtype(array) != dtype:
        raise invalid_argument(
            f"Expected {key} Tensor of {types_pb2.DataType.Name(dtype)}. "
            f"Got: {types_pb2.DataType.Name(_dtype(array))}"
        )
    if array.shape[0] != count:
        raise invalid_argument(f"Expected {key} output batch size of {count}. Got: {array.shape[0]}")
    return array


def _write_regressions(
    signature: SignatureDef, count: int, results: Mapping[str, Array], result: regression_pb2.RegressionResult
) -> None:
    array = results[signature.outputs["outputs"].name]
    if not (array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)):
        raise invalid_argument(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got "
            f"{_shape(array)}"
        )
    if array.shape[0] != count:
        raise invalid_argument(
            f"Input batch size did not match output batch size: {count} vs. {array.shape[0]}"
        )
    if _dtype(array) != types_pb2.DT_FLOAT:
        raise invalid_argument(
            f"Expected output Tensor of DT_FLOAT.  Got: {types_pb2.DataType.Name(_dtype(array))}"
        )
    for value in array.reshape(-1):
        result.regressions.add(value=float(value))


def _dtype(array: Array) -> int:
    return int(dtypes.as_dtype(array.dtype).as_datatype_enum)


def _shape(array: Array) -> str:
    return f"[{','.join(str(size) for size in array.shape)}]"
