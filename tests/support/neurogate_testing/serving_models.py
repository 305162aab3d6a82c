"""The small SavedModels that the recorded transcripts of TensorFlow Serving were made with.

Every result is a dyadic rational, so float32 results are exact on any machine. `build_store(folder)` makes,
with v the number in the name:

- `toy/1..3`: seven signatures (see `ToyModel`), one for every kind of input and output.
- `fixed`, `nodefault`: x float32[2,4] -> y = 2x, as `serving_default` and as `other` only.
- `est`: takes serialized examples: `serving_default` classifies, `r` regresses.
- `broken/...`: versions copied half-way or damaged. `warm/...`: versions with a warm-up file, good and bad.
- `slowload/1..3`: versions whose warm-up takes seconds.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"

_CASTS = {
    "f64": tf.float64,
    "f16": tf.float16,
    "bf16": tf.bfloat16,
    "i8": tf.int8,
    "u8": tf.uint8,
    "i16": tf.int16,
    "u16": tf.uint16,
    "i32": tf.int32,
    "u32": tf.uint32,
    "i64": tf.int64,
    "u64": tf.uint64,
    "c64": tf.complex64,
}


def _signature(**inputs: tuple[list[int | None], tf.DType]) -> Callable[[Any], Any]:
    specs = [tf.TensorSpec(shape, dtype, name) for name, (shape, dtype) in inputs.items()]
    return tf.function(input_signature=specs)


class ToyModel(tf.Module):
    """One variable, and a signature for every kind of call."""

    def __init__(self, version: int) -> None:
        super().__init__(name="toy")
        self.version = version
        # The recorded error of a version without variables names this variable.
        self.weight = tf.Variable(float(version), name="w")

    @_signature(images=([None, 4, 4, 3], tf.uint8))
    def serve(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        pixels = tf.cast(images, tf.float32)
        rows = tf.shape(pixels)[0]
        classes = tf.range(4, dtype=tf.float32)
        row = tf.constant([[self.version, 1.0, 2.0, 13.0 - self.version]]) / 16.0
        total = tf.reduce_sum(pixels, [1, 2, 3])[:, None] / 64.0
        cells = pixels[:, ::2, ::2, 0][..., None] / 256.0
        return {
            "probabilities": tf.tile(row, [rows, 1]),
            "scores": self.weight * 100.0 + classes[None] + total,
            "map": self.weight + cells + 8.0 * classes,
        }

    @_signature()
    def describe(self) -> dict[str, tf.Tensor]:
        return {"manifest": tf.constant(f"manifest of toy version {self.version}")}

    @_signature(a=([None], tf.float32), b=([None], tf.int64))
    def two(self, a: tf.Tensor, b: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"sum": a + tf.cast(b, tf.float32) * self.weight, "tag": b * self.version}

    @_signature(x=([None], tf.float32))
    def types(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        casts = {name: tf.cast(x, dtype) for name, dtype in _CASTS.items()}
        return {**casts, "f32": x * 1.0, "b": x > 1.0, "s": tf.strings.as_string(x, precision=1)}

    @_signature(steps=([None], tf.int32))
    def slow(self, steps: tf.Tensor) -> dict[str, tf.Tensor]:
        (count,) = tf.while_loop(
            lambda turn: turn < steps[0], lambda turn: (turn + 1,), (tf.constant(0),), parallel_iterations=1
        )
        return {"done": tf.fill(tf.shape(steps), count)}

    @_signature(x=([None, None], tf.float32))
    def echo(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": x + 0.0 * self.weight}

    @_signature(i=([None], tf.int64))
    def div(self, i: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"q": 12 // i}

    def save(self, folder: Path) -> None:
        names = ("describe", "two", "types", "slow", "echo", "div")
        signatures = {name: getattr(self, name) for name in names}
        tf.saved_model.save(self, str(folder), signatures={**signatures, "serving_default": self.serve})


class FixedModel(tf.Module):
    """A signature that declares a batch of two."""

    @_signature(x=([2, 4], tf.float32))
    def double(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": x * 2.0}


class EstimatorModel(tf.Module):
    """Signatures that take serialized examples with a number `a`."""

    @_signature(inputs=([None], tf.string))
    def classify(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        number = _feature(inputs)
        classes = tf.tile([[b"p", b"n"]], [tf.shape(number)[0], 1])
        return {"scores": tf.concat([number, 1.0 - number], 1), "classes": classes}

    @_signature(inputs=([None], tf.string))
    def regress(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"outputs": _feature(inputs) * 4.0}


def _feature(examples: tf.Tensor) -> tf.Tensor:
    return tf.io.parse_example(examples, {"a": tf.io.FixedLenFeature([1], tf.float32)})["a"]


def warmup_record(signature: str, inputs: Mapping[str, Any], *, model: str = "toy") -> bytes:
    """A serialized PredictionLog with one Predict request."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
    return bytes(log.SerializeToString())


def write_warmup(version_dir: Path, records: list[bytes]) -> Path:
    """Gives a version a warm-up file."""
    file = version_dir / WARMUP_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(file)) as writer:
        for record in records:
            writer.write(record)
    return file


def build_store(store: Path) -> None:
    """Writes all models into a folder."""
    for version in (1, 2, 3):
        ToyModel(version).save(store / f"toy/{version}")
    fixed, estimator = FixedModel(), EstimatorModel()
    tf.saved_model.save(fixed, str(store / "fixed"), signatures={"serving_default": fixed.double})
    tf.saved_model.save(fixed, str(store / "nodefault"), signatures={"other": fixed.double})
    signatures = {"serving_default": estimator.classify, "r": estimator.regress}
    tf.saved_model.save(estimator, str(store / "est"), signatures=signatures)
    _build_broken(store)
    _build_warm(store)


def _copy(store: Path, name: str, version: int = 1) -> Path:
    return Path(shutil.copytree(store / f"toy/{version}", store / name))


def _build_broken(store: Path) -> None:
    (store / "broken/empty").mkdir(parents=True)
    (_copy(store, "broken/no_pb") / "saved_model.pb").unlink()
    shutil.rmtree(_copy(store, "broken/no_variables") / "variables")
    (_copy(store, "broken/bad_pb") / "saved_model.pb").write_bytes(b"\x0a\xff\xff")
    for shard in (_copy(store, "broken/cut_variables") / "variables").glob("*.data-*"):
        shard.write_bytes(b"")


def _build_warm(store: Path) -> None:
    image = {"images": tf.zeros([1, 4, 4, 3], tf.uint8)}
    good = warmup_record("serving_default", image)
    records = {
        "ok": [good],
        "wrong_name": [warmup_record("serving_default", image, model="nosuch")],
        "bad_input": [warmup_record("serving_default", {"imgs": image["images"]})],
        "bad_signature": [warmup_record("nosuch", image)],
        "empty_file": [],
        "garbage": [],
        "bad_proto": [b"\x0a\x7fxyz"],
        "bad_proto_bytes": [b"\xff\xff\xff"],
        "truncated": [good, good],
    }
    for name, content in records.items():
        write_warmup(_copy(store, f"warm/{name}"), content)
    (store / "warm/garbage" / WARMUP_FILE).write_bytes(b"this is not a TFRecord file at all")
    cut = store / "warm/truncated" / WARMUP_FILE
    cut.write_bytes(cut.read_bytes()[:-9])
    for version in (1, 2, 3):
        write_warmup(
            _copy(store, f"slowload/{version}", version),
            [warmup_record("slow", {"steps": tf.constant([600_000])})],
        )
