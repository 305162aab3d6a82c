"""Replays recorded scenarios against a model server and lists every difference.

The format of the record is described in tests/data/tf_serving/README.md.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from neurogate_testing.serving_process import ServerProcess, is_open, wait_until_open
from neurogate_testing.transcript_calls import Caller, brief
from neurogate_testing.transcript_compare import NODE_SUFFIX, number, spells_out, within, wrong_parts
from neurogate_testing.transcript_threads import Burst, Trace

Json = Any
StartServer = Callable[[Sequence[str], Path], ServerProcess]

# Because of that race the same call may fail with the text of another node; then it is made again.
_ATTEMPTS_AT_RACES = 20
_ATTEMPTS_AT_BURSTS = 6
_RELOAD = "HandleReloadConfigRequest"
# What the record let settle for some seconds may take longer on a busy machine.
_SETTLING_SECONDS = 20
# So may what it timed. A call that should have been cut short runs for longer than both together.
_BUSY_SECONDS = 5
_EXIT_SECONDS = 60


def load_scenarios(file: Path) -> list[Json]:
    """The scenarios of a record."""
    return json.loads(file.read_text(encoding="utf-8"))["scenarios"]


class Replay:
    """One run of one scenario.

    Attributes:
        differences: What differs, by the step: its `id` if it has one, else what it does.

    Args:
        scenario: From the record.
        store: The folder of models that `install` steps copy from.
        root: An empty folder, the scenario's own.
        start_server: Starts a server with flags in a folder.
    """

    def __init__(self, scenario: Json, store: Path, root: Path, start_server: StartServer) -> None:
        self.differences: dict[str, list[str]] = {}
        self._scenario = scenario
        self._store = store
        self._root = root
        self._start_server = start_server
        self._server: ServerProcess | None = None
        self._caller: Caller | None = None
        self._more_callers: list[Caller] = []
        self._traces: dict[str, Trace] = {}
        self._background: dict[str, Burst] = {}
        # The burst that the step before was, which may be repeated.
        self._last_burst: Json = None
        self._step = ""
        self._where = ""
        self._settled_by = 0.0

    def run(self) -> dict[str, list[str]]:
        """Takes every step; returns the differences."""
        try:
            for place, step in enumerate(self._scenario["steps"]):
                self._step = step.get("id", step["do"])
                self._where = f"{self._scenario['id']} step {place} {self._step}"
                if step["do"] not in ("sleep", "rpc") or step.get("method") == _RELOAD:
                    # What may change something ends the settling: the record says what is true right after.
                    self._settled_by = 0.0
                getattr(self, f"_do_{step['do']}")(step)
                self._last_burst = step if step["do"] == "burst" else None
        finally:
            for trace in self._traces.values():
                trace.stop()
            self._do_stop({})
        return self.differences

    def _differs(self, what: str, want: Json, got: Json) -> None:
        self.differences.setdefault(self._step, []).append(
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
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink()

    def _do_rename(self, step: Json) -> None:
        (self._root / step["from"]).rename(self._root / step["to"])

    def _do_symlink(self, step: Json) -> None:
        link, part = self._root / step["path"], self._root / ".link"
        link.parent.mkdir(parents=True, exist_ok=True)
        part.symlink_to(step["target"].replace("$ROOT", str(self._root)))
        part.rename(link)

    def _do_chmod(self, step: Json) -> None:
        (self._root / step["path"]).chmod(int(step["mode"], 8))

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
            self._do_await_exit(step)

    def _do_await_exit(self, step: Json) -> None:
        end = time.monotonic() + step.get("timeout_s", _EXIT_SECONDS)
        with self._timed(step):
            while self._running.exit_status() is None and time.monotonic() < end:
                time.sleep(0.02)
        self._compare("exit", step["expect"], {"exit": self._running.exit_status()})

    def _do_signal(self, step: Json) -> None:
        self._running.send_signal(signal.Signals[f"SIG{step['signal']}"])

    def _do_log(self, step: Json) -> None:
        text = self._calls.neutral(self._running.log.read_text(errors="replace"))
        said = [part for part in (*step.get("has", ()), *step.get("lacks", ())) if part in text]
        if said != step.get("has", []):
            self._differs("log", {key: step[key] for key in ("has", "lacks") if key in step}, text[-1000:])

    def _do_stop(self, _step: Json) -> None:
        for caller in (self._caller, *self._more_callers):
            if caller is not None:
                caller.close()
        self._more_callers = []
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
        with self._timed(step):
            outcome = self._calls.call(step)
        self._judge(step, outcome)

    def _do_until(self, step: Json) -> None:
        with self._timed(step):
            self._do_wait(step)

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
        self._background[step["name"]] = Burst([self._calls], step["rpc"], 1)

    def _do_burst(self, step: Json) -> None:
        channels = step.get("channels", 1)
        callers = [self._calls]
        if channels > 1:
            callers = [Caller(self._running.address, str(self._root)) for _ in range(channels)]
            self._more_callers += callers
            for caller in callers:
                caller.wait_until_connected()
        count, gap = number(step["n"]), step.get("gap_ms", 0) / 1000
        self._background[step["name"]] = Burst(callers, step["rpc"], count, gap)

    def _do_tally(self, step: Json) -> None:
        attempts = 1
        while not self._tallies(step):
            # On a busy machine the first of them may end before the last one arrives.
            if self._last_burst is None or attempts == _ATTEMPTS_AT_BURSTS:
                self._differs("tally", step["expect"], self._counts(step))
                break
            attempts += 1
            time.sleep(0.5)
            self._do_burst(self._last_burst)
        if "refused_within_ms" in step:
            slowest = self._background[step["name"]].slowest("RESOURCE_EXHAUSTED")
            self._took(slowest, [0, step["refused_within_ms"]])

    def _tallies(self, step: Json) -> bool:
        counts = self._counts(step)
        return any(within(counts, wanted) for wanted in (step["expect"], *step.get("also_accept", ())))

    def _counts(self, step: Json) -> dict[str, int]:
        burst = self._background[step["name"]]
        if not step.get("running"):
            burst.join()

        def name(outcome: Json) -> str:
            if step.get("codes_only"):
                return str(outcome["code"])
            return f"{outcome['code']} {outcome['message']}".strip()

        return burst.counts(name, "running" if step.get("running") else "NO ANSWER")

    def _do_collect(self, step: Json) -> None:
        if "still_running" in step:
            running = self._background[step["name"]].is_alive()
            self._compare("still running", step["still_running"], running)
            return
        self._judge(step, self._background.pop(step["name"]).result())

    def _do_trace_start(self, step: Json) -> None:
        caller = Caller(self._running.address, str(self._root))
        self._traces[step["name"]] = Trace(caller, step["rpc"], step.get("interval_ms", 4) / 1000)

    def _do_trace_stop(self, step: Json) -> None:
        seen = self._traces.pop(step["name"]).stop()
        if not spells_out(step["expect_sequence"], seen):
            self._differs("sequence", step["expect_sequence"], seen)

    # --- comparison --------------------------------------------------------------------------

    @contextlib.contextmanager
    def _timed(self, step: Json) -> Iterator[None]:
        begun = time.monotonic()
        yield
        if "took_ms" in step:
            self._took(time.monotonic() - begun, step["took_ms"])

    def _took(self, seconds: float, wanted: Sequence[int]) -> None:
        least, most = (milliseconds / 1000 for milliseconds in wanted)
        if not least <= seconds <= most + _BUSY_SECONDS:
            self._differs("took_ms", wanted, round(1000 * seconds))

    def _compare(self, what: str, want: Json, got: Json) -> None:
        if want != got:
            self._differs(what, want, got)

    def _judge(self, step: Json, outcome: Json) -> None:
        """Compares an outcome with the record, where the failing node is a race with all of its texts."""
        attempts = 1
        while (wrong := wrong_parts(step, outcome)) and step["do"] == "rpc":
            is_race = NODE_SUFFIX in outcome["message"] and NODE_SUFFIX in step["expect"]["message"]
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
