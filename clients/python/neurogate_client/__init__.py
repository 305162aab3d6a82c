"""Client for the Neurogate gateway: `Client` for threads, `neurogate_client.aio.Client` for asyncio.

    from neurogate_client import Client

    with Client("localhost:50051") as client:
        answer = client.classify("slice.jpg")
        print(answer.top.class_id, answer.top.probability, answer.verdict)

Importing it costs grpcio and protobuf and nothing else.
"""

from __future__ import annotations

from neurogate.v1.model_pb2 import (
    BackendVersion,
    GateFinding,
    GateReport,
    GuardState,
    ModelServer,
    ModelVersion,
    ModelVersionState,
    Release,
    ReleaseAction,
    ReleaseChange,
    ReleaseMode,
    ShadowAgreement,
)
from neurogate.v1.training_pb2 import (
    Example,
    ExampleFilter,
    ExampleSource,
    Retraining,
    RetrainingEvent,
    RetrainingState,
)

from .client import Client
from .errors import NeurogateError
from .images import Frame, Image, LabelledImage, folder_images, labelled_images
from .types import (
    ActivationMap,
    Classification,
    Explanation,
    Health,
    HealthStatus,
    ModelRef,
    Result,
    Score,
    Timings,
    UploadResult,
    Verdict,
    enum_name,
)

__all__ = [
    "ActivationMap", "BackendVersion", "Classification", "Client", "Example", "ExampleFilter",
    "ExampleSource", "Explanation", "Frame", "GateFinding", "GateReport", "GuardState", "Health",
    "HealthStatus", "Image", "LabelledImage", "ModelRef", "ModelServer", "ModelVersion", "ModelVersionState",
    "NeurogateError", "Release", "ReleaseAction", "ReleaseChange", "ReleaseMode", "Result", "Retraining",
    "RetrainingEvent", "RetrainingState", "Score", "ShadowAgreement", "Timings", "UploadResult", "Verdict",
    "enum_name", "folder_images", "labelled_images",
]  # fmt: skip
