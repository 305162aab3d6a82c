"""The network as a compiled call, and the picture as its input: what the tuned baselines share."""

from __future__ import annotations

import io
import os
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

SIDE = int(os.environ["BENCH_SIDE"])


def load() -> Callable[[np.ndarray], np.ndarray]:
    """A function from float32 [1, H, W, 3] to probabilities, traced and warm; one TensorFlow thread per
    call."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    network = keras.models.load_model(os.environ["BENCH_NETWORK"], compile=False)
    signature = [tf.TensorSpec((None, SIDE, SIDE, 3), tf.float32)]
    compiled = tf.function(lambda images: network(images, training=False), input_signature=signature)
    # One concrete function: no look-up by argument types on each call.
    concrete = compiled.get_concrete_function()

    def run(images: np.ndarray) -> np.ndarray:
        return concrete(tf.constant(images)).numpy()[0]

    run(np.zeros((1, SIDE, SIDE, 3), np.float32))
    return run


def decode(data: bytes) -> np.ndarray:
    """float32 [1, H, W, 3]; the JPEG decoder skips detail that the resize would throw away."""
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (SIDE, SIDE))
    image = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.asarray(image, np.float32)[np.newaxis]
