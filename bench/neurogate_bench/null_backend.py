"""A model server that knows its answer beforehand: what remains of a request's cost is the gateway's.

Speaks as much of TensorFlow Serving's API as the gateway uses, with one version of one model whose manifest
describes the project's default transform, and whose golden examples hold.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import grpc
from neurogate.tfs.v1 import tfs_pb2
from neurogate.v1 import manifest_pb2
from neurogate_core import manifest as manifests
from neurogate_core.preprocessing import transform

PROBABILITIES = (0.0625, 0.75, 0.125, 0.0625)
"""Exact in binary, so that every reply can be compared exactly."""

VERSION = 1
CLASSES = ("glioma", "meningioma", "notumor", "pituitary")


def build_manifest(model: str, side: int, images: list[bytes]) -> bytes:
    """A valid manifest whose goldens are the given pictures, each answered with the constant."""
    spec = transform.default_spec(side, side)
    goldens = [
        manifest_pb2.Golden(
            name=f"golden-{number}",
            image=image,
            pixels_sha256=transform.pixels_digest(transform.transform(image, spec)),
            probabilities=PROBABILITIES,
        )
        for number, image in enumerate(images)
    ]
    manifest = manifest_of(spec, goldens)
    manifest.manifest_revision = manifests.MANIFEST_REVISION
    manifest.model_name, manifest.version = model, VERSION
    manifest.files.add(path="saved_model.pb", size_bytes=0, sha256="0" * 64)
    manifest.created_at.GetCurrentTime()
    manifest.model_digest = manifests.model_digest(manifest.files)
    return manifests.serialize_manifest(manifest)


def manifest_of(
    spec: manifest_pb2.TransformSpec, goldens: list[manifest_pb2.Golden]
) -> manifest_pb2.ModelManifest:
    """All that a manifest must say of a network that has learnt nothing, and so claims nothing."""
    return manifest_pb2.ModelManifest(
        classes=[
            manifest_pb2.ModelClass(index=i, id=name, display_name=name) for i, name in enumerate(CLASSES)
        ],
        transform=spec,
        calibration=manifest_pb2.Calibration(temperature=1.0),
        thresholds=manifest_pb2.DecisionThresholds(abstain_below=0.5),
        goldens=goldens,
        notice="A network for measuring speed; its answers mean nothing.",
    )


def _answer(model: str, signature: str, outputs: dict[str, tfs_pb2.Tensor]) -> bytes:
    response = tfs_pb2.PredictResponse(outputs=outputs)
    response.model_spec.name, response.model_spec.signature_name = model, signature
    response.model_spec.version.value = VERSION
    return response.SerializeToString()


def _tensor(sizes: list[int], **content: object) -> tfs_pb2.Tensor:
    tensor = tfs_pb2.Tensor(**content)
    for size in sizes:
        tensor.tensor_shape.dim.add(size=size)
    return tensor


async def serve(port: int, model: str, manifest: bytes) -> None:
    """Serves until the process is ended; request bytes in, response bytes out."""
    probabilities = _tensor([1, 4], dtype=tfs_pb2.DATA_TYPE_FLOAT, float_val=PROBABILITIES)
    score = _tensor([1], dtype=tfs_pb2.DATA_TYPE_FLOAT, float_val=[0.0])
    answer = _answer(model, "serving_default", {"probabilities": probabilities, "ood_score": score})
    described = _tensor([1], dtype=tfs_pb2.DATA_TYPE_STRING, string_val=[manifest])
    description = _answer(model, "describe", {"manifest": described})
    available = tfs_pb2.ModelVersionStatus(version=VERSION, state=tfs_pb2.ModelVersionStatus.STATE_AVAILABLE)
    available.status.SetInParent()
    status = tfs_pb2.GetModelStatusResponse(model_version_status=[available]).SerializeToString()

    async def predict(request: bytes, _: object) -> bytes:
        spec = tfs_pb2.PredictRequest.FromString(request).model_spec
        return description if spec.signature_name == "describe" else answer

    async def get_model_status(_: bytes, __: object) -> bytes:
        return status

    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    for service, method, handle in (
        ("PredictionService", "Predict", predict),
        ("ModelService", "GetModelStatus", get_model_status),
    ):
        handlers = {method: grpc.unary_unary_rpc_method_handler(handle)}
        handler = grpc.method_handlers_generic_handler(f"tensorflow.serving.{service}", handlers)
        server.add_generic_rpc_handlers([handler])
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    print(f"Running null model server at 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


def main() -> None:
    """PORT MODEL SIDE IMAGE…"""
    port, model, side, *paths = sys.argv[1:]
    manifest = build_manifest(model, int(side), [Path(path).read_bytes() for path in paths])
    asyncio.run(serve(int(port), model, manifest))


if __name__ == "__main__":
    main()
