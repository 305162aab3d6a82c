"""Each way in which a version can be wrong has a reason of its own, and leaves the good version alone."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from neurogate.v1 import classification_pb2 as pb
from neurogate.v1 import manifest_pb2, model_pb2
from neurogate_core.manifest import write_manifest
from neurogate_gateway.backends.verification import Rejection
from neurogate_testing.fake_backend import FakeBackend, build_manifest, sample_image
from neurogate_testing.gateway_harness import (
    NOT_SERVING,
    SERVING,
    Harness,
    failure,
    running_gateway,
    serving_gateway,
)

READY = model_pb2.MODEL_VERSION_STATE_READY
REJECTED = model_pb2.MODEL_VERSION_STATE_REJECTED
RETIRED = model_pb2.MODEL_VERSION_STATE_RETIRED
LOADING = model_pb2.MODEL_VERSION_STATE_LOADING
REQUEST = pb.ClassifyRequest(image=sample_image())

Manifest = manifest_pb2.ModelManifest


def kind_of(gateway: Harness, version: int) -> Rejection | None:
    view = gateway.gateway.pool.view(version)
    assert view is not None
    return view.backends[0].kind


def changed(**fields: object) -> Manifest:
    """A manifest of version 2 with other fields."""
    manifest = build_manifest(2)
    for path, value in fields.items():
        *parents, name = path.split("__")
        owner: object = manifest
        for parent in parents:
            owner = owner[int(parent)] if parent.isdigit() else getattr(owner, parent)  # type: ignore[index]
        if isinstance(value, list):
            del getattr(owner, name)[:]
            getattr(owner, name).extend(value)
        else:
            setattr(owner, name, value)
    return manifest


@pytest.mark.parametrize(
    ("manifest", "kind", "reason"),
    [
        (changed(calibration__temperature=-1), Rejection.MANIFEST_INVALID, "temperature"),
        (changed(goldens=[]), Rejection.MANIFEST_INVALID, "goldens"),
        (changed(model_name="liver"), Rejection.MANIFEST_OF_ANOTHER, "manifest is of liver"),
        (changed(version=8), Rejection.MANIFEST_OF_ANOTHER, "brain_tumor version 8"),
        (changed(transform__revision=99), Rejection.TRANSFORM_UNKNOWN, "transform.revision is 99"),
        (
            changed(goldens__1__pixels_sha256="0" * 64),
            Rejection.GOLDENS_DIFFER,
            "meningioma-0: other pixels",
        ),
        (
            changed(goldens__2__probabilities=[0.25] * 4),
            Rejection.GOLDENS_DIFFER,
            "notumor-0: a probability is off by",
        ),
        (changed(goldens__0__image=b"not an image"), Rejection.GOLDENS_DIFFER, "glioma-0: "),
    ],
)
async def test_manifests(manifest: Manifest, kind: Rejection, reason: str) -> None:
    async with serving_gateway() as (gateway, backend):
        backend.add_version(2, manifest)
        version = await gateway.until_state(2, REJECTED)
        assert kind_of(gateway, 2) is kind
        assert reason in version.state_reason
        assert version.backends[0].state_reason == version.state_reason
        # What could be read of it can be looked at.
        valid = kind in {Rejection.MANIFEST_OF_ANOTHER, Rejection.GOLDENS_DIFFER}
        assert version.HasField("manifest") == valid
        if valid:
            told = version.manifest
            assert (told.model_name, told.version) == (manifest.model_name, manifest.version)
        assert (await gateway.classification.Classify(REQUEST)).model.version == 1
        assert await gateway.check() == SERVING
        numbered = pb.ClassifyRequest(image=sample_image(), model=model_pb2.ModelSelector(version=2))
        failed = await failure(gateway.classification.Classify(numbered))
        assert (failed.code, failed.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "MODEL_VERSION_REJECTED",
        )
        assert reason in failed.metadata["state_reason"]


async def test_half_copied_and_undescribed() -> None:
    async with serving_gateway() as (gateway, backend):
        backend.break_version(2, code=5, message="no file /models/brain_tumor/2/saved_model.pb in it\n[[n]]")
        backend.add_version(3, describes=False)
        for number, kind, reason in (
            (2, Rejection.LOAD_FAILED, "the model server could not load it: NOT_FOUND: no file (path) in it"),
            (3, Rejection.NOT_DESCRIBED, "the version does not describe itself: "),
        ):
            assert (await gateway.until_state(number, REJECTED)).state_reason.startswith(reason)
            assert kind_of(gateway, number) is kind
        assert (await gateway.classification.Classify(REQUEST)).model.version == 1


async def test_a_rejected_version_is_tried_again_only_when_it_was_loaded_anew() -> None:
    async with FakeBackend() as backend:
        backend.add_version(2, changed(goldens__1__pixels_sha256="0" * 64))
        async with running_gateway(backend) as gateway:
            await gateway.until_state(2, REJECTED)
            assert await gateway.check() == NOT_SERVING
            backend.versions[2].manifest = build_manifest(2)
            polls = backend.polls
            await backend.until(lambda: backend.polls >= polls + 3)
            assert kind_of(gateway, 2) is Rejection.GOLDENS_DIFFER
            backend.unload(2)
            await gateway.until_state(2, RETIRED)
            backend.add_version(2)
            await gateway.until_ready(2)
            assert kind_of(gateway, 2) is None


def published(root: Path, number: int, content: bytes = b"graph") -> Manifest:
    """A version's files in a repository, and its manifest."""
    folder = root / "brain_tumor" / str(number)
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(content)
    return write_manifest(folder, build_manifest(number))


async def test_tampered_files(tmp_path: Path) -> None:
    async with FakeBackend() as backend:
        backend.add_version(1, published(tmp_path, 1))
        async with running_gateway(backend, repository=str(tmp_path), release_mode="latest") as gateway:
            await gateway.until_ready(1)
            manifest = published(tmp_path, 2)
            (tmp_path / "brain_tumor" / "2" / "saved_model.pb").write_bytes(b"grapf")
            backend.add_version(2, manifest)
            version = await gateway.until_state(2, REJECTED)
            assert kind_of(gateway, 2) is Rejection.FILES_DIFFER
            assert version.state_reason.startswith("the files differ from the manifest: saved_model.pb has")
            assert (await gateway.classification.Classify(REQUEST)).model.version == 1


async def test_a_version_whose_files_cannot_be_seen_waits_for_them(tmp_path: Path) -> None:
    async with FakeBackend() as backend:
        other = published(tmp_path / "elsewhere", 1)
        backend.add_version(1, other)
        async with running_gateway(backend, repository=str(tmp_path), release_mode="latest") as gateway:
            while not (view := gateway.gateway.pool.view(1)) or "cannot be read" not in view.reason:
                await gateway.gateway.pool.next_change.wait()
            assert view.state == LOADING
            (tmp_path / "elsewhere" / "brain_tumor").rename(tmp_path / "brain_tumor")
            await gateway.until_ready(1)
