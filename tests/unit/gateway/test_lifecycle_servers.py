"""What a model server is told rests on what it has loaded now, not on what one before it had."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from neurogate.tfs.v1 import tfs_pb2
from neurogate_gateway.backend import TensorFlowServing
from neurogate_gateway.lifecycle.labels import Step
from neurogate_gateway.lifecycle.servers import ModelServers
from neurogate_serving.model_config import default_config
from neurogate_serving.release import State

STATE = State(labels={"stable": 2, "previous": 1})


async def test_a_server_that_is_replaced_while_the_file_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = types.SimpleNamespace(release=types.SimpleNamespace(state=STATE), published=frozenset({1, 2}))
    fleet = types.SimpleNamespace(versions=list)
    servers = ModelServers(tmp_path, "brain_tumor", cast("Any", manager), cast("Any", fleet))
    loaded = {"a:1": frozenset({1, 2})}
    told: list[Step] = []

    def written(wanted: Step, sound: frozenset[int], rejected: frozenset[int]) -> tfs_pb2.ModelServerConfig:
        assert (sound, rejected) == ({1, 2}, frozenset())
        loaded["a:1"] = frozenset({2})
        return default_config("brain_tumor", tmp_path / "brain_tumor")

    async def tell(address: str, step: Step, config: tfs_pb2.ModelServerConfig) -> None:
        told.append(step)

    monkeypatch.setattr(servers, "_loaded", lambda: dict(loaded))
    monkeypatch.setattr(servers, "_keep_file", written)
    monkeypatch.setattr(servers, "_tell", tell)
    await servers._bring()
    await servers._telling["a:1"]
    assert told == [Step(versions=(1, 2), labels={"stable": 2})]


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
