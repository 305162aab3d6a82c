"""Images that are not upright brain MRI slices, made from what installed packages carry; nothing is fetched.

They choose and judge the out-of-distribution score. What chooses never judges: the two parts differ in
photographs, digits, random numbers, and in the heads that the altered ones are made of.
"""

from __future__ import annotations

import io
from importlib import resources
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from neurogate.v1 import manifest_pb2
from neurogate_core.preprocessing.transform import transform
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Part = Literal["selection", "report"]
Pixels = npt.NDArray[np.uint8]

_PHOTOGRAPHS: Final[dict[Part, tuple[tuple[str, str], ...]]] = {
    "selection": (("sklearn.datasets.images", "china.jpg"),),
    "report": (
        ("sklearn.datasets.images", "flower.jpg"),
        ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    ),
}
_LETTERS: Final = np.array(list("abcdefghijklmnoprstuvwz"))
_PAGE: Final = 512


def foreign_images(
    heads: Pixels, spec: manifest_pb2.TransformSpec, *, part: Part, per_source: int = 64, seed: int = 0
) -> dict[str, Pixels]:
    """Foreign images by source, each uint8 [n, H, W, 3] with n at most `per_source`.

    Args:
        heads: Transformed slices, uint8 [N, H, W, 3] with H = W, to be inverted and rotated: of the
            validation split for "selection", of the test split for "report".
        spec: The transform that the others pass through.
        part: What they are for.
        per_source: Images per source, at least 1.
        seed: Of everything random in them.
    """
    random = np.random.default_rng((seed, ("selection", "report").index(part)))
    made = {
        "photographs": _photographs(part, per_source, random),
        "digits": _digits(part, per_source, random),
        "noise": [_noise(random) for _ in range(per_source)],
        "text": [_text(random) for _ in range(per_source)],
    }
    sources = {
        name: np.stack([_transformed(image, spec) for image in images]) for name, images in made.items()
    }
    chosen = heads[np.sort(random.permutation(len(heads))[:per_source])]
    turns = random.integers(1, 4, len(chosen))
    sources["inverted heads"] = 255 - chosen
    sources["rotated heads"] = np.stack(
        [np.rot90(head, turn) for head, turn in zip(chosen, turns, strict=True)]
    )
    return sources


def _transformed(image: Image.Image, spec: manifest_pb2.TransformSpec) -> Pixels:
    stored = io.BytesIO()
    image.save(stored, "PNG", compress_level=1)
    return transform(stored.getvalue(), spec)


def _photographs(part: Part, count: int, random: np.random.Generator) -> list[Image.Image]:
    """Random square crops, from a quarter of the shorter side up to all of it."""
    photographs = []
    for package, name in _PHOTOGRAPHS[part]:
        with Image.open(io.BytesIO(resources.files(package).joinpath(name).read_bytes())) as opened:
            photographs.append(opened.convert("RGB"))
    crops = []
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        side = int(min(photograph.size) * random.uniform(0.25, 1.0))
        left = int(random.integers(0, photograph.width - side + 1))
        top = int(random.integers(0, photograph.height - side + 1))
        crops.append(photograph.crop((left, top, left + side, top + side)))
    return crops


def _digits(part: Part, count: int, random: np.random.Generator) -> list[Image.Image]:
    """Handwritten digits, white on black, like a head in a dark field."""
    # Imported here: of all of scikit-learn's data sets, only this one is wanted, and only sometimes.
    from sklearn.datasets import load_digits  # noqa: PLC0415

    images: Any = load_digits().images
    half = len(images) // 2
    mine = images[:half] if part == "selection" else images[half:]
    picked = random.permutation(len(mine))[:count]
    return [
        Image.fromarray((mine[i] * (255 / 16)).astype(np.uint8)).resize((256, 256), Image.Resampling.BICUBIC)
        for i in picked
    ]


def _noise(random: np.random.Generator) -> Image.Image:
    """Noise of a random grain, level and contrast."""
    grain = float(random.choice([0.0, 0.7, 2.0, 6.0, 16.0]))
    image = Image.fromarray(random.integers(0, 256, (256, 256), np.uint8)).filter(
        ImageFilter.GaussianBlur(grain)
    )
    values = np.asarray(image, np.float64)
    values = (values - values.mean()) / (values.std() + 1e-9)
    level, contrast = random.uniform(40, 200), random.uniform(15, 60)
    return Image.fromarray(np.clip(values * contrast + level, 0, 255).astype(np.uint8))


def _text(random: np.random.Generator) -> Image.Image:
    """A page of words, dark on light or light on dark."""
    dark, light = int(random.integers(0, 60)), int(random.integers(200, 256))
    ink, paper = (dark, light) if random.random() < 0.7 else (light, dark)
    page = Image.new("L", (_PAGE, _PAGE), paper)
    draw = ImageDraw.Draw(page)
    size = int(random.integers(12, 36))
    font = ImageFont.load_default(size)
    for top in range(size, _PAGE - size, int(size * 1.4)):
        words = ["".join(random.choice(_LETTERS, random.integers(2, 10))) for _ in range(_PAGE // size)]
        draw.text((size, top), " ".join(words)[: int(1.7 * _PAGE / size)], fill=ink, font=font)
    return page
