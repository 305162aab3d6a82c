"""Makes the calls of a transcript and puts the answers into the form that the record has."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf import json_format
from grpc_health.v1 import health_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

Json = Any

_PREDICTION = "/tensorflow.serving.PredictionService/"
_MODEL = "/tensorflow.serving.ModelService/"
_HEALTH = "/grpc.health.v1.Health/"
_METHODS = {
    "Predict": (_PREDICTION, predict_pb2.PredictRequest, predict_pb2.PredictResponse),
    "Classify": (
        _PREDICTION,
        classification_pb2.ClassificationRequest,
        classification_pb2.ClassificationResponse,
    ),
    "Regress": (_PREDICTION, regression_pb2.RegressionRequest, regression_pb2.RegressionResponse),
    "MultiInference": (
        _PREDICTION,
        inference_pb2.MultiInferenceRequest,
        inference_pb2.MultiInferenceResponse,
    ),
    "GetModelMetadata": (
        _PREDICTION,
        get_model_metadata_pb2.GetModelMetadataRequest,
        get_model_metadata_pb2.GetModelMetadataResponse,
    ),
    "GetModelStatus": (
        _MODEL,
        get_model_status_pb2.GetModelStatusRequest,
        get_model_status_pb2.GetModelStatusResponse,
    ),
    "HandleReloadConfigRequest": (
        _MODEL,
        model_management_pb2.ReloadConfigRequest,
        model_management_pb2.ReloadConfigResponse,
    ),
    "Check": (_HEALTH, health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse),
    "Watch": (_HEALTH, health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse),
}

_LONG_LIST = 64
_LONG_TEXT = 2000


def open_channel(address: str, *options: tuple[str, Any]) -> grpc.Channel:
    """A channel of its own connection, with limits that are in nobody's way."""
    defaults = {
        "grpc.max_receive_message_length": -1,
        "grpc.max_send_message_length": -1,
        "grpc.max_metadata_size": 65536,
        "grpc.use_local_subchannel_pool": 1,
        "grpc.initial_reconnect_backoff_ms": 50,
        "grpc.max_reconnect_backoff_ms": 200,
    }
    return grpc.insecure_channel(address, options=list({**defaults, **dict(options)}.items()))


class Caller:
    """Makes recorded calls.

    Args:
        address: The server's.
        root: The scenario's folder, which the record calls $ROOT.
    """

    def __init__(self, address: str, root: str) -> None:
        self.address = address
        self.root = root
        self._channel = open_channel(address)

    def close(self) -> None:
        self._channel.close()

    def wait_until_connected(self) -> None:
        grpc.channel_ready_future(self._channel).result(60)

    def call(self, step: Json) -> Json:
        """The outcome of one call: code, message, and response or stream."""
        options = step.get("options", {})
        channel = self._channel
        own = dict(options.get("channel", {}))
        if "max_receive_bytes" in options:
            own["grpc.max_receive_message_length"] = options["max_receive_bytes"]
        if own:
            channel = open_channel(self.address, *own.items())
        try:
            return self._call(channel, step, options)
        except grpc.RpcError as error:
            return {"code": error.code().name, "message": self.neutral(error.details() or "")}
        finally:
            if channel is not self._channel:
                channel.close()

    def _call(self, channel: grpc.Channel, step: Json, options: Json) -> Json:
        path, serialize, deserialize, request, view = self._prepare(step)
        how = {
            "timeout": options.get("timeout_ms", 120_000) / 1000,
            "metadata": [(key, _unfold(value)) for key, value in options.get("metadata", {}).items()],
        }
        if options.get("stream"):
            received: list[Json] = []
            try:
                received.extend(
                    view(message)
                    for message in channel.unary_stream(path, serialize, deserialize)(request, **how)
                )
            except grpc.RpcError as error:
                return {
                    "code": error.code().name,
                    "message": self.neutral(error.details()),
                    "stream": received,
                }
            return {"code": "OK", "message": "", "stream": received}
        method = channel.unary_unary(path, serialize, deserialize)
        if "cancel_after_ms" in options:
            future = method.future(request, **how)
            time.sleep(options["cancel_after_ms"] / 1000)
            future.cancel()
            try:
                future.result()
            except grpc.FutureCancelledError:
                return {"code": future.code().name, "message": future.details()}
            return {"code": "OK", "message": ""}
        return {"code": "OK", "message": "", "response": view(method(request, **how))}

    def _prepare(self, step: Json) -> tuple[str, Any, Any, Any, Callable[[Any], Json]]:
        if "raw_method" in step:
            data = base64.b64decode(step.get("request_b64", ""))
            return step["raw_method"], None, None, data, lambda message: base64.b64encode(message).decode()
        prefix, request_class, response_class = _METHODS[step["method"]]
        request = json_format.ParseDict(_unfold(self.concrete(step.get("request", {}))), request_class())
        return (
            prefix + step["method"],
            request_class.SerializeToString,
            response_class.FromString,
            request,
            self._view,
        )

    def _view(self, message: Any) -> Json:
        as_json = json_format.MessageToDict(message, preserving_proto_field_name=True)
        return _fold(self.neutral(as_json))

    def concrete(self, value: Json) -> Json:
        """Recorded JSON with this run's folder in it."""
        return _map_text(value, lambda text: text.replace("$ROOT", self.root))

    def neutral(self, value: Json) -> Json:
        """JSON of this run without what differs from run to run."""

        def replace(text: str) -> str:
            text = text.replace(self.root, "$ROOT").replace(self.address, "$ADDRESS")
            return re.sub(r"(__inference_\w+?_)\d+", r"\1N", text)

        return _map_text(value, replace)


def brief(step: Json, outcome: Json) -> str:
    """One line that says what came back, as `wait` and `trace` steps compare it."""
    if outcome["code"] != "OK":
        return str(outcome["code"])
    response = outcome["response"]
    if step.get("method") == "GetModelStatus":
        states = (
            f"{status.get('version', '0')}:{status.get('state', 'UNKNOWN')}"
            for status in response.get("model_version_status", [])
        )
        return "OK " + " ".join(states)
    if step.get("method") == "Predict":
        return f"OK v{response['model_spec'].get('version', '0')}"
    if step.get("method") == "Check":
        return f"OK {response.get('status', 'UNKNOWN')}"
    return "OK"


def _map_text(value: Json, change: Callable[[str], str]) -> Json:
    if isinstance(value, dict):
        return {key: _map_text(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_map_text(item, change) for item in value]
    return change(value) if isinstance(value, str) else value


def _unfold(value: Json) -> Json:
    """Writes the record's short forms out."""
    if isinstance(value, list):
        return [_unfold(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "$repeat" in value:
        return value["$repeat"] * value["times"]
    if "$repeat_bytes" in value:
        return base64.b64encode(base64.b64decode(value["$repeat_bytes"]) * value["times"]).decode()
    if "$repeat_text" in value:
        return value["$repeat_text"] * value["times"]
    return {key: _unfold(item) for key, item in value.items()}


def _fold(value: Json) -> Json:
    """Long lists and texts in the record's short forms."""
    if isinstance(value, dict):
        return {key: _fold(item) for key, item in value.items()}
    if isinstance(value, list) and len(value) > _LONG_LIST:
        for period in (1, 2, 4, 16):
            if len(value) % period == 0 and value == value[:period] * (len(value) // period):
                return {"$repeat": value[:period], "times": len(value) // period}
        return {"$count": len(value), "$sha256": _sha256(json.dumps(value))}
    if isinstance(value, list):
        return [_fold(item) for item in value]
    if isinstance(value, str) and len(value) > _LONG_TEXT:
        return {"$chars": len(value), "$sha256": _sha256(value)}
    return value


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
