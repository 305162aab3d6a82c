"""Replays recorded scenarios against a model server and lists every difference.

The format of the record is described in tests/data/tf_serving/README.md.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from neurogate_testing.serving_process import ServerProcess, is_open, wait_until_open
from neurogate_testing.transcript_calls import Caller, brief

Json = Any
StartServer = Callable[[Sequence[str], Path], ServerProcess]

# From here on a message of TensorFlow names the node that failed; which one fails first is a race.
_NODE_SUFFIX = "\n\t [["
# Because of that race the same call may fail with the text of another node; then it is made again.
_ATTEMPTS_AT_RACES = 20
_RELOAD = "HandleReloadConfigRequest"
# What the record let settle for some seconds may take longer on a busy machine.
_SETTLING_SECONDS = 20


def load_scenarios(file: Path) -> list[Json]:
    """The scenarios of a record."""
    return json.loads(file.read_text(encoding="utf-8"))["scenarios"]


class Replay:
    """One run of one scenario.

    Args:
        scenario: From the record.
        store: The folder of models that `install` steps copy from.
        root: An empty folder, the scenario's own.
        start_server: Starts a server with flags in a folder.
    """

    def __init__(self, scenario: Json, store: Path, root: Path, start_server: StartServer) -> None:
        self.differences: list[str] = []
        self._scenario = scenario
        self._store = store
        self._root = root
        self._start_server = start_server
        self._server: ServerProcess | None = None
        self._caller: Caller | None = None
        self._traces: dict[str, _Trace] = {}
        self._background: dict[str, _Background] = {}
        self._where = ""
        self._settled_by = 0.0

    def run(self) -> list[str]:
        """Takes every step; returns the differences."""
        try:
            for number, step in enumerate(self._scenario["steps"]):
                self._where = f"{self._scenario['id']} step {number} {step.get('id', step['do'])}"
                if step["do"] not in ("sleep", "rpc") or step.get("method") == _RELOAD:
                    # What may change something ends the settling: the record says what is true right after.
                    self._settled_by = 0.0
                getattr(self, f"_do_{step['do']}")(step)
        finally:
            for trace in self._traces.values():
                trace.stop()
            self._do_stop({})
        return self.differences

    def _differs(self, what: str, want: Json, got: Json) -> None:
        self.differences.append(
            f"{self._where}: {what}\n  want {json.dumps(want)[:2000]}\n  got  {json.dumps(got)[:2000]}"
        )

    # --- files -------------------------------------------------------------------------------

    def _do_install(self, step: Json) -> None:
        staging, target = self._root / ".staging", self._root / step["to"]
        shutil.rmtree(staging, ignore_errors=True)
        shutil.copytree(self._store / step["from"], staging)
        target.parent.mkdir(parents=True, exist_ok=True)
        staging.rename(target)

    def _do_mkdir(self, step: Json) -> None:
        (self._root / step["path"]).mkdir(parents=True, exist_ok=True)

    def _do_write(self, step: Json) -> None:
        target = self._root / step["path"]
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        part.write_text(step["text"].replace("$ROOT", str(self._root)), encoding="utf-8")
        part.rename(target)

    def _do_remove(self, step: Json) -> None:
        target = self._root / step["path"]
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink()

    def _do_rename(self, step: Json) -> None:
        (self._root / step["from"]).rename(self._root / step["to"])

    # --- the process -------------------------------------------------------------------------

    def _do_start(self, step: Json) -> None:
        flags = [flag.replace("$ROOT", str(self._root)) for flag in step["flags"]]
        self._server = self._start_server(flags, self._root)
        self._caller = Caller(self._server.address, str(self._root))
        awaited = step.get("await", "port")
        if awaited == "port" and not wait_until_open(self._server):
            self._differs("start", "the port opens", f"exit status {self._server.exit_status()}")
        elif awaited == "none":
            # What follows was recorded with a server that was up at once, which a busy machine may not grant.
            self._server.wait_until_watching()
        elif awaited == "exit":
            end = time.monotonic() + step.get("timeout_s", 60)
            while self._server.exit_status() is None and time.monotonic() < end:
                time.sleep(0.02)
            self._compare("exit", step["expect"], {"exit": self._server.exit_status()})

    def _do_stop(self, _step: Json) -> None:
        if self._caller is not None:
            self._caller.close()
        if self._server is not None:
            self._server.stop()
        self._server = self._caller = None

    def _do_alive(self, step: Json) -> None:
        server = self._running
        if step["expect"]["port_open"]:
            # Recorded after a few seconds; on a busy machine a server may take longer to start.
            wait_until_open(server)
        got = {"running": server.exit_status() is None, "port_open": is_open(server.address)}
        self._compare("alive", step["expect"], got)

    def _do_wait_port(self, step: Json) -> None:
        if not wait_until_open(self._running, step.get("timeout_s", 60)):
            self._differs("wait_port", "the port opens", "it stays closed")

    def _do_sleep(self, step: Json) -> None:
        time.sleep(step["ms"] / 1000)
        self._settled_by = time.monotonic() + _SETTLING_SECONDS

    @property
    def _running(self) -> ServerProcess:
        assert self._server is not None, "the scenario has not started a server"
        return self._server

    @property
    def _calls(self) -> Caller:
        assert self._caller is not None, "the scenario has not started a server"
        return self._caller

    # --- calls -------------------------------------------------------------------------------

    def _do_rpc(self, step: Json) -> None:
        self._judge(step, self._calls.call(step))

    def _do_wait(self, step: Json) -> None:
        end = time.monotonic() + step.get("timeout_s", 40)
        while True:
            outcome = self._calls.call(step["rpc"])
            seen = brief(step["rpc"], outcome)
            if step["until"] in (seen, f"{seen} {outcome['message']}"):
                return
            if time.monotonic() > end:
                self._differs("wait", step["until"], f"{seen} {outcome['message']}")
                return
            time.sleep(0.05)

    def _do_background(self, step: Json) -> None:
        self._background[step["name"]] = _Background(self._calls, step["rpc"])

    def _do_collect(self, step: Json) -> None:
        if "still_running" in step:
            running = self._background[step["name"]].is_alive()
            self._compare("still running", step["still_running"], running)
            return
        self._judge(step, self._background.pop(step["name"]).result())

    def _do_trace_start(self, step: Json) -> None:
        caller = Caller(self._running.address, str(self._root))
        self._traces[step["name"]] = _Trace(caller, step["rpc"], step.get("interval_ms", 4) / 1000)

    def _do_trace_stop(self, step: Json) -> None:
        seen = self._traces.pop(step["name"]).stop()
        if not spells_out(step["expect_sequence"], seen):
            self._differs("sequence", step["expect_sequence"], seen)

    # --- comparison --------------------------------------------------------------------------

    def _compare(self, what: str, want: Json, got: Json) -> None:
        if want != got:
            self._differs(what, want, got)

    def _judge(self, step: Json, outcome: Json) -> None:
        """Compares an outcome with the record, where the failing node is a race with all of its texts."""
        attempts = 1
        while (wrong := _wrong_parts(step, outcome)) and step["do"] == "rpc":
            is_race = _NODE_SUFFIX in outcome["message"] and _NODE_SUFFIX in step["expect"]["message"]
            if not (is_race and attempts < _ATTEMPTS_AT_RACES) and not self._is_settling():
                break
            outcome = self._calls.call(step)
            attempts += 1
        for part in wrong:
            self._differs(part, step["expect"].get(part), outcome.get(part))

    def _is_settling(self) -> bool:
        if time.monotonic() > self._settled_by:
            return False
        time.sleep(0.1)
        return True


def _wrong_parts(step: Json, outcome: Json) -> list[str]:
    if outcome in step.get("also_accept", ()):
        return []
    wanted, lifted = step["expect"], step.get("compare", {})
    parts = sorted(wanted.keys() | outcome.keys())
    return [
        part
        for part in parts
        if lifted.get(part) != "any" and _essence(part, wanted.get(part)) != _essence(part, outcome.get(part))
    ]


def _essence(part: str, value: Json) -> Json:
    return value.split(_NODE_SUFFIX)[0] if part == "message" and isinstance(value, str) else value


def spells_out(pattern: Sequence[str], seen: Sequence[str]) -> bool:
    """Whether what was seen is the pattern; an entry that ends in " ?" may be missing."""
    if not pattern:
        return not seen
    entry = pattern[0].removesuffix(" ?")
    if seen and seen[0] == entry and spells_out(pattern[1:], seen[1:]):
        return True
    return pattern[0].endswith(" ?") and spells_out(pattern[1:], seen)


class _Background:
    """A call on a thread of its own."""

    def __init__(self, caller: Caller, step: Json) -> None:
        self._outcome: Json = {"code": "NO ANSWER", "message": ""}
        self._caller = caller
        self._step = step
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._outcome = self._caller.call(self._step)

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def result(self) -> Json:
        self._thread.join(130)
        return self._outcome


class _Trace:
    """Polls a call and keeps the changes of its brief form."""

    def __init__(self, caller: Caller, step: Json, interval: float) -> None:
        self._seen: list[str] = []
        self._caller = caller
        self._step = step
        self._interval = interval
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.is_set():
            line = brief(self._step, self._caller.call(self._step))
            if self._seen[-1:] != [line]:
                self._seen.append(line)
            self._stopping.wait(self._interval)
        self._caller.close()

    def stop(self) -> list[str]:
        self._stopping.set()
        self._thread.join()
        return self._seen
