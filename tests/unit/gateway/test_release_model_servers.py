"""Model servers are told what the release says, by configurations that TensorFlow Serving accepts."""

from __future__ import annotations

import asyncio
import types
from pathlib import Path
from typing import Any, ClassVar, cast

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neurogate.tfs.v1 import tfs_pb2
from neurogate_core.model_config import default_config, find_model, read_config
from neurogate_core.release_store import State
from neurogate_gateway.backends.tfserving import TensorFlowServing
from neurogate_gateway.errors import BackendUnavailableError
from neurogate_gateway.release.model_servers import ModelServers, Step, next_step, wanted_step

STATE = State(labels={"stable": 2, "previous": 1})


def managed(root: Path, controller: Any, pool: Any) -> ModelServers:
    return ModelServers(root, "brain_tumor", controller, pool, cast("Any", _Own()))


async def test_a_server_that_is_replaced_while_the_file_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = types.SimpleNamespace(
        release=types.SimpleNamespace(state=STATE), published=frozenset({1, 2})
    )
    pool = types.SimpleNamespace(versions=list, backends={"a:1": True})
    servers = managed(tmp_path, controller, pool)
    loaded = {"a:1": frozenset({1, 2})}
    told: list[Step] = []

    def written(
        wanted: Step, sound: frozenset[int], rejected: frozenset[int], first: int | None
    ) -> tfs_pb2.ModelServerConfig:
        assert (sound, rejected) == ({1, 2}, frozenset())
        loaded["a:1"] = frozenset({2})
        return default_config("brain_tumor", tmp_path / "brain_tumor")

    async def tell(address: str, step: Step, config: tfs_pb2.ModelServerConfig) -> None:
        told.append(step)

    monkeypatch.setattr(servers, "_loaded", lambda: dict(loaded))
    monkeypatch.setattr(servers, "_write_file", written)
    monkeypatch.setattr(servers, "_send", tell)
    await servers._reconcile()
    await servers._sending["a:1"]
    assert told == [Step(versions=(1, 2), labels={"stable": 2})]


@pytest.mark.parametrize("error", [None, BackendUnavailableError("gone")])
async def test_what_was_told_to_servers_that_left_is_forgotten(
    tmp_path: Path, error: BackendUnavailableError | None
) -> None:
    (tmp_path / "brain_tumor").mkdir()
    state = types.SimpleNamespace(state=State(labels={"stable": 1}))
    controller = types.SimpleNamespace(release=state, published=frozenset({1}))

    class Pool:
        backends: ClassVar[dict[str, bool]] = {}

        def versions(self) -> list[Any]:
            return []

        async def reload(self, config: tfs_pb2.ModelServerConfig, *, addresses: list[str]) -> Any:
            return dict.fromkeys(addresses, error)

    Pool.backends = {"a:1": True, "b:1": True}
    servers = managed(tmp_path, controller, Pool())
    await servers._reconcile()
    await asyncio.gather(*servers._sending.values())
    del Pool.backends["a:1"]
    await servers._reconcile()
    assert servers._sent.keys() | servers._not_before.keys() == {"b:1"}
    assert "a:1" not in servers._logged


def test_before_anything_is_released_the_file_names_the_newest_whole_version(tmp_path: Path) -> None:
    servers = managed(tmp_path, None, _NoServers())

    def kept(first: int | None) -> list[int]:
        servers._write_file(Step(), frozenset(), frozenset(), first)
        entry = find_model(read_config(tmp_path / "models.config"), "brain_tumor")
        return list(entry.model_version_policy.specific.versions)

    assert kept(None) == []
    assert kept(2) == [2]
    # It may have been one that cannot be loaded, so that a newer one takes its place.
    assert kept(3) == [3]
    assert kept(None) == [3]


class _Own:
    def look(self) -> None:
        pass

    def is_own(self, address: str) -> bool:
        return True


class _NoServers:
    def versions(self) -> list[Any]:
        return []


async def test_a_connection_that_ends_and_is_there_again_at_once_has_ended() -> None:
    server = TensorFlowServing("127.0.0.1:1")
    ready = grpc.ChannelConnectivity.READY
    left = []

    class BackAgain:
        def get_state(self) -> grpc.ChannelConnectivity:
            return ready

        async def wait_for_state_change(self, state: grpc.ChannelConnectivity) -> None:
            assert not left
            left.append(state)

    await server.close()
    server._channel = cast("Any", BackAgain())
    await server.disconnected()
    assert left == [ready]


async def test_no_server_is_told_to_wait_for_a_model_that_has_no_version(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "seen" / "1").mkdir(parents=True)
    (tmp_path / "empty" / "later").mkdir(parents=True)
    paths = {
        "brain_tumor": "/nowhere",
        "known": "/elsewhere/known",
        "seen": str(tmp_path / "seen"),
        "empty": str(tmp_path / "empty"),
        "remote": "s3://bucket/remote",
        "pinned": str(tmp_path / "seen"),
        "astray": str(tmp_path / "seen"),
    }
    config = tfs_pb2.ModelServerConfig()
    for name, path in paths.items():
        config.model_config_list.config.add(name=name, base_path=path)
    *_, pinned, astray = config.model_config_list.config
    pinned.model_version_policy.specific.versions.extend([1, 2])
    astray.model_version_policy.specific.versions.append(2)
    asked: list[str] = []
    told: list[list[str]] = []

    class Pool:
        async def knows(self, address: str, model: str) -> bool:
            asked.append(model)
            if len(told) > 1:
                raise BackendUnavailableError("gone")
            return model == "known"

        async def reload(self, config: tfs_pb2.ModelServerConfig, *, addresses: list[str]) -> Any:
            told.append([entry.name for entry in config.model_config_list.config])
            return dict.fromkeys(addresses)

    servers = managed(tmp_path, None, Pool())
    for _ in range(3):
        servers._sending["a:1"] = cast("Any", None)
        await servers._send("a:1", Step(versions=(1,)), config)
    # The third time the server could not be asked, and so was not told.
    assert told == [["brain_tumor", "known", "seen", "pinned"]] * 2
    assert set(asked) == {"known", "empty", "remote", "astray"}
    assert len(config.model_config_list.config) == 7
    # One for each model that is left out, and one for the server, however often.
    assert caplog.messages.count("model_server_not_configured") == 4


VERSIONS = st.integers(1, 6)
LABELS = st.dictionaries(st.sampled_from(["stable", "previous", "canary", "candidate", "shadow"]), VERSIONS)


class Server:
    """What TensorFlow Serving does with the configurations of one model, by default flags."""

    def __init__(self, loaded: set[int]) -> None:
        self.loaded = set(loaded)
        self.labels: dict[str, int] = {}
        self.aspired = set(loaded)

    def reload(self, step: Step) -> None:
        for label, version in step.labels.items():
            assert version in self.loaded, f"{label} was refused: {version} is not loaded"
        self.labels = dict(step.labels)
        self.aspired = set(step.versions)

    def poll(self) -> None:
        self.loaded |= self.aspired
        self.loaded &= self.aspired


@settings(deadline=None)
@given(before=LABELS, after=LABELS.filter(bool), extra=st.sets(VERSIONS))
def test_every_step_is_accepted_and_the_last_one_is_what_was_wanted(
    before: dict[str, int], after: dict[str, int], extra: set[int]
) -> None:
    """From any labels to any others, whatever else is loaded."""
    published = frozenset(range(1, 7))
    server = Server({*before.values(), *extra})
    present = Step(versions=tuple(sorted(server.loaded)), labels=before)
    server.labels = dict(before)
    wanted = wanted_step(State(labels=after), published)
    for turn in range(6):
        step = next_step(wanted, frozenset(server.loaded), present)
        if step == present and server.loaded == set(step.versions):
            break
        kept = {label for label in before if label in after}
        server.reload(step)
        # A label that was there and shall be there never disappears on the way.
        assert kept <= server.labels.keys()
        server.poll()
        present = step
        assert turn < 5
    assert server.labels == wanted.labels
    assert server.loaded == set(after.values())


def test_a_label_moves_by_two_configurations() -> None:
    present = Step(versions=(1,), labels={"stable": 1})
    wanted = Step(versions=(1, 2), labels={"stable": 2, "previous": 1})
    first = next_step(wanted, frozenset({1}), present)
    assert first == Step(versions=(1, 2), labels={"stable": 1, "previous": 1})
    assert next_step(wanted, frozenset({1, 2}), first) == wanted
