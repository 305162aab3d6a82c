from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from neurogate.v1 import model_pb2
from neurogate_client import Client, aio, enum_name, errors
from neurogate_testing.fake_gateway import FakeGateway, status, version
from neurogate_testing.fake_release import gate_report


@pytest.fixture(autouse=True)
def two_versions(gateway: FakeGateway) -> None:
    gateway.script.versions = [version(2, labels=("candidate",)), version(1, labels=("stable",))]


def unavailable() -> object:
    return status(grpc.StatusCode.UNAVAILABLE, "RELEASE_UNAVAILABLE", "the disk is away")


def test_the_release_as_it_is(client: Any, gateway: FakeGateway) -> None:
    release = gateway.script.release
    release.labels, release.canary_percent, release.mode = {"stable": 1, "canary": 2}, 12.5, "GATED"
    release.agreement = model_pb2.ShadowAgreement(
        stable_version=1, shadow_version=2, class_ids=["a", "b"], counts=[8, 1, 0, 3], compared=12, dropped=4
    )
    release.guards.append(model_pb2.GuardState(name="latency", version=2, value=21, limit=40, breaches=1))
    found = client.get_release()
    assert (found.labels["stable"], found.canary_percent, enum_name(found, "mode")) == (1, 12.5, "GATED")
    assert found.shadow == release.agreement
    assert list(found.guards) == release.guards
    assert not found.HasField("last_change")


def test_versions_have_backends_and_the_gates_verdict(client: Any, gateway: FakeGateway) -> None:
    message = gateway.script.versions[0]
    message.gate.CopyFrom(gate_report(2, accepted=False))
    message.backends.add(
        address="10.0.0.7:8500", state="MODEL_VERSION_STATE_REJECTED", state_reason="weights differ"
    )
    found = client.list_model_versions()[0]
    assert found.backends == message.backends
    assert found.gate == message.gate


def test_promote_and_roll_back(client: Any, gateway: FakeGateway) -> None:
    seen = client.get_release()
    promoted = client.promote(2, etag=seen.etag, reason="better on glioma")
    assert promoted.release.labels == {"stable": 2, "previous": 1}
    assert enum_name(promoted.change, "action") == "PROMOTE"
    assert (promoted.change.reason, promoted.change.gate.accepted) == ("better on glioma", True)
    with pytest.raises(errors.ReleaseChangedError):
        client.promote(1, etag=seen.etag)
    back = client.rollback()
    assert back.release.labels == {"stable": 1, "previous": 2}
    assert [enum_name(each, "action") for each in client.list_release_changes()] == ["ROLLBACK", "PROMOTE"]


def test_what_is_so_already_is_no_change(client: Any) -> None:
    release = client.get_release()
    for done in (client.promote(1), client.set_traffic_split()):
        assert (done.release, done.HasField("change")) == (release, False)
    assert client.list_release_changes() == []


def test_a_refusal_of_the_gate_and_force(client: Any, gateway: FakeGateway) -> None:
    gateway.script.release.reports[2] = gate_report(2, accepted=False)
    with pytest.raises(errors.GateRefusedError, match=r"recall_floor\.glioma"):
        client.promote(2)
    assert client.promote(2, force=True).change.forced
    assert not client.evaluate_model_version(2).accepted


def test_the_split_is_set_as_a_whole(client: Any) -> None:
    split = client.set_traffic_split(canary_version=2, canary_percent=10, shadow_version=2).release
    assert split.labels == {"stable": 1, "canary": 2, "shadow": 2}
    assert (split.canary_percent, split.shadow.shadow_version) == (10, 2)
    cleared = client.set_traffic_split().release
    assert (cleared.labels, cleared.canary_percent, cleared.HasField("shadow")) == ({"stable": 1}, 0, False)
    with pytest.raises(errors.InvalidOptionError, match="a canary wants a version"):
        client.set_traffic_split(canary_percent=10)


def test_a_change_whose_answer_is_lost_happens_once(client: Any, gateway: FakeGateway) -> None:
    gateway.script.lose_answers = 1
    assert client.promote(2).release.labels["stable"] == 2
    gateway.script.lose_answers = 1
    assert client.rollback().release.labels["stable"] == 1
    assert len(gateway.script.release.changes) == 2
    assert gateway.script.calls == ["PromoteModelVersion"] * 2 + ["RollbackModel"] * 2


def test_the_callers_request_id_is_sent(client: Any, gateway: FakeGateway) -> None:
    first = client.promote(2, request_id="deploy-7")
    assert client.promote(2, request_id="deploy-7") == first
    with pytest.raises(errors.InvalidOptionError, match="another request had it"):
        client.promote(1, request_id="deploy-7")
    assert len(gateway.script.release.changes) == 1


def test_changes_come_in_pages(client: Any, gateway: FakeGateway) -> None:
    gateway.script.page_size = 2
    for percent in range(1, 6):
        client.set_traffic_split(canary_version=2, canary_percent=percent)
    assert [each.sequence for each in client.list_release_changes()] == [5, 4, 3, 2, 1]
    assert [each.sequence for each in client.list_release_changes(limit=3)] == [5, 4, 3]


def test_a_watch_begins_with_the_present_state_and_goes_on(client: Any, gateway: FakeGateway) -> None:
    events = client.watch_model_versions()
    present = [next(events) for _ in range(3)]
    assert [each.version.version for each in present[:2]] == [2, 1]
    assert all(each.snapshot for each in present)
    assert present[2].release.labels == {"stable": 1}
    gateway.script.release.announce(version=version(3, state="LOADING"))
    change = next(events)
    assert (change.version.version, enum_name(change.version, "state"), change.snapshot) == (
        3,
        "LOADING",
        False,
    )
    events.close()
    assert gateway.script.cancelled.wait(10)


def test_a_broken_watch_goes_on_behind_what_was_seen(client: Any, gateway: FakeGateway) -> None:
    release = gateway.script.release
    release.cut_after = [4, 1]
    events = client.watch_model_versions()
    for _ in range(3):
        next(events)
    seen = []
    for number in (3, 4, 5, 6):
        release.announce(version=version(number))
        seen.append(next(events).version.version)
    assert seen == [3, 4, 5, 6]
    tokens = [each.resume_token for each in gateway.script.requests]
    assert tokens == ["", "t1", "t2"]
    events.close()


def test_another_gateway_that_does_not_know_the_token_gives_the_state_again(
    client: Any, gateway: FakeGateway
) -> None:
    release = gateway.script.release
    release.cut_after, release.forgetful = [3], True
    events = client.watch_model_versions()
    kinds = [next(events).snapshot for _ in range(6)]
    assert kinds == [True] * 6
    assert [each.resume_token for each in gateway.script.requests] == ["", "t0", ""]
    events.close()


def test_a_watch_gives_up_after_its_patience_and_on_other_errors(client: Any, gateway: FakeGateway) -> None:
    gateway.script.failures = [unavailable()] * 50
    with pytest.raises(errors.UnavailableError, match="the disk is away"):
        next(client.watch_model_versions(patience=0.5))
    gateway.script.failures = [status(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", "no such model")]
    with pytest.raises(errors.ModelNotFoundError):
        next(client.watch_model_versions(model="other"))
    with pytest.raises(ValueError, match="patience is 0"):
        next(client.watch_model_versions(patience=0))


def test_a_watch_has_a_timeout(client: Any) -> None:
    events = client.watch_model_versions(timeout=1.0)
    with pytest.raises(errors.DeadlineExceededError):
        list(events)


def test_a_closed_client_watches_nothing(make_client: Callable[..., Any], gateway: FakeGateway) -> None:
    with Client(gateway.address) as client:
        client.health()
    with pytest.raises(errors.CallCancelledError, match="the client is closed"):
        next(client.watch_model_versions())
    with pytest.raises(errors.CallCancelledError, match="the client is closed"):
        client.get_release()


def test_both_clients_have_the_same_methods_with_the_same_arguments() -> None:
    def public(kind: type) -> dict[str, inspect.Signature]:
        return {
            name: inspect.signature(getattr(kind, name))
            for name in dir(kind)
            if not name.startswith("_") and callable(getattr(kind, name))
        }

    threads, asyncio = public(Client), public(aio.Client)
    assert list(threads) == list(asyncio)
    assert len(threads) > 20
    for name, signature in threads.items():
        assert list(signature.parameters) == list(asyncio[name].parameters), name
        assert getattr(Client, name).__doc__
    assert inspect.iscoroutinefunction(aio.Client.promote)
    assert not inspect.iscoroutinefunction(Client.promote)


def test_the_routing_key_reaches_every_call(client: Any, gateway: FakeGateway) -> None:
    client.classify(b"glioma", routing_key="ward-3")
    client.batch_classify([b"glioma"], routing_key="ward-3")
    client.explain(b"glioma", routing_key="ward-3")
    list(client.stream_classify([("k", b"glioma")], routing_key="ward-3"))
    requests = [each for each in gateway.script.requests if not getattr(each, "key", "")]
    assert [getattr(each, "config", each).routing_key for each in requests] == ["ward-3"] * 4
