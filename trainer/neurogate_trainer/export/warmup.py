"""Warm-up requests: what TensorFlow Serving sends a version to itself before it calls it available."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

WARMUP_FILE: Final = "assets.extra/tf_serving_warmup_requests"
_BATCHES: Final = (1, 4, 16)


# What a gateway asks for; a session prepares the part of the graph that each of them needs.
_CLASSIFY: Final = ("probabilities", "ood_score")
_EXPLAIN: Final = (*_CLASSIFY, "gradcam")


def write_warmup_requests(version_dir: Path, model: str, images: npt.NDArray[np.uint8]) -> None:
    """Writes requests of both signatures, of single images and of small batches.

    `images`: uint8 [N, H, W, 3], at least one; repeated where a batch is larger.
    """
    path = version_dir / WARMUP_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for size in _BATCHES:
            batch = images[np.arange(size) % len(images)]
            writer.write(_log(model, "serving_default", "images", batch, _CLASSIFY))
        writer.write(_log(model, "serving_default", "images", images[:1], _EXPLAIN))
        writer.write(_log(model, "describe", "index", np.zeros(1, np.int32)))


def _log(
    model: str, signature: str, name: str, value: npt.NDArray[np.generic], outputs: Sequence[str] = ()
) -> bytes:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    request.output_filter.extend(outputs)
    tensor = request.inputs[name]
    tensor.dtype = tf.as_dtype(value.dtype).as_datatype_enum
    for side in value.shape:
        tensor.tensor_shape.dim.add().size = side
    tensor.tensor_content = value.tobytes()
    log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
    return bytes(log.SerializeToString(deterministic=True))
