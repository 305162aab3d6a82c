"""Exports one network twice: as the project does it, published with a manifest, and as Keras does it by
itself.

Speed does not depend on the weights, but checks under load do: the head is fitted so that each picture has a
class and
a probability of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from neurogate.v1 import manifest_pb2
from neurogate_core.preprocessing import transform
from neurogate_core.repository import ModelRepository
from neurogate_trainer.config import TrainConfig
from neurogate_trainer.evaluation.ood import CANDIDATES, fit_distance, taps
from neurogate_trainer.evaluation.saved_model import SavedModel
from neurogate_trainer.export.serving_graph import save_serving_graph
from neurogate_trainer.export.warmup import write_warmup_requests
from neurogate_trainer.model import network as networks
from neurogate_trainer.model.weights import WeightsError, find_initial_weights, load_into
from neurogate_trainer.progress import Reporter

from neurogate_bench.null_backend import CLASSES, manifest_of


def build(side: int) -> keras.Model:
    """The project's network, on ImageNet's weights where they can be had."""
    network = networks.build_model(TrainConfig(image_size=side), len(CLASSES))
    try:
        weights = find_initial_weights("offline", allow_random=False, reporter=Reporter())
    except WeightsError:
        return network
    load_into(networks.backbone_of(network), weights)
    return network


def fit_head(network: keras.Model, pixels: np.ndarray) -> None:
    """Sets the last layer so that picture i is of class i modulo 4, each with another probability."""
    hidden = keras.Model(network.inputs, network.get_layer(networks.HIDDEN).output)
    features = np.asarray(hidden(pixels.astype(np.float32), training=False), np.float64)
    wanted = np.zeros((len(pixels), len(CLASSES)))
    wanted[np.arange(len(pixels)), np.arange(len(pixels)) % len(CLASSES)] = 2.0 + 0.2 * np.arange(len(pixels))
    centre = features.mean(axis=0)
    kernel = np.linalg.pinv(features - centre, rcond=1e-6) @ (wanted - wanted.mean(axis=0))
    bias = wanted.mean(axis=0) - centre @ kernel
    network.get_layer(networks.LOGITS).set_weights([kernel.astype(np.float32), bias.astype(np.float32)])


def main() -> None:
    """FOLDER MODEL SIDE IMAGE…"""
    folder, name, side = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    images = [Path(path).read_bytes() for path in sys.argv[4:]]
    spec = transform.default_spec(side, side)
    pixels = np.stack([transform.transform(image, spec) for image in images])
    network = build(side)
    fit_head(network, pixels)
    # The candidate with the most to compute: a bench on a cheaper score would flatter.
    method = max(CANDIDATES, key=lambda candidate: taps(network, candidate).shape[-1])
    tapped = keras.Model(network.inputs, taps(network, method))
    random = np.random.default_rng(0)
    many = np.repeat(pixels, 8, axis=0) + random.normal(scale=4, size=(8 * len(pixels), side, side, 3))
    features = np.asarray(tapped.predict(many.astype(np.float32), batch_size=8, verbose=0))
    distance = fit_distance(method, features, np.arange(len(many)) % len(CLASSES))

    repository = ModelRepository(folder / "models")
    with repository.staging(name, "bench") as staged:
        save_serving_graph(network, staged, temperature=1.0, distance=distance)
        write_warmup_requests(staged, name, pixels)
        served = SavedModel(staged)
        goldens = [
            manifest_pb2.Golden(
                name=f"slice-{number}",
                image=image,
                pixels_sha256=transform.pixels_digest(pixels[number]),
                probabilities=served(pixels[number : number + 1])["probabilities"][0].tolist(),
            )
            for number, image in enumerate(images[: len(CLASSES)])
        ]
        repository.publish(name, staged, manifest_of(spec, goldens))

    plain = keras.Model(network.inputs, keras.layers.Softmax(name="probabilities")(network.output))
    plain.save(folder / "network.keras")
    plain.export(folder / "plain" / "1", verbose=False)
    loaded: Any = tf.saved_model.load(str(folder / "plain" / "1"))
    (plain_input,) = loaded.signatures["serving_default"].structured_input_signature[1]
    (folder / "plain_input").write_text(plain_input)


if __name__ == "__main__":
    main()
