"""The embedded model server answers as TensorFlow Serving does: every recorded scenario, replayed.

The scenarios run a few at a time, each with a server and a folder of its own: most of their time is waiting.

With NEUROGATE_TFS_BINARY set to a `tensorflow_model_server`, the same suite runs against that. With
NEUROGATE_TFS_ADDRESS, against a server that is running already with the flags of one scenario, which
NEUROGATE_TFS_SCENARIO names, and watching the folder NEUROGATE_TFS_ROOT.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from neurogate_testing.serving_process import BinaryServer, EmbeddedServer, ServerProcess
from neurogate_testing.transcripts import Replay, load_scenarios

RECORD = Path(__file__).parents[1] / "data/tf_serving/transcripts.json"
SCENARIOS = {scenario["id"]: scenario for scenario in load_scenarios(RECORD)}

BINARY = os.environ.get("NEUROGATE_TFS_BINARY")
ADDRESS = os.environ.get("NEUROGATE_TFS_ADDRESS")
AT_ONCE = 4


class _RunningServer:
    """A server that somebody else started and will stop."""

    def __init__(self, address: str) -> None:
        self.address = address

    def exit_status(self) -> int | None:
        return None

    def wait_until_watching(self) -> None:
        pass

    def stop(self) -> None:
        pass


def _start(flags: Sequence[str], folder: Path) -> ServerProcess:
    if ADDRESS:
        return _RunningServer(ADDRESS)
    return BinaryServer(BINARY, flags, folder) if BINARY else EmbeddedServer(flags, folder)


def _root(folders: pytest.TempPathFactory, name: str) -> Path:
    return Path(os.environ["NEUROGATE_TFS_ROOT"]) if ADDRESS else folders.mktemp(name)


@pytest.fixture(scope="module")
def replays(
    request: pytest.FixtureRequest, serving_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[list[str]]]]:
    """The differences of every selected scenario, as they become known."""
    selected = [
        item.callspec.params["scenario"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.module is request.module and hasattr(item, "callspec")
    ]
    with ThreadPoolExecutor(1 if ADDRESS else AT_ONCE) as pool:
        # The longest first, so that none is left over to run alone at the end.
        ordered = sorted(selected, key=lambda name: -_waiting(SCENARIOS[name]))
        futures = {
            name: pool.submit(
                Replay(SCENARIOS[name], serving_store, _root(tmp_path_factory, name), _start).run
            )
            for name in ordered
        }
        yield futures
        for future in futures.values():
            future.cancel()


def _waiting(scenario: Any) -> float:
    return sum(step.get("ms", 0) + 1000 * (step["do"] == "wait") for step in scenario["steps"])


@pytest.mark.slow
# The first one that is asked about may wait for most of the others.
@pytest.mark.timeout(1800)
@pytest.mark.skipif(bool(ADDRESS), reason="one running server fits one scenario")
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_recorded_scenario_is_answered_alike(
    scenario: str, replays: dict[str, Future[list[str]]]
) -> None:
    assert not replays[scenario].result(), "\n".join(replays[scenario].result())


@pytest.mark.skipif(not ADDRESS, reason="needs NEUROGATE_TFS_ADDRESS")
@pytest.mark.parametrize("scenario", [os.environ.get("NEUROGATE_TFS_SCENARIO", "status")])
def test_a_running_server_answers_alike(scenario: str, replays: dict[str, Future[list[str]]]) -> None:
    assert not replays[scenario].result(), "\n".join(replays[scenario].result())
