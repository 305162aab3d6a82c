"""Promotion, rollback, splits and the audit record, over fake model servers that mind the rules of labels."""

from __future__ import annotations

import asyncio
import shutil
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from neurogate.v1 import classification_pb2 as pb
from neurogate.v1 import model_pb2
from neurogate_core.manifest import write_manifest
from neurogate_core.model_config import find_model, read_config
from neurogate_core.release_store import Changed
from neurogate_gateway.backends.pool import BackendPool
from neurogate_gateway.errors import EtagMismatchError
from neurogate_gateway.release.promotion import ChangeRequest
from neurogate_testing.fake_backend import build_manifest, sample_image
from neurogate_testing.gateway_harness import failure, running_gateway, serving_gateway
from neurogate_testing.releases import MODEL, ManagedBackend, publish_fake, released_gateway

REQUEST = pb.ClassifyRequest(image=sample_image())
REJECTED = model_pb2.MODEL_VERSION_STATE_REJECTED
RETIRED = model_pb2.MODEL_VERSION_STATE_RETIRED


async def test_the_first_version_becomes_stable_and_the_next_one_candidate(tmp_path: Path) -> None:
    async with released_gateway(tmp_path) as at:
        release = await at.release()
        assert dict(release.labels) == {"stable": 1}
        assert (release.mode, release.model) == (model_pb2.RELEASE_MODE_MANUAL, MODEL)
        assert (release.last_change.actor, release.last_change.sequence) == ("gateway", 1)
        response = await at.gateway.classification.Classify(REQUEST)
        assert (response.model.version, response.model.label) == (1, "stable")
        await at.until_told(stable=1)
        publish_fake(tmp_path)
        await at.until_labels(stable=1, candidate=2)
        await at.until_told(stable=1, candidate=2)
        await at.gateway.until_ready(2)
        assert (await at.gateway.classification.Classify(REQUEST)).model.version == 1
        by_label = pb.ClassifyRequest(image=sample_image(), model=model_pb2.ModelSelector(label="candidate"))
        assert (await at.gateway.classification.Classify(by_label)).model.version == 2
        request = model_pb2.GetModelVersionRequest(version=2)
        version = (await at.gateway.models.GetModelVersion(request)).version
        assert list(version.labels) == ["candidate", "latest"]


async def test_promotion_and_rollback(tmp_path: Path) -> None:
    async with released_gateway(tmp_path, 2) as at:
        before = await at.release()
        response = await at.promote(2, etag=before.etag, reason="better recall", request_id="p-1")
        assert dict(response.release.labels) == {"stable": 2, "previous": 1}
        assert response.release.etag != before.etag
        change = response.change
        assert (change.action, change.reason, change.request_id) == (
            model_pb2.RELEASE_ACTION_PROMOTE,
            "better recall",
            "p-1",
        )
        assert change.actor.startswith("ipv4:127.0.0.1")
        assert (dict(change.labels_before), dict(change.labels_after)) == (
            {"stable": 1, "candidate": 2},
            {"stable": 2, "previous": 1},
        )
        # What was answered is true by then.
        assert (await at.gateway.classification.Classify(REQUEST)).model.version == 2
        await at.until_told(stable=2, previous=1)
        back = await at.gateway.models.RollbackModel(model_pb2.RollbackModelRequest(reason="worse"))
        assert dict(back.release.labels) == {"stable": 1, "previous": 2}
        assert (await at.gateway.classification.Classify(REQUEST)).model.version == 1
        await at.until_told(stable=1, previous=2)
        # A version that was rolled back does not come again by itself.
        assert "candidate" not in (await at.release()).labels
        assert at.backend.refused == []


async def test_threads_that_decide_are_given_where_versions_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere: list[str] = []
    for name in ("ready", "view", "versions"):
        real = getattr(BackendPool, name)

        def looked(*args: Any, name: str = name, real: Any = real) -> Any:
            if threading.current_thread() is not threading.main_thread():
                elsewhere.append(name)
            return real(*args)

        monkeypatch.setattr(BackendPool, name, looked)
    async with released_gateway(tmp_path, 2, keep_versions=1) as at:
        models = at.gateway.models
        await models.SetTrafficSplit(model_pb2.SetTrafficSplitRequest(canary_version=2, canary_percent=5))
        await at.promote(2)
        await models.SetTrafficSplit(model_pb2.SetTrafficSplitRequest(shadow_version=1))
        await models.RollbackModel(model_pb2.RollbackModelRequest())
        refused = models.PromoteModelVersion(model_pb2.PromoteModelVersionRequest(version=9))
        assert (await failure(refused)).reason == "MODEL_VERSION_NOT_FOUND"
    assert elsewhere == []


async def test_two_rollbacks_at_once_go_back_once(tmp_path: Path) -> None:
    async with released_gateway(tmp_path, 2) as at:
        await at.promote(2)
        service = at.gateway.gateway.release_module.service
        assert service is not None
        done, late = await asyncio.gather(
            service.rollback(ChangeRequest(actor="one")),
            service.rollback(ChangeRequest(actor="another")),
            return_exceptions=True,
        )
        assert isinstance(late if isinstance(done, Changed) else done, EtagMismatchError)
        assert dict((await at.release()).labels) == {"stable": 1, "previous": 2}


async def test_the_model_servers_file_follows_and_keeps_what_it_says_of_others(tmp_path: Path) -> None:
    path = tmp_path / "models.config"
    publish_fake(tmp_path)
    other = tmp_path / "other"
    (other / "1").mkdir(parents=True)
    path.write_text(
        f'model_config_list {{ config {{ name: "other" base_path: "{other}" model_platform: "tensorflow" }} '
        f'config {{ name: "{MODEL}" base_path: "/models/{MODEL}" model_platform: "tensorflow" }} }}'
    )
    async with released_gateway(tmp_path, 2) as at:
        await at.promote(2)
        await at.until_told(stable=2, previous=1)
        config = read_config(path)
        assert [entry.name for entry in config.model_config_list.config] == ["other", MODEL]
        entry = find_model(config, MODEL)
        assert entry.base_path == f"/models/{MODEL}"
        assert list(entry.model_version_policy.specific.versions) == [1, 2]
        assert dict(entry.version_labels) == {"stable": 2, "previous": 1}
        assert at.backend.reloads[-1] == config


async def test_labels_survive_a_restart_of_everything(tmp_path: Path) -> None:
    async with released_gateway(tmp_path, 3) as at:
        await at.promote(3)
        await at.until_told(stable=3, previous=1)
        await at.gateway.models.RollbackModel(model_pb2.RollbackModelRequest())
        await at.until_told(stable=1, previous=3)
    async with released_gateway(tmp_path) as at:
        assert dict((await at.release()).labels) == {"stable": 1, "previous": 3}
        assert at.backend.labels == {"stable": 1, "previous": 3}
        await at.gateway.until_ready(1)
        assert (await at.gateway.classification.Classify(REQUEST)).model.version == 1


async def test_a_model_server_that_starts_anew_is_told_again(tmp_path: Path) -> None:
    async with released_gateway(tmp_path, 2) as at:
        await at.promote(2)
        await at.until_told(stable=2, previous=1)
        await at.backend.stop()
        await at.gateway.until_connected(False)
        # It comes back as it was first started, with the newest version alone and without labels.
        at.backend.labels = {}
        at.backend.unload(1)
        at.backend.reloads.clear()
        await at.backend.start()
        await at.until_told(stable=2, previous=1)
        await at.gateway.until_ready(1)
        assert at.backend.refused == []


async def test_a_version_that_cannot_be_loaded_harms_nobody(tmp_path: Path) -> None:
    async with released_gateway(tmp_path) as at:
        at.backend.unloadable.add(2)
        publish_fake(tmp_path)
        rejected = await at.gateway.until_state(2, REJECTED)
        assert "could not load it" in rejected.state_reason
        for force in (False, True):
            failed = await failure(at.promote(2, force=force))
            assert (failed.code, failed.reason) == (
                grpc.StatusCode.FAILED_PRECONDITION,
                "MODEL_VERSION_REJECTED",
            )
            assert failed.metadata["state_reason"] == rejected.state_reason
        # A server that starts with it in its file would end at once.
        await at.until_told(stable=1)
        entry = find_model(read_config(tmp_path / "models.config"), MODEL)
        assert list(entry.model_version_policy.specific.versions) == [1]
        # The next one takes its place.
        publish_fake(tmp_path)
        await at.until_labels(stable=1, candidate=3)
        await at.gateway.until_ready(3)
        await at.promote(3)
        assert (await at.gateway.classification.Classify(REQUEST)).model.version == 3


async def test_old_versions_are_retired_and_come_back_as_shadow(tmp_path: Path) -> None:
    async with released_gateway(tmp_path, 2, retire_after_seconds=0.0) as at:
        await at.promote(2)
        publish_fake(tmp_path)
        await at.gateway.until_ready(3)
        await at.promote(3)
        await at.gateway.until_state(1, RETIRED)
        await at.until_told(stable=3, previous=2)
        last = (await at.release()).last_change
        assert (last.action, last.actor) == (model_pb2.RELEASE_ACTION_RETIRE, "gateway")
        assert (await failure(at.promote(1))).reason == "MODEL_VERSION_NOT_READY"
        await at.gateway.models.SetTrafficSplit(model_pb2.SetTrafficSplitRequest(shadow_version=1))
        await at.gateway.until_ready(1)
        await at.promote(1)
        assert (await at.gateway.classification.Classify(REQUEST)).model.version == 1


async def test_pruning_removes_old_versions_and_leaves_broken_folders(
    tmp_path: Path,
) -> None:
    for _ in range(5):
        publish_fake(tmp_path)
    (tmp_path / MODEL / "2" / "saved_model.pb").unlink()
    async with released_gateway(tmp_path, retire_after_seconds=0.0, keep_versions=1) as at:
        # With version 1 loaded it is the first, and 5 the news.
        await at.until_labels(stable=1, candidate=5)
        await at.gateway.until_ready(5)
        await at.promote(5)
        polls = iter(range(2000))
        while at.backend.repository.versions(MODEL) != [1, 2, 4, 5]:
            seen = at.backend.polls
            await at.backend.until(lambda seen=seen: at.backend.polls > seen)
            assert next(polls) < 1999
        assert (await at.gateway.until_state(2, REJECTED)).state_reason == "saved_model.pb is missing"
        # As if another gateway had been faster.
        controller = at.gateway.gateway.release_module.controller
        assert controller is not None
        controller.published |= {3}
        await controller._prune()
        assert not controller._troubles
        assert publish_fake(tmp_path) == 6


async def test_canary_gets_its_share_and_a_caller_stays_on_one_side(tmp_path: Path) -> None:
    async with released_gateway(tmp_path, 2) as at:
        request = model_pb2.SetTrafficSplitRequest(canary_version=2, canary_percent=30)
        response = await at.gateway.models.SetTrafficSplit(request)
        assert (response.release.labels["canary"], response.release.canary_percent) == (2, 30)
        assert response.change.action == model_pb2.RELEASE_ACTION_SET_TRAFFIC
        seen: dict[str, set[int]] = {}
        for key in [f"caller-{number}" for number in range(60)] * 2:
            answer = await at.gateway.classification.Classify(
                pb.ClassifyRequest(image=sample_image(), routing_key=key)
            )
            seen.setdefault(key, set()).add(answer.model.version)
        assert all(len(versions) == 1 for versions in seen.values())
        share = sum(versions == {2} for versions in seen.values()) / len(seen)
        assert 0.1 < share < 0.5
        none = await at.gateway.models.SetTrafficSplit(model_pb2.SetTrafficSplitRequest())
        assert dict(none.release.labels) == {"stable": 1, "candidate": 2}


async def test_refused_changes_leave_no_trace(tmp_path: Path) -> None:
    async with released_gateway(tmp_path, 2) as at:
        await at.until_labels(stable=1, candidate=2)
        before = await at.release()
        split = model_pb2.SetTrafficSplitRequest
        promote, rollback = model_pb2.PromoteModelVersionRequest, model_pb2.RollbackModelRequest
        refusals: list[tuple[Message, str]] = [
            (promote(version=2, etag="stale"), "ETAG_MISMATCH"),
            (rollback(etag="stale"), "ETAG_MISMATCH"),
            (promote(version=9), "MODEL_VERSION_NOT_FOUND"),
            (promote(), "MODEL_SELECTOR_INVALID"),
            (promote(version=-3), "MODEL_SELECTOR_INVALID"),
            (promote(version=2, model="liver"), "MODEL_NOT_FOUND"),
            (promote(version=2, reason="x" * 513), "CHANGE_REASON_INVALID"),
            (promote(version=2, reason="a\nb"), "CHANGE_REASON_INVALID"),
            (promote(version=2, request_id="é"), "REQUEST_ID_INVALID"),
            (rollback(), "NOTHING_TO_ROLL_BACK"),
            (split(canary_version=2), "TRAFFIC_SPLIT_INVALID"),
            (split(canary_percent=5), "TRAFFIC_SPLIT_INVALID"),
            (split(canary_version=1, canary_percent=5), "TRAFFIC_SPLIT_INVALID"),
            (split(canary_version=9, canary_percent=5), "MODEL_VERSION_NOT_FOUND"),
            (split(shadow_version=9), "MODEL_VERSION_NOT_FOUND"),
            (model_pb2.EvaluateModelVersionRequest(version=2), "EVALUATION_IMPOSSIBLE"),
            (model_pb2.EvaluateModelVersionRequest(version=9), "MODEL_VERSION_NOT_FOUND"),
            (model_pb2.ListReleaseChangesRequest(page_size=-1), "PAGE_INVALID"),
            (
                model_pb2.ListReleaseChangesRequest(page_token="dmVyc2lvbnM6ZTNiMGM0NDI5OGZjMWMxNDoz"),
                "PAGE_INVALID",
            ),
        ]
        for request, reason in refusals:
            method = type(request).__name__.removesuffix("Request")
            failed = await failure(getattr(at.gateway.models, method)(request))
            assert failed.reason == reason, request
        assert await at.release() == before


async def test_a_repeat_gets_the_first_answer(tmp_path: Path) -> None:
    async with released_gateway(tmp_path, 2) as at:
        first = await at.promote(2, request_id="p-1", reason="r")
        await at.gateway.models.RollbackModel(model_pb2.RollbackModelRequest())
        again = await at.promote(2, request_id="p-1", reason="r")
        assert (again.change, again.release) == (first.change, first.release)
        assert (await at.release()).labels["stable"] == 1
        failed = await failure(at.promote(1, request_id="p-1", reason="r"))
        assert (failed.code, failed.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED")
    async with released_gateway(tmp_path) as at:
        later = await at.promote(2, request_id="p-1", reason="r")
        assert later.change == first.change


async def test_what_is_so_already_is_no_change(tmp_path: Path) -> None:
    split = model_pb2.SetTrafficSplitRequest
    async with released_gateway(tmp_path, 2) as at:
        first = await at.promote(2, request_id="p-1")
        before = await at.release()
        for request_id in ("", "p-2"):
            done = await at.promote(2, request_id=request_id)
            assert (done.release.etag, done.HasField("change")) == (before.etag, False)
        none = await at.gateway.models.SetTrafficSplit(split(request_id="s-1"))
        assert (none.release.etag, none.HasField("change")) == (before.etag, False)
        assert (await failure(at.promote(2, etag="stale"))).reason == "ETAG_MISMATCH"
        assert (await at.promote(2, request_id="p-1")).change == first.change
        canary = split(canary_version=1, canary_percent=5)
        assert (await at.gateway.models.SetTrafficSplit(canary)).HasField("change")
        assert not (await at.gateway.models.SetTrafficSplit(canary)).HasField("change")
        # With the etag, a repeat undoes nothing that others have changed since.
        await at.gateway.models.RollbackModel(model_pb2.RollbackModelRequest())
        repeat = at.promote(2, request_id="p-2", etag=before.etag)
        assert (await failure(repeat)).reason == "ETAG_MISMATCH"
        assert (await at.release()).labels["stable"] == 1


async def test_the_record_pages_newest_first(tmp_path: Path) -> None:
    async with released_gateway(tmp_path, 2) as at:
        await at.promote(2)
        for _ in range(5):
            await at.gateway.models.RollbackModel(model_pb2.RollbackModelRequest())
        sequences: list[int] = []
        token = ""
        while True:
            request = model_pb2.ListReleaseChangesRequest(page_size=3, page_token=token)
            page = await at.gateway.models.ListReleaseChanges(request)
            sequences += [change.sequence for change in page.changes]
            token = page.next_page_token
            if not token:
                break
        assert sequences == list(range(len(sequences), 0, -1))
        assert len(sequences) == 8


async def test_two_gateways_agree_and_one_of_two_promotions_wins(tmp_path: Path) -> None:
    async with released_gateway(tmp_path, 3) as at:
        async with running_gateway(at.backend, repository=str(tmp_path)) as other:
            for version in (1, 3):
                await other.until_ready(version)
            await at.until_labels(other.models, stable=1, candidate=3)
            for _ in range(10):
                release = await at.release()
                await at.until(lambda seen, etag=release.etag: seen.etag == etag, other.models)
                stable = release.labels["stable"]
                wanted = 3 if stable != 3 else 1

                async def promote(models: object, version: int, etag: str) -> str:
                    request = model_pb2.PromoteModelVersionRequest(version=version, etag=etag)
                    try:
                        await models.PromoteModelVersion(request)  # type: ignore[attr-defined]
                    except grpc.aio.AioRpcError as error:
                        return error.code().name
                    return "won"

                outcomes = await asyncio.gather(
                    promote(at.gateway.models, wanted, release.etag),
                    promote(other.models, wanted, release.etag),
                )
                assert sorted(outcomes) == ["ABORTED", "won"]
                await at.until(lambda seen, v=wanted: seen.labels["stable"] == v)
                await at.until(lambda seen, v=wanted: seen.labels["stable"] == v, other.models)
                assert (await other.classification.Classify(REQUEST)).model.version == wanted
        assert at.backend.refused == []


@pytest.mark.parametrize("lost", ["document", "repository"])
async def test_without_its_release_a_gateway_refuses_changes_and_serves(tmp_path: Path, lost: str) -> None:
    root = tmp_path / "models"
    document = root / MODEL / ".release.json"
    async with released_gateway(root, 2) as at:
        was = await at.until_labels(stable=1, candidate=2)
        content = document.read_bytes()
        if lost == "document":
            document.write_bytes(b"{")
        else:
            root.rename(tmp_path / "unmounted")
            root.mkdir()
        failed = await failure(at.promote(2))
        assert (failed.code, failed.reason) == (grpc.StatusCode.UNAVAILABLE, "RELEASE_UNAVAILABLE")
        assert str(tmp_path) not in failed.message
        assert "RetryInfo" in failed.details
        # The gateway has certainly looked by then.
        controller = at.gateway.gateway.release_module.controller
        assert controller is not None
        assert not await controller._refresh()
        assert (await at.gateway.classification.Classify(REQUEST)).model.version == 1
        assert await at.release() == was
        if lost == "document":
            document.write_bytes(content)
        else:
            shutil.rmtree(root)
            (tmp_path / "unmounted").rename(root)
        assert (await at.promote(2)).release.labels["stable"] == 2


async def test_a_gateway_never_guesses_what_stable_was(tmp_path: Path) -> None:
    async with released_gateway(tmp_path, 2) as at:
        await at.until_told(stable=1, candidate=2)
    document = tmp_path / MODEL / ".release.json"
    document.write_bytes(b"")
    async with ManagedBackend(tmp_path) as backend:
        backend.configure(read_config(tmp_path / "models.config"))
        async with running_gateway(backend, repository=str(tmp_path)) as gateway:
            await gateway.until_ready(2)
            failed = await failure(gateway.classification.Classify(REQUEST))
            assert failed.reason == "MODEL_NOT_READY"


async def test_the_release_in_mode_latest(tmp_path: Path) -> None:
    async with serving_gateway() as (gateway, _):
        release = (await gateway.models.GetRelease(model_pb2.GetReleaseRequest())).release
        assert release == model_pb2.Release(
            model=MODEL, mode=model_pb2.RELEASE_MODE_LATEST, labels={"stable": 1}
        )


async def test_a_gateway_that_starts_leaves_labels_where_they_are(tmp_path: Path) -> None:
    """Direct clients see no gap, even while the gateway cannot prove what the server has loaded."""
    async with released_gateway(tmp_path, 2) as at:
        await at.promote(2)
        await at.until_told(stable=2, previous=1)
        async with running_gateway(at.backend, repository=str(tmp_path)) as before:
            await before.until_ready(2)
        at.backend.reloads.clear()
        for version in at.backend.versions.values():
            version.refusal = (grpc.StatusCode.UNAVAILABLE, "busy")
        async with running_gateway(at.backend, repository=str(tmp_path)):
            await at.backend.until(lambda: len(at.backend.reloads) >= 1)
            polls = at.backend.polls
            await at.backend.until(lambda: at.backend.polls >= polls + 20)
        for config in at.backend.reloads:
            assert dict(find_model(config, MODEL).version_labels) == {"stable": 2, "previous": 1}


async def test_a_model_server_that_hangs_holds_up_no_other(tmp_path: Path) -> None:
    async with released_gateway(tmp_path, 2) as at, ManagedBackend(tmp_path) as other:
        await at.until_told(stable=1, candidate=2)
        other.configure(read_config(tmp_path / "models.config"))
        async with running_gateway(at.backend, other, repository=str(tmp_path)) as gateway:
            await gateway.until_ready(2)
            at.backend.reloads_answered.clear()
            request = model_pb2.PromoteModelVersionRequest(version=2)
            await gateway.models.PromoteModelVersion(request)
            await other.until(lambda: other.labels == {"stable": 2, "previous": 1})
            assert at.backend.labels == {"stable": 1, "candidate": 2}
            at.backend.reloads_answered.set()
            await at.until_told(stable=2, previous=1)
        assert at.backend.refused == other.refused == []


async def test_broken_folders_are_rejected_by_name_and_never_loaded(tmp_path: Path) -> None:
    publish_fake(tmp_path)
    model = tmp_path / MODEL
    shutil.copytree(model / "1", model / "2")
    (model / "1700000000").mkdir()
    async with released_gateway(tmp_path) as at:
        assert dict((await at.release()).labels) == {"stable": 1}
        for number, reason in ((2, "the folder was copied or renamed"), (1700000000, "it has no manifest")):
            version = await at.gateway.until_state(number, REJECTED)
            assert reason in version.state_reason
            assert not version.backends
        # Copied on the side with the next number, though a stray one above it is there.
        (model / "2").rename(model / "copy")
        (model / "copy" / "assets" / "neurogate_manifest.binpb").unlink()
        write_manifest(model / "copy", build_manifest(2))
        (model / "copy").rename(model / "2")
        await at.until_labels(stable=1, candidate=2)
        await at.gateway.until_ready(2)
        assert (await at.gateway.classification.Classify(REQUEST)).model.version == 1
        told = {
            number
            for config in at.backend.reloads
            for number in find_model(config, MODEL).model_version_policy.specific.versions
        }
        assert told == {1, 2}
        (model / "1700000000").rmdir()
        await at.gateway.until_state(1700000000, RETIRED)
