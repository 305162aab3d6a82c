"""Random changes of training images that leave the anatomy plausible, as Keras layers.

Both layers take and give float32 [N, H, W, 3] of grey levels from 0 to 255, do nothing outside training, and
draw from a seed generator of their own, whose state is part of a run's saved state.
"""

from __future__ import annotations

import math

import keras
from keras import ops

from neurogate_trainer.config import Augmentation


@keras.saving.register_keras_serializable(package="neurogate")
class RandomGeometry(keras.layers.Layer):  # type: ignore[misc]  # Keras carries no types
    """Mirrors left and right, rotates, zooms and shifts, in one resampling.

    One bilinear resampling for all of it blurs less and costs less than one per change. What comes in from
    outside the image is black, as the background of a slice is. Never mirrored top to bottom: heads are not
    scanned upside down.

    Args:
        mirror: Whether to mirror half of the images.
        rotation: Largest rotation to either side, in degrees.
        zoom: Largest relative change of size, either way.
        shift: Largest shift along either axis, as a share of the side.
        seed: Of the layer's own random numbers.
    """

    def __init__(self, *, mirror: bool, rotation: float, zoom: float, shift: float, seed: int) -> None:
        super().__init__(name="random_geometry", trainable=False, dtype="float32")
        self._mirror, self._rotation, self._zoom, self._shift = mirror, rotation, zoom, shift
        self._seeds = keras.random.SeedGenerator(seed)

    def call(self, images: keras.KerasTensor, training: bool = False) -> keras.KerasTensor:
        """The changed images when training, else the images."""
        if not training:
            return images
        count = ops.shape(images)[0]
        height, width = images.shape[1], images.shape[2]

        def draw(limit: float) -> keras.KerasTensor:
            return keras.random.uniform((count,), -limit, limit, seed=self._seeds)

        angle = draw(math.radians(self._rotation))
        scale = 1.0 / (1.0 + draw(self._zoom))
        side = draw(1.0)
        mirrored = ops.where(side < 0.0, -1.0, 1.0) if self._mirror else ops.ones_like(side)
        across, down = draw(self._shift) * width, draw(self._shift) * height
        # The operation wants the map from result to source: p = A (q - centre) + centre + shift.
        a, b = scale * ops.cos(angle) * mirrored, -scale * ops.sin(angle) * mirrored
        c, d = scale * ops.sin(angle), scale * ops.cos(angle)
        x, y = (width - 1) / 2, (height - 1) / 2
        nothing = ops.zeros_like(angle)
        matrix = ops.stack(
            [a, b, x - a * x - b * y + across, c, d, y - c * x - d * y + down, nothing, nothing], axis=1
        )
        return ops.image.affine_transform(images, matrix, interpolation="bilinear", fill_mode="constant")


@keras.saving.register_keras_serializable(package="neurogate")
class RandomIntensity(keras.layers.Layer):  # type: ignore[misc]  # Keras carries no types
    """Changes contrast and brightness as another receiver gain would, and adds noise.

    Args:
        contrast: Largest relative change of contrast, either way.
        brightness: Largest shift of all grey levels, either way, of 255.
        noise: Largest standard deviation of the noise, of 255; each image draws its own.
        seed: Of the layer's own random numbers.
    """

    def __init__(self, *, contrast: float, brightness: float, noise: float, seed: int) -> None:
        super().__init__(name="random_intensity", trainable=False, dtype="float32")
        self._contrast, self._brightness, self._noise = contrast, brightness, noise
        self._seeds = keras.random.SeedGenerator(seed)

    def call(self, images: keras.KerasTensor, training: bool = False) -> keras.KerasTensor:
        """The changed images when training, else the images."""
        if not training:
            return images
        shape = ops.shape(images)
        each = (shape[0], 1, 1, 1)
        gain = 1.0 + keras.random.uniform(each, -self._contrast, self._contrast, seed=self._seeds)
        offset = keras.random.uniform(each, -self._brightness, self._brightness, seed=self._seeds)
        deviation = keras.random.uniform(each, 0.0, self._noise, seed=self._seeds)
        # A slice is grey: the same noise in all three channels.
        noise = keras.random.normal((*shape[:3], 1), seed=self._seeds) * deviation
        mean = ops.mean(images, axis=(1, 2, 3), keepdims=True)
        return ops.clip((images - mean) * gain + mean + offset + noise, 0.0, 255.0)


def augmentation_layers(settings: Augmentation, *, seed: int) -> list[keras.layers.Layer]:
    """The layers of these settings, none when augmentation is off."""
    if not settings.enabled:
        return []
    return [
        RandomGeometry(
            mirror=settings.mirror,
            rotation=settings.rotation,
            zoom=settings.zoom,
            shift=settings.shift,
            seed=seed,
        ),
        RandomIntensity(
            contrast=settings.contrast, brightness=settings.brightness, noise=settings.noise, seed=seed + 1
        ),
    ]
