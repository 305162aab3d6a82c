"""Client for the Neurogate gateway: `Client` for threads, `neurogate_client.aio.Client` for asyncio.

    from neurogate_client import Client

    with Client("localhost:50051") as client:
        answer = client.classify("slice.jpg")
        print(answer.top.class_id, answer.top.probability, answer.verdict)

Importing it costs grpcio and protobuf and nothing else; the command line lives in modules of its own.
"""

from __future__ import annotations

from .client import Client
from .errors import NeurogateError
from .images import Frame, Image, folder_images
from .labelled import labelled_images
from .results import (
    ActivationMap,
    Classification,
    Explanation,
    Health,
    HealthStatus,
    ModelRef,
    Result,
    Score,
    Timings,
    Verdict,
)
from .results_models import (
    BackendVersion,
    ChangedRelease,
    GateFinding,
    GateReport,
    GuardState,
    ModelServer,
    ModelVersion,
    Release,
    ReleaseAction,
    ReleaseChange,
    ReleaseMode,
    ShadowAgreement,
    VersionsEvent,
    VersionState,
)
from .results_training import (
    ErasedExample,
    Example,
    ExampleFilter,
    ExamplePage,
    ExampleSource,
    Feedback,
    LabelledImage,
    Logged,
    PhaseBegan,
    Progressed,
    Retraining,
    RetrainingEvent,
    RetrainingState,
    StateChanged,
    UploadResult,
)

__all__ = [
    "ActivationMap",
    "BackendVersion",
    "ChangedRelease",
    "Classification",
    "Client",
    "ErasedExample",
    "Example",
    "ExampleFilter",
    "ExamplePage",
    "ExampleSource",
    "Explanation",
    "Feedback",
    "Frame",
    "GateFinding",
    "GateReport",
    "GuardState",
    "Health",
    "HealthStatus",
    "Image",
    "LabelledImage",
    "Logged",
    "ModelRef",
    "ModelServer",
    "ModelVersion",
    "NeurogateError",
    "PhaseBegan",
    "Progressed",
    "Release",
    "ReleaseAction",
    "ReleaseChange",
    "ReleaseMode",
    "Result",
    "Retraining",
    "RetrainingEvent",
    "RetrainingState",
    "Score",
    "ShadowAgreement",
    "StateChanged",
    "Timings",
    "UploadResult",
    "Verdict",
    "VersionState",
    "VersionsEvent",
    "folder_images",
    "labelled_images",
]
