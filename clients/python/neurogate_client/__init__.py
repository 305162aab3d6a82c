"""Client for the Neurogate gateway: `Client` for threads, `neurogate_client.aio.Client` for asyncio.

    from neurogate_client import Client

    with Client("localhost:50051") as client:
        answer = client.classify("slice.jpg")
        print(answer.top.class_id, answer.top.probability, answer.verdict)

Importing it costs grpcio and protobuf and nothing else; the command line lives in modules of its own.
"""

from __future__ import annotations

from neurogate_client.client import Client
from neurogate_client.errors import NeurogateError
from neurogate_client.images import Image, folder_images
from neurogate_client.results import (
    ActivationMap,
    Classification,
    Explanation,
    Health,
    HealthStatus,
    ModelRef,
    ModelVersion,
    Result,
    Score,
    Timings,
    Verdict,
    VersionState,
)

__all__ = [
    "ActivationMap",
    "Classification",
    "Client",
    "Explanation",
    "Health",
    "HealthStatus",
    "Image",
    "ModelRef",
    "ModelVersion",
    "NeurogateError",
    "Result",
    "Score",
    "Timings",
    "Verdict",
    "VersionState",
    "folder_images",
]
