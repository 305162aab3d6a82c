"""Each way in which a version can be wrong has a reason of its own, and leaves the good version alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from neurogate.v1 import classification_pb2 as pb
from neurogate.v1 import manifest_pb2, model_pb2
from neurogate_core.manifest import write_manifest
from neurogate_gateway.backends.verification import Rejection
from neurogate_testing.fake_backend import FakeBackend, FakeVersion, build_manifest, sample_image
from neurogate_testing.gateway_harness import Harness, running_gateway, serving_gateway

READY = model_pb2.MODEL_VERSION_STATE_READY
REJECTED = model_pb2.MODEL_VERSION_STATE_REJECTED
LOADING = model_pb2.MODEL_VERSION_STATE_LOADING
REQUEST = pb.ClassifyRequest(image=sample_image())

Manifest = manifest_pb2.ModelManifest


def kind_of(gateway: Harness, version: int) -> Rejection | None:
    view = gateway.gateway.pool.view(version)
    assert view is not None
    return view.backends[0].kind


def invalid(manifest: Manifest) -> None:
    manifest.calibration.temperature = -1


def of_another_model(manifest: Manifest) -> None:
    manifest.model_name = "liver"


def of_another_version(manifest: Manifest) -> None:
    manifest.version = 8


def of_the_future(manifest: Manifest) -> None:
    manifest.transform.revision = 99


def other_goldens(manifest: Manifest) -> None:
    manifest.goldens[0].probabilities[:] = [0.25] * 4


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (invalid, Rejection.MANIFEST_INVALID),
        (of_another_model, Rejection.MANIFEST_OF_ANOTHER),
        (of_another_version, Rejection.MANIFEST_OF_ANOTHER),
        (of_the_future, Rejection.TRANSFORM_UNKNOWN),
        (other_goldens, Rejection.GOLDENS_DIFFER),
    ],
)
async def test_manifests(change: Callable[[Manifest], None], kind: Rejection) -> None:
    async with serving_gateway() as (gateway, backend):
        manifest = build_manifest(2)
        change(manifest)
        backend.add_version(2, manifest)
        version = await gateway.until_state(2, REJECTED)
        assert kind_of(gateway, 2) is kind
        assert version.backends[0].state_reason == version.state_reason != ""
        # What could be read of it can be looked at.
        valid = kind in {Rejection.MANIFEST_OF_ANOTHER, Rejection.GOLDENS_DIFFER}
        assert version.HasField("manifest") == valid
        if valid:
            assert (version.manifest.model_name, version.manifest.version) == (
                manifest.model_name,
                manifest.version,
            )
        assert (await gateway.classification.Classify(REQUEST)).model.version == 1


async def test_half_copied_and_undescribed() -> None:
    async with serving_gateway() as (gateway, backend):
        backend.break_version(2)
        backend.add_version(3, describes=False)
        for number, kind in ((2, Rejection.LOAD_FAILED), (3, Rejection.NOT_DESCRIBED)):
            await gateway.until_state(number, REJECTED)
            assert kind_of(gateway, number) is kind
        assert (await gateway.classification.Classify(REQUEST)).model.version == 1


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
                await gateway.gateway.pool._changed.wait()
            assert view.state == LOADING
            (tmp_path / "elsewhere" / "brain_tumor").rename(tmp_path / "brain_tumor")
            await gateway.until_ready(1)


async def test_a_version_that_was_right_may_come_back_right() -> None:
    async with serving_gateway() as (gateway, backend):
        manifest = build_manifest(2)
        other_goldens(manifest)
        wrong: FakeVersion = backend.add_version(2, manifest)
        await gateway.until_state(2, REJECTED)
        assert wrong.manifest is manifest
        backend.unload(2)
        await gateway.until_state(2, model_pb2.MODEL_VERSION_STATE_RETIRED)
        backend.add_version(2)
        await gateway.until_ready(2)
        assert kind_of(gateway, 2) is None
