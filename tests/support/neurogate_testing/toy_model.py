"""A real version with every signature, small and untrained, for tests that need real servers but no accuracy.

Run as a module, in a process of its own, so that the tests never import TensorFlow:

    python -m neurogate_testing.toy_model REPOSITORY
"""

from __future__ import annotations

import sys
from pathlib import Path

import tensorflow as tf
from neurogate.v1 import manifest_pb2
from neurogate_core.manifest import MANIFEST_FILE
from neurogate_core.preprocessing.transform import default_spec, pixels_digest, transform
from neurogate_core.repository import ModelRepository

from neurogate_testing import images

MODEL = "brain_tumor"
CLASSES = ("glioma", "meningioma", "notumor", "pituitary")
SIZE = 32


class ToyModel(tf.Module):
    """One convolution and one dense layer with fixed random weights; probabilities depend on the image."""

    def __init__(self, manifest_file: Path) -> None:
        super().__init__()
        random = tf.random.Generator.from_seed(7)
        self.kernel = tf.Variable(random.normal([5, 5, 3, 8]))
        self.dense = tf.Variable(random.normal([8, len(CLASSES)]))
        self.manifest = tf.saved_model.Asset(str(manifest_file))

    @tf.function(input_signature=[tf.TensorSpec([None, SIZE, SIZE, 3], tf.uint8, name="images")])
    def classify(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """`serving_default`."""
        features = tf.nn.relu(tf.nn.conv2d(tf.cast(images, tf.float32) / 127.5 - 1.0, self.kernel, 4, "SAME"))
        logits = tf.reduce_mean(features, [1, 2]) @ self.dense
        return {
            "probabilities": tf.nn.softmax(logits),
            "logits": logits,
            "gradcam": tf.nn.relu(tf.einsum("nhwk,kc->nhwc", features, self.dense)),
            "ood_score": tf.reduce_max(tf.abs(logits), axis=1),
        }

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, name="index")])
    def describe(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """`describe`."""
        return {"manifest": tf.fill(tf.shape(index), tf.io.read_file(self.manifest))}


def publish(root: Path) -> int:
    """Publishes the toy as the next version of `brain_tumor` and returns its number."""
    spec = default_spec(SIZE, SIZE)
    repository = ModelRepository(root)
    with repository.staging(MODEL, "toy") as staged:
        # The asset has to exist while the graph is traced; publishing writes the real one over its copy.
        placeholder = root / MANIFEST_FILE.rpartition("/")[2]
        placeholder.write_bytes(b"placeholder")
        module = ToyModel(placeholder)
        signatures = {"serving_default": module.classify, "describe": module.describe}
        tf.saved_model.save(module, str(staged), signatures=signatures)
        placeholder.unlink()
        encoded = [images.brain_slice(100 + number, container="PNG") for number in range(len(CLASSES))]
        pixels = [transform(data, spec) for data in encoded]
        probabilities = module.classify(tf.constant(pixels, tf.uint8))["probabilities"].numpy()
        manifest = manifest_pb2.ModelManifest(
            classes=[
                manifest_pb2.ModelClass(index=index, id=name, display_name=name.capitalize())
                for index, name in enumerate(CLASSES)
            ],
            transform=spec,
            calibration=manifest_pb2.Calibration(temperature=1),
            goldens=[
                manifest_pb2.Golden(
                    name=f"{name}-0",
                    image=encoded[index],
                    pixels_sha256=pixels_digest(pixels[index]),
                    probabilities=probabilities[index],
                )
                for index, name in enumerate(CLASSES)
            ],
            notice="A toy without any meaning, for tests.",
        )
        return repository.publish(MODEL, staged, manifest).version


if __name__ == "__main__":
    sys.stdout.write(f"{publish(Path(sys.argv[1]))}\n")
