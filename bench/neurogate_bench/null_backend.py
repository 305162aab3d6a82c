"""A model server that knows its answer beforehand: what remains of a request's cost is the gateway's.

Speaks as much of TensorFlow Serving's API as the gateway uses, with one version of one model whose manifest
describes
the project's default transform, and whose golden examples hold.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

import grpc
from neurogate.tfs.v1 import tfs_pb2
from neurogate.v1 import manifest_pb2
from neurogate_core import manifest as manifests
from neurogate_core.preprocessing import transform

PROBABILITIES = (0.0625, 0.75, 0.125, 0.0625)
"""Exact in binary, so that every reply can be compared exactly."""

VERSION = 1
_CLASSES = ("glioma", "meningioma", "notumor", "pituitary")


def build_manifest(model: str, side: int, images: list[bytes]) -> bytes:
    """A valid manifest whose goldens are the given pictures, each answered with the constant."""
    spec = transform.default_spec(side, side)
    manifest = manifest_pb2.ModelManifest(
        manifest_revision=manifests.MANIFEST_REVISION,
        model_name=model,
        version=VERSION,
        files=[manifest_pb2.FileDigest(path="saved_model.pb", size_bytes=0, sha256="0" * 64)],
        classes=[
            manifest_pb2.ModelClass(index=index, id=name, display_name=name)
            for index, name in enumerate(_CLASSES)
        ],
        transform=spec,
        calibration=manifest_pb2.Calibration(temperature=1.0),
        thresholds=manifest_pb2.DecisionThresholds(abstain_below=0.5),
        goldens=[
            manifest_pb2.Golden(
                name=f"golden-{number}",
                image=image,
                pixels_sha256=transform.pixels_digest(transform.transform(image, spec)),
                probabilities=PROBABILITIES,
            )
            for number, image in enumerate(images)
        ],
    )
    manifest.created_at.GetCurrentTime()
    manifest.model_digest = manifests.model_digest(manifest.files)
    return manifests.serialize_manifest(manifest)


def _tensor(sizes: list[int], values: list[float]) -> tfs_pb2.Tensor:
    tensor = tfs_pb2.Tensor(dtype=tfs_pb2.DATA_TYPE_FLOAT, float_val=values)
    for size in sizes:
        tensor.tensor_shape.dim.add(size=size)
    return tensor


class NullModelServer:
    """Answers Predict and GetModelStatus without computing anything; request bytes in, response bytes out."""

    def __init__(self, model: str, manifest: bytes) -> None:
        spec = tfs_pb2.ModelSpec(name=model, signature_name="serving_default")
        spec.version.value = VERSION
        outputs = {
            "probabilities": _tensor([1, len(_CLASSES)], list(PROBABILITIES)),
            "ood_score": _tensor([1], [0.0]),
        }
        self._answer = tfs_pb2.PredictResponse(model_spec=spec, outputs=outputs).SerializeToString()
        described = tfs_pb2.Tensor(dtype=tfs_pb2.DATA_TYPE_STRING, string_val=[manifest])
        described.tensor_shape.dim.add(size=1)
        spec.signature_name = "describe"
        self._description = tfs_pb2.PredictResponse(
            model_spec=spec, outputs={"manifest": described}
        ).SerializeToString()
        status = tfs_pb2.ModelVersionStatus(version=VERSION, state=tfs_pb2.ModelVersionStatus.STATE_AVAILABLE)
        status.status.SetInParent()
        self._status = tfs_pb2.GetModelStatusResponse(model_version_status=[status]).SerializeToString()

    async def predict(self, request: bytes, _: object) -> bytes:
        """The constant, or the manifest for the signature "describe"."""
        described = tfs_pb2.PredictRequest.FromString(request).model_spec.signature_name == "describe"
        return self._description if described else self._answer

    async def status(self, _: bytes, __: object) -> bytes:
        """The one version, AVAILABLE."""
        return self._status

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        """The two services at TensorFlow Serving's own paths."""
        return [
            grpc.method_handlers_generic_handler(
                "tensorflow.serving.PredictionService",
                {"Predict": grpc.unary_unary_rpc_method_handler(self.predict)},
            ),
            grpc.method_handlers_generic_handler(
                "tensorflow.serving.ModelService",
                {"GetModelStatus": grpc.unary_unary_rpc_method_handler(self.status)},
            ),
        ]


async def serve(port: int, server_side: NullModelServer) -> None:
    """Serves until the process is ended."""
    server = grpc.aio.server(
        options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    )
    server.add_generic_rpc_handlers(server_side.handlers())
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    print(f"Running null model server at 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--side", type=int, required=True)
    parser.add_argument("--images", type=Path, nargs="+", required=True)
    arguments = parser.parse_args()
    images = [path.read_bytes() for path in arguments.images]
    manifest = build_manifest(arguments.model, arguments.side, images)
    asyncio.run(serve(arguments.port, NullModelServer(arguments.model, manifest)))


if __name__ == "__main__":
    main()
