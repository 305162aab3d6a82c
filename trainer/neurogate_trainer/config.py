"""Everything that decides the outcome of a training run, in one frozen object."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from .errors import TrainerError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

BatchNormMode = Literal["frozen", "adapt"]

BACKBONE_LAYERS: Final = 154
"""Layers of Keras' MobileNetV2 without its classifier."""


class ConfigError(TrainerError, ValueError):
    """A setting is out of its range or unknown; the message names it and what would be right."""


_WORDS: Final[dict[type, str]] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    tuple: "a list of numbers",
}


def _between(low: float, high: float, default: Any) -> Any:  # noqa: ANN401 - as `dataclasses.field`
    return field(default=default, metadata={"bounds": (low, high)})


def _complaints(settings: DataclassInstance) -> Iterator[str]:
    """What is wrong with the type or the range of each setting; its default tells the type."""
    for entry in fields(settings):
        kind, value = type(entry.default), getattr(settings, entry.name)
        if kind not in _WORDS:
            continue
        numbers = value if kind is tuple and isinstance(value, tuple) else ()
        # A bool is an int to Python and to nobody else.
        right = isinstance(value, (int, float) if kind is float else kind) and (
            kind is bool or not isinstance(value, bool)
        )
        if not right or not all(isinstance(number, int | float) for number in numbers):
            yield f"{entry.name} is {value!r}, expected {_WORDS[kind]}"
        elif "bounds" in entry.metadata:
            low, high = entry.metadata["bounds"]
            if not low <= value <= high:  # also true of NaN
                yield f"{entry.name} is {value}, expected {low:g} to {high:g}"


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How training images are varied; see `neurogate_trainer.training.augment`.

    Attributes:
        enabled: Whether at all.
        mirror: Whether half of the images are mirrored left to right.
        rotation: Largest rotation to either side, degrees, 0 to 45.
        zoom: Largest relative change of size, 0 to 0.5.
        shift: Largest shift along an axis, share of the side, 0 to 0.5.
        contrast: Largest relative change of contrast, 0 to 0.9.
        brightness: Largest shift of the grey levels, of 255, 0 to 128.
        noise: Largest standard deviation of added noise, of 255, 0 to 64.
    """

    enabled: bool = True
    mirror: bool = True
    rotation: float = _between(0, 45, 10.0)
    zoom: float = _between(0, 0.5, 0.1)
    shift: float = _between(0, 0.5, 0.05)
    contrast: float = _between(0, 0.9, 0.2)
    brightness: float = _between(0, 128, 10.0)
    noise: float = _between(0, 64, 6.0)


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """The settings of a run. The defaults are the product's brief.

    Attributes:
        image_size: Side of the square input in pixels, 32 to 512, a multiple of 32.
        seed: Of the splits, the initial head, the order of images, augmentation and the bootstrap.
        initial_weights: "auto", "imagenet", "offline" or a file; see `neurogate_trainer.model.weights`.
        allow_random_init: Whether a run may start from random weights when "auto" finds nothing.
        unfrozen_layers: How many of the last layers of MobileNetV2 (154 in all) are fine-tuned, 0 to 154.
        batch_norm: What happens to the batch normalisations among them: "adapt" trains them, with
            `batch_norm_momentum`; "frozen" keeps the statistics of the initial weights.
        batch_norm_momentum: Share of the running statistics that a batch leaves in place, 0 to 1. Keras'
            default of 0.999 needs thousands of batches to forget ImageNet.
        head_units: Width of the hidden layer between the pooled features and the logits, 8 to 4096.
        dropout: Dropout before the hidden layer and before the logits, each 0 to below 1.
        l2: Weight of the L2 penalty on the kernels of the two dense layers, at least 0.
        batch_size: Images per step, 1 to 1024.
        warmup_epochs: Epochs that train the head alone before fine-tuning, 0 to 1000.
        warmup_learning_rate: Adam's learning rate in them.
        epochs: Largest number of epochs of fine-tuning, 0 to 1000.
        learning_rate: Adam's highest learning rate in them: reached in `ramp_epochs`, then lowered along a
            half cosine to `final_learning_rate_share` of it at the last epoch.
        ramp_epochs: Epochs of linear increase, at least 0.
        final_learning_rate_share: Share of the highest learning rate at the end, 0 to 1.
        patience: Fine-tuning stops after this many epochs without a better macro F1 on the validation
            split, at least 1.
        label_smoothing: Share of the target that is spread over all classes, 0 to below 1.
        class_weights: Whether an image counts in inverse proportion to the size of its class.
        augmentation: How training images are varied.
        fractions: Shares of training, validation and test; they add up to 1.
        keep_given_test: Whether the data set's own Testing folder is the test split.
        target_risk: Error rate aimed at among the answers above the abstention threshold, 0 to 1.
        ood_acceptance: Share of the validation images that the out-of-distribution threshold accepts,
            above 0, below 1.
        goldens_per_class: Recorded examples per class in the manifest, 1 to 8.
        deterministic: Whether two runs on the same CPU must give the same bytes; costs some speed.
        mixed_precision: Whether to compute in float16 and compile with XLA where there is a GPU.
    """

    image_size: int = _between(32, 512, 224)
    seed: int = _between(0, 2**31 - 1, 0)
    initial_weights: str = "auto"
    allow_random_init: bool = False
    unfrozen_layers: int = _between(0, BACKBONE_LAYERS, 50)
    batch_norm: BatchNormMode = "adapt"
    batch_norm_momentum: float = _between(0, 1, 0.9)
    head_units: int = _between(8, 4096, 128)
    dropout: tuple[float, float] = (0.3, 0.2)
    l2: float = _between(0, 1, 1e-4)
    batch_size: int = _between(1, 1024, 32)
    warmup_epochs: int = _between(0, 1000, 2)
    warmup_learning_rate: float = _between(1e-8, 1, 1e-3)
    epochs: int = _between(0, 1000, 15)
    learning_rate: float = _between(1e-8, 1, 1e-4)
    ramp_epochs: float = _between(0, 1000, 0.5)
    final_learning_rate_share: float = _between(0, 1, 0.05)
    patience: int = _between(1, 1000, 5)
    label_smoothing: float = _between(0, 0.9, 0.0)
    class_weights: bool = True
    augmentation: Augmentation = field(default_factory=Augmentation)
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    keep_given_test: bool = False
    target_risk: float = _between(0, 1, 0.02)
    ood_acceptance: float = _between(0.5, 0.999, 0.95)
    goldens_per_class: int = _between(1, 8, 1)
    deterministic: bool = False
    mixed_precision: bool = True

    def __post_init__(self) -> None:
        if problems := [*_complaints(self), *_complaints(self.augmentation)]:
            raise ConfigError("; ".join(problems))
        if self.image_size % 32:
            problems.append(f"image_size is {self.image_size}, expected a multiple of 32")
        if self.batch_norm not in get_args(BatchNormMode):
            problems.append(f"batch_norm is {self.batch_norm!r}, expected one of {get_args(BatchNormMode)}")
        if len(self.dropout) != 2 or not all(0 <= share < 1 for share in self.dropout):
            problems.append(f"dropout is {self.dropout}, expected two shares from 0 to below 1")
        if len(self.fractions) != 3 or min(self.fractions) <= 0 or abs(sum(self.fractions) - 1) > 1e-6:
            problems.append(f"fractions is {self.fractions}, expected three shares above 0 that add up to 1")
        if self.warmup_epochs + self.epochs < 1:
            problems.append("warmup_epochs and epochs are both 0, so nothing would be trained")
        if not self.initial_weights.strip():
            problems.append("initial_weights is empty, expected auto, imagenet, offline or a file")
        if problems:
            raise ConfigError("; ".join(problems))

    def to_json(self) -> dict[str, Any]:
        """The settings as config.json holds them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> TrainConfig:
        """The settings in config.json; what it does not name has its default.

        Raises:
            ConfigError: A setting is unknown, of another type, or out of its range.
        """
        known = {entry.name for entry in fields(cls)}
        inner = document.get("augmentation", {})
        if not isinstance(inner, Mapping):
            raise ConfigError(f"augmentation is {inner!r}, expected an object of settings")
        unknown = sorted(document.keys() - known) + sorted(
            inner.keys() - {entry.name for entry in fields(Augmentation)}
        )
        if unknown:
            raise ConfigError(f"unknown settings: {', '.join(unknown)}")
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in document.items()
        }
        return cls(**(values | {"augmentation": Augmentation(**inner)}))

    def flat(self) -> dict[str, str]:
        """Every setting as text, for the manifest; the augmentation's have "augmentation." in front."""
        texts: dict[str, str] = {}
        for name, value in self.to_json().items():
            if isinstance(value, dict):
                texts |= {f"{name}.{inner}": json.dumps(entry) for inner, entry in value.items()}
            else:
                texts[name] = value if isinstance(value, str) else json.dumps(value)
        return texts


PRESETS: Final[dict[str, TrainConfig]] = {
    "default": TrainConfig(),
    # For the phantom on two cores: a small input, all of the network, a high learning rate, few epochs.
    "demo": TrainConfig(
        image_size=96,
        unfrozen_layers=BACKBONE_LAYERS,
        warmup_epochs=1,
        epochs=12,
        learning_rate=1e-3,
    ),
}


def preset(name: str) -> TrainConfig:
    """The settings of a preset.

    Raises:
        ConfigError: There is no such preset.
    """
    if name not in PRESETS:
        raise ConfigError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]


def read_config(path: Path, base: TrainConfig) -> TrainConfig:
    """The settings of a JSON file, such as a run's config.json; what it does not name is as in `base`.

    Raises:
        ConfigError: It holds no settings, or one is unknown, of another type, or out of its range.
        OSError: It cannot be read.
    """
    try:
        document = json.loads(path.read_bytes())
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path} holds no JSON object of settings")
    try:
        return TrainConfig.from_json(base.to_json() | document)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
