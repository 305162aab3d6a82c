"""What the client takes and returns about examples, feedback and retrainings."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import NeurogateError
from .images import Image
from .results_models import GateReport


class ExampleSource(enum.StrEnum):
    """Where an example came from."""

    UPLOAD = "UPLOAD"
    FEEDBACK = "FEEDBACK"
    UNKNOWN = "UNKNOWN"
    """A source that this client is too old to know."""


class RetrainingState(enum.StrEnum):
    """Where a retraining stands."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    EVALUATING = "EVALUATING"
    """The new version is measured against "stable"."""
    PUBLISHING = "PUBLISHING"
    SUCCEEDED = "SUCCEEDED"
    """There is a new version, and the gate accepts it."""
    REFUSED = "REFUSED"
    """There is a new version, but the gate refuses it."""
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    UNKNOWN = "UNKNOWN"
    """A state that this client is too old to know."""

    @property
    def ended(self) -> bool:
        """Whether nothing happens any more."""
        return self in {self.SUCCEEDED, self.REFUSED, self.FAILED, self.CANCELLED}


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledImage:
    """One image to upload.

    Attributes:
        image: encoded bytes, or the path of a file.
        class_id: class of the image, e.g. "glioma".
        key: anything; comes back with the result.
        group: a pseudonym of the patient or source whose images no split tears apart; up to 128 characters.
    """

    image: Image = field(repr=False)
    class_id: str
    key: Any = None
    group: str = ""


@dataclass(frozen=True, slots=True)
class UploadResult:
    """What became of one image: kept for good, or why not.

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


@dataclass(frozen=True, slots=True)
class Feedback:
    """What feedback turned into.

    Attributes:
        feedback_id: the feedback's identifier.
        example_id: the example; empty where the image was not kept or is no MRI.
        confirmed: whether the answer had been right.
    """

    feedback_id: str
    example_id: str
    confirmed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleFilter:
    """Which examples are meant; what is unset does not matter.

    Attributes:
        class_ids: classes.
        source: where they came from.
        from_time: kept at or after this; with a time zone.
        to_time: kept before this; with a time zone.
    """

    class_ids: tuple[str, ...] = ()
    source: ExampleSource | None = None
    from_time: dt.datetime | None = None
    to_time: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled image.

    Attributes:
        example_id: hex SHA-256 of what is kept of the image: its picture without any metadata.
        class_id: its class.
        source: where it came from.
        create_time: when it was kept (UTC).
        width, height: of the image as it is shown, in pixels.
        size_bytes: of what is kept of the image.
        thumbnail: JPEG of at most 96 x 96 pixels; empty where it was not asked for.
        prediction_id: the prediction that feedback corrected; empty for uploads.
        group: as it was uploaded; may be empty.
        sent_sha256: hex SHA-256 of the image as it was uploaded; empty for one that came by feedback.
        attributes: what is kept of a DICOM file's header, by keyword.
    """

    example_id: str
    class_id: str
    source: ExampleSource
    create_time: dt.datetime | None
    width: int
    height: int
    size_bytes: int
    thumbnail: bytes = field(repr=False)
    prediction_id: str
    group: str
    sent_sha256: str
    attributes: Mapping[str, str] = field(hash=False)


@dataclass(frozen=True, slots=True)
class ErasedExample:
    """What had learned from an example that is erased now.

    Attributes:
        versions: versions whose training was given it, and those that started from their weights. They stay.
        running_retraining_ids: retrainings that run and were given it, or started from such a version.
    """

    versions: tuple[int, ...]
    running_retraining_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExamplePage:
    """Some examples, newest first.

    Attributes:
        examples: the examples.
        next_page_token: where to go on; empty on the last page.
        total_by_class: number of examples that the filter fits, by class.
    """

    examples: tuple[Example, ...]
    next_page_token: str
    total_by_class: Mapping[str, int] = field(hash=False)


@dataclass(frozen=True, slots=True)
class Retraining:
    """One retraining.

    Attributes:
        retraining_id: identifier.
        state: where it stands.
        warm_start_version: version that it starts from; None for a start from the initial weights.
        hyperparameters: as they were asked for, by name.
        launcher: "local" or "ray"; empty for the gateway's default.
        promote: whether a version that passes the gate is promoted at once.
        gate_policy: what the gate asks beside the gateway's own policy, as TOML; empty for nothing more.
        create_time: when it was queued (UTC).
        start_time: when the trainer started; None before.
        end_time: when it ended; None before.
        last_sequence: sequence number of its last event.
        version: the version that came out; 0 for none.
        gate: what the gate said; None before.
        error: for FAILED, why, with the end of the trainer's log.
        actor: who asked for it.
        examples_by_class: number of examples that joined, by class.
        examples_digest: hex SHA-256 over the sorted digests of the examples.
    """

    retraining_id: str
    state: RetrainingState
    warm_start_version: int | None
    hyperparameters: Mapping[str, str] = field(hash=False)
    launcher: str
    promote: bool
    gate_policy: str
    create_time: dt.datetime | None
    start_time: dt.datetime | None
    end_time: dt.datetime | None
    last_sequence: int
    version: int
    gate: GateReport | None
    error: str
    actor: str
    examples_by_class: Mapping[str, int] = field(hash=False)
    examples_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainingEvent:
    """One thing that happened in a retraining; which, its class says.

    Attributes:
        sequence: 1, 2, 3, … without gaps.
        time: when (UTC).
    """

    sequence: int
    time: dt.datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged(RetrainingEvent):
    """It moved to another state.

    Attributes:
        state: the state now.
        retraining: the retraining as it is with it.
    """

    state: RetrainingState
    retraining: Retraining


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseBegan(RetrainingEvent):
    """A phase of the trainer began.

    Attributes:
        name: e.g. "fine-tune".
        total: steps in it; 0 if unknown.
        unit: what a step is, e.g. "batches".
    """

    name: str
    total: int
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progressed(RetrainingEvent):
    """Work went on.

    Attributes:
        phase: its phase.
        step: steps done.
        total: steps in the phase; 0 if unknown.
        epoch: from 1; 0 outside of training.
        metrics: figures by name, e.g. "loss".
        remaining: seconds that the phase still takes; None if unknown.
    """

    phase: str
    step: int
    total: int
    epoch: int
    metrics: Mapping[str, float] = field(hash=False)
    remaining: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged(RetrainingEvent):
    """A line of the trainer's log; `level` is "info", "warning" or "error"."""

    level: str
    text: str
