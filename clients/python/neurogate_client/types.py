"""What the client returns: frozen dataclasses for answers and explanations, and for what it counts itself.

Versions, the release, examples and retrainings are the messages of `neurogate.v1` themselves
(`model.proto`, `training.proto`), as the package exports them.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message
from neurogate.v1.classification_pb2 import ColorMap

from .errors import NeurogateError

K = TypeVar("K")

COLOR_MAPS = tuple(name.removeprefix("COLOR_MAP_").lower() for name, value in ColorMap.items() if value)
"""Colour maps of an explanation, the default first."""


def enum_name(message: Message, name: str) -> str:
    """What an enumeration's field says, without the prefix of the contract: "READY", "MANUAL", "PROMOTE".

    Returns:
        "UNKNOWN" where the field is unset, or of a value that this client is too old to know.
    """
    described = message.DESCRIPTOR.fields_by_name[name].enum_type
    if described is None:
        raise TypeError(f"{name} is no enumeration")
    number = getattr(message, name)
    value = described.values_by_number.get(number) if number else None
    # The value 0 is MODEL_VERSION_STATE_UNSPECIFIED, for example.
    prefix = described.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return value.name.removeprefix(prefix) if value is not None else "UNKNOWN"


class Verdict(enum.StrEnum):
    """Whether an answer is to be trusted, by the thresholds of the version that gave it."""

    CONFIDENT = "CONFIDENT"
    """The highest probability reaches the version's threshold."""
    ABSTAIN = "ABSTAIN"
    """The model is too unsure; ask a person."""
    OUT_OF_DISTRIBUTION = "OUT_OF_DISTRIBUTION"
    """The image does not look like what the model was trained on; the scores mean nothing."""
    UNKNOWN = "UNKNOWN"
    """A verdict that this client is too old to know."""


class HealthStatus(enum.StrEnum):
    """Answer of the gateway's `grpc.health.v1` service."""

    UNKNOWN = "UNKNOWN"
    SERVING = "SERVING"
    NOT_SERVING = "NOT_SERVING"
    SERVICE_UNKNOWN = "SERVICE_UNKNOWN"
    """The gateway has no service of that name."""


@dataclass(frozen=True, slots=True)
class Score:
    """One class with its calibrated probability, 0 to 1."""

    class_id: str
    display_name: str
    index: int
    probability: float


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time went in the gateway, in seconds."""

    queue: float
    transform: float
    predict: float

    @property
    def total(self) -> float:
        """Seconds from the gateway's first look at the image to its answer."""
        return self.queue + self.transform + self.predict


@dataclass(frozen=True, slots=True)
class ModelRef:
    """The version that answered. `label` is empty when the version was chosen by number."""

    name: str
    version: int
    label: str
    manifest_digest: str


@dataclass(frozen=True, slots=True)
class Classification:
    """The answer for one image.

    Attributes:
        scores: classes by falling probability, at most `top_k`.
        verdict: whether to trust them.
        model: the version that answered.
        prediction_id: unique identifier of this answer.
        ood_score: distance from the training data; the version's manifest has the threshold.
        timings: where the time went in the gateway.
        request_id: the caller's identifier, as it was sent.
    """

    scores: tuple[Score, ...]
    verdict: Verdict
    model: ModelRef
    prediction_id: str
    ood_score: float
    timings: Timings
    request_id: str = ""

    @property
    def top(self) -> Score:
        """The most probable class."""
        return self.scores[0]


@dataclass(frozen=True, slots=True)
class Result(Generic[K]):
    """What became of one image of a batch or stream: exactly one of `classification` and `error` is set.

    Attributes:
        key: the caller's key; in a batch the position, from 0.
        classification: the answer.
        error: why there is none.
        model: the version that serves the call; None for an image that was refused before it was sent.
    """

    key: K
    classification: Classification | None = None
    error: NeurogateError | None = None
    model: ModelRef | None = None

    def unwrap(self) -> Classification:
        """The answer, or its error raised."""
        if self.classification is None:
            raise self.error or NeurogateError("a result with neither answer nor error")
        return self.classification


@dataclass(frozen=True, slots=True)
class ActivationMap:
    """Which places of the input speak for a class: `height` x `width` values of 0 or more, row by row.

    The cells divide the input evenly. A map of a 32nd of the input's side is an older version's: there cell
    i is centred on pixel 32 i + 31. Values are comparable within one map only.
    """

    height: int
    width: int
    values: tuple[float, ...] = field(repr=False)

    def rows(self) -> list[list[float]]:
        """The values as a list of rows, as `numpy.array` and plotting libraries take them."""
        return [
            list(self.values[start : start + self.width]) for start in range(0, len(self.values), self.width)
        ]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where in an image the evidence for a class lies.

    Attributes:
        classification: the answer, all classes.
        class_id: the class that is explained.
        activation_map: the map as the model gave it.
        overlay_png: the map over the image, an encoded PNG.
        map_caution: why the version's maps are not to be relied on, for people; empty where nothing that was
            measured says so.
    """

    classification: Classification
    class_id: str
    activation_map: ActivationMap
    overlay_png: bytes = field(repr=False)
    map_caution: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the gateway, or one of its services, takes work."""

    service: str
    status: HealthStatus

    @property
    def serving(self) -> bool:
        """True when it does."""
        return self.status is HealthStatus.SERVING


@dataclass(frozen=True, slots=True)
class UploadResult:
    """What became of one image of an upload: kept for good, or why not.

    Attributes:
        key: the caller's.
        class_id: the class it was sent with.
        example_id: hex SHA-256 of what is kept of the image; empty where it was not taken.
        duplicate: whether the image was there already, under the same class.
        resent: whether it had to be sent again after the connection broke. It may then be a duplicate of its
            own first sending.
        error: why it was not taken.
    """

    key: Any
    class_id: str
    example_id: str = ""
    duplicate: bool = False
    resent: bool = False
    error: NeurogateError | None = None
