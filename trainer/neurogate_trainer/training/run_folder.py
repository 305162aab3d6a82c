"""The folder of a training run: who owns it, which phases are finished, and small records as JSON."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from neurogate_core.files import locked, replace_json

from neurogate_trainer.config import TrainConfig
from neurogate_trainer.data.layout import found_beside, named_beside
from neurogate_trainer.errors import TrainerError
from neurogate_trainer.progress import JsonLinesReporter, LogReporter, Reporter, TeeReporter

_STATE: Final = "state.json"


class RunFolderError(TrainerError, RuntimeError):
    """The folder belongs to another run, or to another process."""


class RunFolder:
    """A run folder and its `state.json`: `{run_id, data, data_beside, config, retraining, finished}`.

    Attributes:
        path: The folder.
        run_id: The run's identifier, made when the folder was new.
        retraining: What makes the run a retraining (see `retraining.Retraining`); None for a first training.
    """

    def __init__(self, path: Path, state: dict[str, Any]) -> None:
        self.path = path
        self.run_id: str = state["run_id"]
        self.retraining: dict[str, Any] | None = state.get("retraining")
        self._state = state

    @classmethod
    @contextlib.contextmanager
    def open(
        cls,
        path: Path,
        config: TrainConfig,
        data: Path,
        *,
        run_id: str = "",
        retraining: dict[str, Any] | None = None,
    ) -> Iterator[RunFolder]:
        """A new folder, or that of an unfinished run with the same settings; no other process may use it.

        `run_id` is made up where it is empty. A `retraining` of None leaves an unfinished run what it was.

        Raises:
            RunFolderError: Another process trains in it, or it is of another run, or holds something else.
            OSError: It cannot be written.
        """
        path.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(path / ".lock", wait=False))
            except BlockingIOError:
                raise RunFolderError(f"another process is training in {path}") from None
            yield cls(path, _claim(path, config, data, run_id, retraining))

    @contextlib.contextmanager
    def reporting(self, reporter: Reporter) -> Iterator[Reporter]:
        """A reporter that passes on to `reporter`, and writes log.txt and events.jsonl in the folder."""
        try:
            with (
                (self.path / "log.txt").open("a", encoding="utf-8") as log,
                LogReporter(log) as lines,
                JsonLinesReporter(self.path / "events.jsonl") as events,
            ):
                yield TeeReporter(reporter, lines, events)
        except OSError as error:
            # Whatever meets a full disk while it writes does not know the file.
            if error.filename is None and error.errno is not None:
                error.filename = str(self.path)
            raise

    def finished(self, phase: str) -> bool:
        """Whether an earlier start has finished this phase."""
        return phase in self._state["finished"]

    def finish(self, phase: str) -> None:
        """Notes that a phase is finished."""
        if not self.finished(phase):
            self._state["finished"].append(phase)
            self.write(_STATE, self._state)

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Writes a record, replacing an older one in one step."""
        replace_json(self.path / name, content)

    def read(self, name: str) -> dict[str, Any]:
        """A record that an earlier phase wrote."""
        content: dict[str, Any] = json.loads((self.path / name).read_text(encoding="utf-8"))
        return content


def _claim(
    path: Path, config: TrainConfig, data: Path, run_id: str, retraining: dict[str, Any] | None
) -> dict[str, Any]:
    location = str(data.expanduser().absolute())
    known = (path / _STATE).is_file()
    if not known and (others := sorted(entry.name for entry in path.iterdir() if entry.name != ".lock")):
        raise RunFolderError(
            f"{path} is not empty (it has {others[0]!r}) and not a run folder; choose another"
        )
    state = json.loads((path / _STATE).read_text(encoding="utf-8")) if known else {}
    if state.get("finished"):
        _check_same(path, state, config, location)
        before = _without_empty(state.get("retraining") or {})
        if retraining is not None and before != _without_empty(retraining):
            raise RunFolderError(f"{path} holds another run than this retraining; choose another folder")
        return dict(state)
    # Nothing is finished, so nothing depends on what an earlier start was asked for.
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    state = {
        "run_id": run_id or state.get("run_id") or f"{stamp}-{os.urandom(3).hex()}",
        "data": location,
        "data_beside": named_beside(data, path),
        "config": config.to_json(),
        "retraining": retraining or state.get("retraining"),
        "finished": [],
    }
    replace_json(path / "config.json", config.to_json())
    replace_json(path / _STATE, state)
    return state


def _without_empty(retraining: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is empty: an earlier release may not have known it."""
    return {name: value for name, value in retraining.items() if value not in {"", None}}


def _check_same(path: Path, state: Mapping[str, Any], config: TrainConfig, data: str) -> None:
    before, now = TrainConfig.from_json(state["config"]).flat(), config.flat()
    changed = [f"{name} {before[name]} -> {now[name]}" for name in now if before[name] != now[name]]
    if changed:
        raise RunFolderError(
            f"{path} holds a run with other settings ({', '.join(changed)}); give the same ones to go on "
            "with it, or choose another folder"
        )
    found = _data(path, state)
    # The run's folder, and so what lies beside it, may be called by another name this time.
    if found.resolve() != Path(data).resolve():
        raise RunFolderError(f"{path} holds a run on {found}, not on {data}; choose another folder")


def _data(path: Path, state: Mapping[str, Any]) -> Path:
    return found_beside(Path(state["data"]), state.get("data_beside", ""), path)


class RunSettings(NamedTuple):
    """What a run was asked for, and its identifier."""

    config: TrainConfig
    data: Path
    run_id: str


def read_settings(path: Path) -> RunSettings:
    """Settings, data set and identifier of the run in a folder.

    Raises:
        RunFolderError: There is no run.
    """
    try:
        state = json.loads((path / _STATE).read_text(encoding="utf-8"))
        return RunSettings(TrainConfig.from_json(state["config"]), _data(path, state), str(state["run_id"]))
    except (OSError, ValueError, KeyError) as error:
        raise RunFolderError(f"{path} is not the folder of a training run ({error})") from error
