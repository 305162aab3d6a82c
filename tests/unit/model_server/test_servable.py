from __future__ import annotations

import shutil
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from neurogate_model_server import servable as servable_module
from neurogate_model_server.errors import MESSAGE_LIMIT, ServingError
from neurogate_model_server.predict import WARMUP_FILE, predict, warm_up
from neurogate_model_server.servable import Servable, load_servable
from neurogate_model_server.services import version_status
from neurogate_model_server.states import State, VersionState
from neurogate_model_server.wire import is_cut_short, submessages
from neurogate_testing.serving_models import warmup_record, write_warmup
from tensorflow.core.framework import graph_pb2
from tensorflow.core.protobuf import config_pb2, saved_model_pb2
from tensorflow_serving.apis import get_model_status_pb2, predict_pb2, prediction_log_pb2


def _load(path: Path, tags: tuple[str, ...] = ("serve",)) -> Servable:
    return load_servable(path, tags=tags, config=config_pb2.ConfigProto())


@pytest.fixture(scope="module")
def toy(serving_store: Path) -> Any:
    servable = _load(serving_store / "toy/1")
    yield servable
    servable.close()


def _predict(servable: Servable, signature: str, *, as_content: bool = False, **inputs: Any) -> Any:
    import tensorflow as tf

    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "toy", signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return predict(servable, request, version=4, check_method=False, as_content=as_content)


def test_packed_bytes_carry_every_type(toy: Servable) -> None:
    response = _predict(toy, "types", as_content=True, x=np.float32([0, 1.5]))
    outputs = {name: proto.tensor_content for name, proto in response.outputs.items()}
    assert outputs["i16"] == np.int16([0, 1]).tobytes()
    assert outputs["f16"] == np.float16([0, 1.5]).tobytes()
    assert outputs["s"] == b"\x03\x03" + b"0.0" + b"1.5"
    assert not response.outputs["f32"].float_val


def test_a_deadline_ends_a_long_run(toy: Servable) -> None:
    steps = ("slow_steps:0", np.int32([2**31 - 1]))
    with pytest.raises(ServingError) as caught:
        toy.run([steps], [toy.signatures["slow"].outputs["done"].name], deadline=time.monotonic() + 0.05)
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_runs_leave_other_threads_running(toy: Servable) -> None:
    ticks = 0
    done = threading.Event()

    def run() -> None:
        toy.run([("slow_steps:0", np.int32([100_000]))], [toy.signatures["slow"].outputs["done"].name])
        done.set()

    runner = threading.Thread(target=run)
    runner.start()
    while not done.is_set():
        ticks += 1
    runner.join()
    # A run that kept the interpreter to itself would leave hardly any turns.
    assert ticks > 1000


def test_a_tensor_name_that_the_graph_has_not_is_reported(toy: Servable) -> None:
    with pytest.raises(ServingError, match="FeedInputs: unable to find feed output nosuch:0"):
        toy.run([("nosuch:0", np.zeros(1))], [])
    with pytest.raises(ServingError, match="FetchOutputs node nosuch:0: not found"):
        toy.run([], ["nosuch:0"])


def test_variables_that_are_cut_short_do_not_load(serving_store: Path) -> None:
    with pytest.raises(ServingError, match="Read less bytes than requested") as caught:
        _load(serving_store / "broken/cut_variables")
    assert caught.value.code is grpc.StatusCode.OUT_OF_RANGE


def test_a_file_that_is_no_model_is_damage_rather_than_an_early_end(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"no protobuf at all")
    with pytest.raises(ServingError, match=r"Can't parse .*saved_model\.pb as binary proto") as caught:
        _load(tmp_path)
    assert caught.value.code is grpc.StatusCode.DATA_LOSS


def test_other_tags_are_not_found(serving_store: Path) -> None:
    with pytest.raises(ServingError, match=r"matching supplied tags: \{ gpu serve \}"):
        _load(serving_store / "toy/1", ("serve", "gpu"))


def test_an_operation_that_is_not_known_is_an_error_of_the_version(
    serving_store: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(serving_store / "fixed", tmp_path / "1"))
    model = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    model.meta_graphs[0].graph_def.node.add(name="odd", op="NoSuchOperation")
    (folder / "saved_model.pb").write_bytes(model.SerializeToString())
    with pytest.raises(ServingError, match="NoSuchOperation"):
        _load(folder)


def test_the_file_is_let_go_before_variables_are_read(
    serving_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Content(bytearray):
        """Bytes that a weak reference can watch."""

    contents: list[weakref.ref[Content]] = []
    read, initialise = servable_module._read, servable_module._initialise

    def reading(path: Path) -> Any:
        content = Content(read(path))
        contents.append(weakref.ref(content))
        return content

    def initialising(*arguments: Any) -> None:
        assert [content() for content in contents] == [None]
        initialise(*arguments)

    monkeypatch.setattr(servable_module, "_read", reading)
    monkeypatch.setattr(servable_module, "_initialise", initialising)
    _load(serving_store / "toy/1").close()
    assert contents


# --- warm-up ---------------------------------------------------------------------------------

TAIL = "Please verify your warmup data is in TFRecord format."


@pytest.mark.parametrize(("name", "count"), [("ok", 1), ("wrong_name", 1), ("empty_file", 0)])
def test_good_warmup_files_run(serving_store: Path, toy: Servable, name: str, count: int) -> None:
    assert warm_up(toy, serving_store / "warm" / name) == count


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("garbage", "DATA_LOSS", f"corrupted record at 0 (Is this even a TFRecord file?). {TAIL}"),
        (
            "bad_input",
            "INVALID_ARGUMENT",
            "Signature input alias: images(feed name: serving_default_images:0)",
        ),
        ("bad_signature", "FAILED_PRECONDITION", 'Serving signature key "nosuch" not found.'),
        ("bad_proto", "INVALID_ARGUMENT", "Failed to parse warmup record: \n\x7fxyz from "),
        ("bad_proto_bytes", "INVALID_ARGUMENT", "Failed to parse warmup record: \udcff\udcff\udcff from "),
    ],
)
def test_bad_warmup_files_keep_a_version_from_serving(
    serving_store: Path, toy: Servable, name: str, code: str, message: str
) -> None:
    with pytest.raises(ServingError) as caught:
        warm_up(toy, serving_store / "warm" / name)
    assert caught.value.code.name == code
    assert caught.value.message.startswith(message)


def test_a_warmup_file_that_is_cut_short_says_where(serving_store: Path, toy: Servable) -> None:
    size = (serving_store / "warm/ok" / WARMUP_FILE).stat().st_size
    with pytest.raises(ServingError) as caught:
        warm_up(toy, serving_store / "warm/truncated")
    assert caught.value.code is grpc.StatusCode.DATA_LOSS
    assert caught.value.message == (
        f"truncated record at {size}' failed with Read less bytes than requested. {TAIL}"
    )


def test_warmup_files_have_a_limit(serving_store: Path, toy: Servable, tmp_path: Path) -> None:
    file = write_warmup(tmp_path, [warmup_record("describe", {})] * 1001)
    with pytest.raises(ServingError) as caught:
        warm_up(toy, tmp_path)
    assert caught.value.message == f"Number of warmup records exceeds the maximum (1000) at {file}"


def test_session_runs_are_not_replayed(toy: Servable, tmp_path: Path) -> None:
    log = prediction_log_pb2.PredictionLog(session_run_log=prediction_log_pb2.SessionRunLog())
    write_warmup(tmp_path, [log.SerializeToString()])
    with pytest.raises(ServingError, match="Unsupported log_type for warmup: 5"):
        warm_up(toy, tmp_path)


# --- texts on the wire -----------------------------------------------------------------------


def test_a_version_status_is_what_the_stubs_read() -> None:
    error = ServingError(grpc.StatusCode.NOT_FOUND, "x" * 300)
    wire = version_status(7, VersionState(State.END, error)) + version_status(8, VersionState(State.LOADING))
    first, second = get_model_status_pb2.GetModelStatusResponse.FromString(wire).model_version_status
    assert (first.version, first.state) == (7, 50)
    assert (first.status.error_code, first.status.error_message) == (5, "x" * 300)
    assert (second.version, second.state, second.status.error_code) == (8, 20, 0)
    assert second.HasField("status")
    raw = ServingError(grpc.StatusCode.DATA_LOSS, b"raw \xff".decode("utf-8", "surrogateescape"))
    assert version_status(1, VersionState(State.END, raw)).endswith(b"\x08\x0f\x12\x05raw \xff")


def test_long_texts_are_cut() -> None:
    assert ServingError(grpc.StatusCode.UNKNOWN, "é" * MESSAGE_LIMIT).details == (
        ("é" * (MESSAGE_LIMIT // 2)).encode() + b"...TRUNCATED"
    )
    assert ServingError(grpc.StatusCode.UNKNOWN, "x" * MESSAGE_LIMIT).details == b"x" * MESSAGE_LIMIT


@pytest.mark.parametrize(
    ("data", "cut"),
    [
        (b"", False), (b"\x0a\xff\xff", True), (b"\x0a\x05abc", True), (b"\x08", True),
        (b"\x0d\x01\x02", True),
        (b"\x09\x01", True), (b"\x80", True), (b"\x0f", False), (b"\x00", False),
        (b"\x08\x01", False), (b"\xff" * 11, False),
    ],
)  # fmt: skip
def test_an_early_end_is_told_from_damage(data: bytes, cut: bool) -> None:
    assert is_cut_short(data) == cut


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", []),
        (b"\x08\x01\x12\x02ab\x11\0\0\0\0\0\0\0\0\x12\x00\x1d\0\0\0\0\x1a\x01x\x12\x01c", [b"ab", b"", b"c"]),
    ],
)
def test_submessages_are_those_of_one_field_in_order(data: bytes, found: list[bytes]) -> None:
    assert [bytes(part) for part in submessages(memoryview(data), 2)] == found


def test_large_functions_are_imported_one_by_one(
    serving_store: Path, monkeypatch: pytest.MonkeyPatch, toy: Servable
) -> None:
    monkeypatch.setattr(servable_module, "_LARGE_BYTES", 1)
    data = (serving_store / "toy/1/saved_model.pb").read_bytes()
    meta_graph = saved_model_pb2.SavedModel.FromString(data).meta_graphs[0]
    functions, rest = servable_module._split_graph(meta_graph, data, 0)
    assert functions
    assert not graph_pb2.GraphDef.FromString(rest).library.function
    servable = _load(serving_store / "toy/1")
    try:
        inputs = {"a": np.float32([1, 2]), "b": np.int64([3, 4])}
        assert _predict(servable, "two", **inputs) == _predict(toy, "two", **inputs)
    finally:
        servable.close()
