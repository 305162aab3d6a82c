"""A model server that serves something else under the model's name is left alone, and shown as what it is."""

from __future__ import annotations

from pathlib import Path

import grpc
from neurogate.v1 import classification_pb2 as pb
from neurogate.v1 import model_pb2
from neurogate_core.manifest import read_manifest
from neurogate_testing.fake_backend import FakeBackend, sample_image
from neurogate_testing.gateway_harness import NOT_SERVING, Harness, failure, running_gateway
from neurogate_testing.releases import MODEL, ManagedBackend, Released, publish_fake, released_gateway

REQUEST = pb.ClassifyRequest(image=sample_image())
REJECTED = model_pb2.MODEL_VERSION_STATE_REJECTED
LISTED = model_pb2.ListModelVersionsRequest()


async def until_foreign(gateway: Harness, address: str, foreign: bool = True) -> None:
    pool = gateway.gateway.pool
    while (address in pool.foreign) != foreign:
        await pool.next_change.wait()


async def reasons(gateway: Harness) -> dict[str, str]:
    listed = await gateway.models.ListModelVersions(LISTED)
    assert all(each.connected for each in listed.model_servers)
    return {each.address: each.foreign_reason for each in listed.model_servers}


async def test_another_manifest_under_a_number_of_the_repository(tmp_path: Path) -> None:
    publish_fake(tmp_path)
    async with FakeBackend() as theirs:
        theirs.add_version(1)
        async with running_gateway(theirs, repository=str(tmp_path)) as gateway:
            await until_foreign(gateway, theirs.address)
            told = (await reasons(gateway))[theirs.address]
            assert told.startswith("its version 1 has a manifest with digest ")
            version = await gateway.until_state(1, REJECTED)
            assert "the repository's manifest has digest" in version.state_reason
            failed = await failure(gateway.classification.Classify(REQUEST))
            assert (failed.code, failed.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "BACKEND_FOREIGN")
            assert told in failed.message
            assert theirs.address not in failed.message
            assert await gateway.check() == NOT_SERVING
            assert theirs.reloads == []


async def test_no_server_is_known_before_the_repository_is(tmp_path: Path) -> None:
    async with FakeBackend() as theirs:
        theirs.add_version(1)
        async with running_gateway(theirs, repository=str(tmp_path)) as gateway:
            pool = gateway.gateway.pool
            while not any(view.version for view in pool.versions()):
                await pool.next_change.wait()
            publish_fake(tmp_path)
            await until_foreign(gateway, theirs.address)
            assert theirs.reloads == []


async def test_a_version_that_does_not_describe_itself(tmp_path: Path) -> None:
    publish_fake(tmp_path)
    async with ManagedBackend(tmp_path) as theirs:
        theirs.add_version(7, describes=False)
        async with running_gateway(theirs, repository=str(tmp_path)) as gateway:
            await until_foreign(gateway, theirs.address)
            assert await reasons(gateway) == {
                theirs.address: "its version 7 does not describe itself",
            }
            # What it has of the repository's may answer.
            theirs.add_version(1, read_manifest(tmp_path / MODEL / "1"))
            await Released(tmp_path, gateway, theirs).until_labels(stable=1)
            assert (await gateway.classification.Classify(REQUEST)).model.version == 1
            assert theirs.reloads == []


async def test_beside_a_foreign_server_the_own_server_is_configured_and_serves(tmp_path: Path) -> None:
    publish_fake(tmp_path)
    async with FakeBackend() as theirs, ManagedBackend(tmp_path) as own:
        own.add_version(1, read_manifest(tmp_path / MODEL / "1"))
        theirs.add_version(1)
        async with running_gateway(theirs, own, repository=str(tmp_path)) as gateway:
            await own.until(lambda: own.labels == {"stable": 1})
            await until_foreign(gateway, theirs.address)
            assert (await reasons(gateway))[own.address] == ""
            for _ in range(4):
                assert (await gateway.classification.Classify(REQUEST)).model.version == 1
            assert publish_fake(tmp_path) == 2
            await own.until(lambda: own.labels == {"stable": 1, "candidate": 2})
            assert (theirs.reloads, theirs.predicts) == ([], [])


async def test_a_foreign_server_is_taken_over_where_a_setting_says_so(tmp_path: Path) -> None:
    publish_fake(tmp_path)
    async with ManagedBackend(tmp_path) as server:
        server.add_version(1, read_manifest(tmp_path / MODEL / "1"))
        server.add_version(7, describes=False)
        async with running_gateway(server, repository=str(tmp_path), take_over_model_servers=True) as gateway:
            await server.until(lambda: server.labels == {"stable": 1})
            assert gateway.gateway.pool.foreign == {}


async def test_another_server_at_the_same_address_is_compared_anew(tmp_path: Path) -> None:
    async with released_gateway(tmp_path) as at:
        await at.until_told(stable=1)
        await at.backend.stop()
        await at.gateway.until_connected(False)
        at.backend.versions.clear()
        at.backend.labels.clear()
        at.backend.reloads.clear()
        at.backend.add_version(1)
        await at.backend.start()
        await until_foreign(at.gateway, at.backend.address)
        assert at.backend.reloads == []
        # Somebody mends the address.
        await at.backend.stop()
        await at.gateway.until_connected(False)
        at.backend.versions.clear()
        at.backend.add_version(1, read_manifest(tmp_path / MODEL / "1"))
        await at.backend.start()
        await at.until_told(stable=1)
        assert at.gateway.gateway.pool.foreign == {}
