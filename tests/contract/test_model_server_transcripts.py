"""The model server answers as TensorFlow Serving does: every recorded scenario, replayed.

Where the embedded server differs, `differences.toml` says so, with the reason, and nothing else may differ.

Each scenario has a server and a folder of its own. Most of their time is waiting, so a few run side by side;
those that fill the server with calls run one after the other.

With NEUROGATE_TFS_BINARY set to a `tensorflow_model_server`, the suite runs against that, and nothing may
differ. With NEUROGATE_TFS_ADDRESS, it runs against a server that somebody has started with the flags of one
scenario, which NEUROGATE_TFS_SCENARIO names, and that watches the folder NEUROGATE_TFS_ROOT.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from neurogate_testing.processes import model_server_binary, model_server_flags
from neurogate_testing.serving_process import ServerProcess, start_model_server
from neurogate_testing.transcripts import Replay, load_scenarios

DATA = Path(__file__).parents[1] / "data/tf_serving"
DOCUMENT = Path(__file__).parents[2] / "docs/model-server.md"
SCENARIOS = {scenario["id"]: scenario for scenario in load_scenarios(DATA / "transcripts.json")}
DIFFERENCES = tomllib.loads((DATA / "differences.toml").read_text())

ADDRESS = os.environ.get("NEUROGATE_TFS_ADDRESS")
AT_ONCE = 4
LONG_SECONDS = 3
NOT_FOR_A_RUNNING_SERVER = {"signal", "await_exit", "log"}

Outcome = Future[dict[str, list[str]]]


class _RunningServer:
    """A server that somebody else started and will stop."""

    log = Path(os.devnull)
    pid = 0

    def __init__(self, address: str) -> None:
        self.address = address

    def exit_status(self) -> int | None:
        return None

    def send_signal(self, number: signal.Signals) -> None:
        pass

    def wait_until_watching(self) -> None:
        pass

    def kill(self) -> None:
        pass

    def stop(self) -> None:
        pass


def _start(flags: Sequence[str], folder: Path) -> ServerProcess:
    if ADDRESS:
        return _RunningServer(ADDRESS)
    # The scenario's flags last, so that they hold.
    return start_model_server([*model_server_flags(), *flags], folder)


def _scenario(name: str) -> dict[str, Any]:
    scenario = SCENARIOS[name]
    if not ADDRESS:
        return scenario
    return {
        **scenario,
        "steps": [step for step in scenario["steps"] if step["do"] not in NOT_FOR_A_RUNNING_SERVER],
    }


def _root(folders: pytest.TempPathFactory, name: str) -> Path:
    return Path(os.environ["NEUROGATE_TFS_ROOT"]) if ADDRESS else folders.mktemp(name)


@pytest.fixture(scope="module")
def differences() -> Mapping[str, Any]:
    """What may differ from the record, for the server under test: nothing for a real one."""
    binary = model_server_binary()
    if binary is not None:
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False).stdout
        if "Neurogate" not in said:
            return {"real_only": {}, "differs": {}}
    return {} if ADDRESS else DIFFERENCES


@pytest.fixture(scope="module")
def replays(
    request: pytest.FixtureRequest,
    serving_store: Path,
    differences: Mapping[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Outcome]]:
    """The differences of every selected scenario, as they become known."""
    selected = {
        item.callspec.params["scenario"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.module is request.module and hasattr(item, "callspec")
    }
    with ThreadPoolExecutor(1 if ADDRESS else AT_ONCE - 1) as waiting, ThreadPoolExecutor(1) as busy:
        # The longest first, so that none is left over to run alone at the end.
        ordered = sorted(selected - differences.get("real_only", {}).keys(), key=lambda name: -_seconds(name))
        futures = {
            name: (busy if _fills_the_server(name) else waiting).submit(
                Replay(_scenario(name), serving_store, _root(tmp_path_factory, name), _start).run
            )
            for name in ordered
        }
        yield futures
        for future in futures.values():
            future.cancel()


def _seconds(name: str) -> float:
    """How long a scenario waits, roughly."""
    return sum(
        step.get("ms", 0) / 1000 + (step["do"] in ("wait", "until")) for step in SCENARIOS[name]["steps"]
    )


def _fills_the_server(name: str) -> bool:
    return any(step["do"] == "burst" for step in SCENARIOS[name]["steps"])


# The first one that is asked about may wait for most of the others.
@pytest.mark.timeout(1800)
@pytest.mark.skipif(bool(ADDRESS), reason="one running server fits one scenario")
@pytest.mark.parametrize(
    "scenario",
    [
        pytest.param(name, marks=pytest.mark.slow if _seconds(name) >= LONG_SECONDS else ())
        for name in SCENARIOS
    ],
)
def test_every_recorded_scenario_is_answered_alike(
    scenario: str, replays: dict[str, Outcome], differences: Mapping[str, Any]
) -> None:
    if reason := differences["real_only"].get(scenario):
        pytest.skip(f"for the real server only: {reason}")
    found = replays[scenario].result()
    known = differences["differs"].get(scenario, {}).get("steps", [])
    unknown = [text for step, texts in found.items() if step not in known for text in texts]
    assert not unknown, "\n".join(unknown)
    assert not set(known) - found.keys(), "what is listed as a difference is none"


@pytest.mark.skipif(not ADDRESS, reason="needs NEUROGATE_TFS_ADDRESS")
@pytest.mark.parametrize("scenario", [os.environ.get("NEUROGATE_TFS_SCENARIO", "status")])
def test_a_running_server_answers_alike(scenario: str, replays: dict[str, Outcome]) -> None:
    found = replays[scenario].result()
    assert not found, "\n".join(text for texts in found.values() for text in texts)


def test_the_documentation_names_every_scenario_that_differs() -> None:
    text = DOCUMENT.read_text()
    named = [*DIFFERENCES["real_only"], *DIFFERENCES["differs"]]
    assert set(named) <= SCENARIOS.keys()
    assert not [name for name in named if f"`{name}`" not in text]
