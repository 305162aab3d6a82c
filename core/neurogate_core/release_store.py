"""The release of a model: which version each label means, kept beside the versions for everyone to agree on.

    <root>/<model>/.release.json        the release, with the change that made it so
    <root>/<model>/.release-log.jsonl   the audit record, one change a line
    <root>/<model>/.release.lock        held while one of them changes

A change is one replacement of the document, so a crash leaves the old release or the new one. The record
follows it: the document holds a line that a crash kept out or cut short, and the next change writes it first.

The names start with a dot, so TensorFlow Serving does not see them. Locks are flock(2) on open files, so they
end with their process, however it ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from .files import locked, replace_file, sync_directory
from .repository import RepositoryError, model_folder

CANDIDATE: Final = "candidate"  # a version became "candidate" because it was published
PROMOTE: Final = "promote"  # a version became "stable"
ROLLBACK: Final = "rollback"  # "previous" and "stable" changed places
SET_TRAFFIC: Final = "set_traffic"  # canary or shadow were set
GUARD: Final = "guard"  # a live guard ended the canary or rolled back
RETIRE: Final = "retire"  # versions without a label were let go
ACTIONS: Final = (CANDIDATE, PROMOTE, ROLLBACK, SET_TRAFFIC, GUARD, RETIRE)

_FORMAT: Final = 1
_VERSION: Final = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)
_DOCUMENT: Final = ".release.json"
_LOG: Final = ".release-log.jsonl"
_LOCK: Final = ".release.lock"

_T = TypeVar("_T")


class EtagMismatchError(RepositoryError):
    """The release has changed since its etag was read."""


class RequestIdReusedError(RepositoryError):
    """The request_id belongs to a change that asked for something else."""


class ReleaseDamagedError(RepositoryError):
    """The document or the record cannot be understood; the message names the file and what is wrong."""


class _FormatError(ValueError):
    """The text is not what this module writes; the message says where."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a release says, apart from how it came about.

    Attributes:
        labels: Version by label.
        canary_percent: Share of the callers of "stable" that get "canary" instead, 0 to 100.
        draining: Versions that have lost their last label and are still loaded, with the Unix time of that.
        highest: Highest version that ever had a label; a higher one in the repository is news.
        promoted_at: Unix time from which live guards watch "stable"; None when nobody has to.
    """

    labels: Mapping[str, int] = dataclasses.field(default_factory=dict)
    canary_percent: float = 0.0
    draining: Mapping[int, float] = dataclasses.field(default_factory=dict)
    highest: int = 0
    promoted_at: float | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A change that is asked for.

    Attributes:
        action: One of `ACTIONS`.
        state: All that the release says after.
        actor: Who.
        reason: Why, for people.
        forced: Whether the gate was overruled: it had refused, or nobody waited for its verdict.
        gate: What the gate had said, as JSON; None where it was not asked.
    """

    action: str
    state: State
    actor: str
    reason: str = ""
    forced: bool = False
    gate: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Change(Draft):
    """One line of the audit record; the other attributes are `Draft`'s.

    Attributes:
        sequence: 1, 2, 3, … without gaps.
        time: Unix time.
        labels_before: Version by label before.
        request_id: The caller's name for the change; empty for none.
        content: Digest of what that caller asked for.
    """

    sequence: int
    time: float
    labels_before: Mapping[str, int]
    request_id: str = ""
    content: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Which version each label means, as of one change.

    Attributes:
        state: What it says.
        last_change: The change that made it so; None before the first.
    """

    state: State = State()
    last_change: Change | None = None

    @property
    def revision(self) -> int:
        """Number of changes so far."""
        return self.last_change.sequence if self.last_change is not None else 0

    @property
    def etag(self) -> str:
        """Differs for every release that ever was; the same on every machine."""
        text = "" if self.last_change is None else _encode(self.last_change)
        return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """The outcome of a change.

    Attributes:
        release: The release right after it.
        change: Its line of the audit record; None where there was nothing to change.
        repeated: Whether an earlier request under the same request_id had made it.
    """

    release: Release
    change: Change | None
    repeated: bool = False


class ReleaseStore:
    """The release of one model, for any number of processes at once. Every method may block on the disk."""

    def __init__(self, root: Path, model: str) -> None:
        """Names the files; nothing is read yet.

        Raises:
            RepositoryError: The model's name is not valid.
        """
        self._folder = model_folder(root, model)
        self._document = self._folder / _DOCUMENT
        self._log = self._folder / _LOG

    def stamp(self) -> tuple[int, ...]:
        """A value that differs whenever the document does; it costs one stat."""
        try:
            seen = self._document.stat()
        except FileNotFoundError:
            return ()
        return (seen.st_ino, seen.st_mtime_ns, seen.st_size)

    def read(self) -> Release:
        """The release now; an empty one before the first change.

        Raises:
            ReleaseDamagedError: The document cannot be understood.
            OSError: It cannot be read.
        """
        try:
            return _release(self._document.read_bytes())
        except FileNotFoundError:
            return Release()
        except _FormatError as error:
            raise ReleaseDamagedError(
                f"{self._document} is damaged ({error}); the last line of {_LOG} says what it held"
            ) from None

    def change(
        self,
        decide: Callable[[Release], Draft],
        *,
        etag: str = "",
        request_id: str = "",
        content: Mapping[str, object] | None = None,
    ) -> Changed:
        """Changes the release, while nobody else does.

        Args:
            decide: Gives the change, from the release as it is now. If it raises, or the state is the present
                one, nothing is written.
            etag: Of the release that the caller has seen; empty for whatever is there.
            request_id: The caller's name for the change; a repeat gets the first answer, whatever has
                happened since. Empty for none.
            content: What the caller asked for, to tell a repeat from another change under the same name.

        Raises:
            EtagMismatchError: The release is another one by now.
            RequestIdReusedError: The request_id belongs to a change that asked for something else.
            ReleaseDamagedError: A file cannot be understood; nothing changes until a person has looked.
            OSError: Something could not be written. The release is still the old one.
        """
        asked = content or {}
        self._folder.mkdir(parents=True, exist_ok=True)
        with locked(self._folder / _LOCK):
            for left in self._folder.glob(f".{_DOCUMENT}.*.tmp"):  # by a process that was killed
                left.unlink(missing_ok=True)
            release = self.read()
            self._catch_up(release)
            if repeated := self.repeated(request_id, asked):
                return repeated
            if etag and etag != release.etag:
                raise EtagMismatchError(f"the release is at {release.etag} by now, not at {etag}")
            draft = decide(release)
            if draft.state == release.state:
                return Changed(release=release, change=None)
            document = _document(
                Change(
                    sequence=release.revision + 1,
                    time=time.time(),
                    labels_before=release.state.labels,
                    request_id=request_id,
                    content=_digest(asked) if request_id else "",
                    **{field.name: getattr(draft, field.name) for field in dataclasses.fields(Draft)},
                )
            )
            # As everybody else will read it, down to the digits of its numbers: so all agree on the etag.
            after = _release(document)
            replace_file(self._document, document)
            # From here on it is done. A record that cannot be written now is completed by the next change.
            with contextlib.suppress(OSError):
                self._catch_up(after)
            return Changed(release=after, change=after.last_change)

    def holding(self, act: Callable[[Release], _T]) -> _T:
        """Calls `act` with the release while nobody can change it, and returns its result.

        Raises:
            ReleaseDamagedError, OSError: As `read`.
        """
        with locked(self._folder / _LOCK):
            return act(self.read())

    def changes(self, *, below: int | None = None, size: int = 50) -> list[Change]:
        """Up to `size` changes whose sequence is below a limit, newest first.

        Raises:
            ReleaseDamagedError: The document or the record cannot be understood.
            OSError: They cannot be read.
        """
        last = self.read().last_change
        limit = sys.maxsize if below is None else below
        # Sequences have no gaps, so a line's number is its change's.
        lines = deque(itertools.islice(_whole_lines(self._log), max(0, limit - 1)), maxlen=size)
        with self._reading_log():
            found = [_change(_parse(line)) for line in reversed(lines)]
        if last is not None and (found[0].sequence if found else 0) < last.sequence < limit:
            # A crash kept it out of the record.
            found = [last, *found][:size]
        return found

    def repeated(self, request_id: str, content: Mapping[str, object]) -> Changed | None:
        """The outcome of the change under this request_id; None where there was none.

        Arguments as in `change`.

        Raises:
            RequestIdReusedError, ReleaseDamagedError, OSError: As `change`.
        """
        if not request_id:
            return None
        # A crash may have kept the last one out of the record.
        earlier = self.read().last_change
        if earlier is None or earlier.request_id != request_id:
            earlier = self._find(request_id)
        if earlier is None:
            return None
        if earlier.content != _digest(content):
            raise RequestIdReusedError(
                f"request_id {request_id!r} belongs to change {earlier.sequence}, "
                "which asked for something else"
            )
        then = Release(state=earlier.state, last_change=earlier)
        return Changed(release=then, change=earlier, repeated=True)

    def _find(self, request_id: str) -> Change | None:
        mark = f'"request_id":{json.dumps(request_id)}'.encode()
        with self._reading_log():
            for line in _whole_lines(self._log):
                if mark in line and (change := _change(_parse(line))).request_id == request_id:
                    return change
        return None

    def _catch_up(self, release: Release) -> None:
        """Writes the line of the release's last change where the record does not end with it yet."""
        end, last = 0, b""
        for line in _whole_lines(self._log):
            end, last = end + len(line), line
        with self._reading_log():
            recorded = _change(_parse(last)).sequence if last else 0
        if release.last_change is None:
            if recorded:
                raise ReleaseDamagedError(
                    f"{self._document} is missing, but {_LOG} holds {recorded} changes; restore it from the "
                    f"last line, or move {_LOG} away to begin anew"
                )
            return
        if recorded == release.revision:
            return
        if recorded != release.revision - 1:
            raise ReleaseDamagedError(
                f"{self._log} is damaged: it ends with change {recorded}, the release is at "
                f"{release.revision}"
            )
        with os.fdopen(os.open(self._log, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
            file.truncate(end)
            file.seek(end)
            file.write(_encode(release.last_change).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if not end:
            sync_directory(self._folder)

    @contextlib.contextmanager
    def _reading_log(self) -> Iterator[None]:
        try:
            yield
        except _FormatError as error:
            raise ReleaseDamagedError(f"{self._log} is damaged: {error}") from None


def _digest(content: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _whole_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, each with its end, without a last one that was cut short; none without a file."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        yield from (line for line in file if line.endswith(b"\n"))


# The JSON is read with suspicion: people and other programs can reach these files. It is no `ReleaseChange`,
# which says less (no draining versions, no digest of the request) and which a caller may see.


def _encode(change: Change) -> str:
    """One line of JSON; `etag` is its digest, so the order and the form of everything count."""
    state = change.state
    return json.dumps(
        {
            "sequence": change.sequence,
            "time": datetime.fromtimestamp(change.time, UTC).isoformat(timespec="microseconds"),
            "actor": change.actor,
            "action": change.action,
            "labels_before": dict(sorted(change.labels_before.items())),
            "reason": change.reason,
            "forced": change.forced,
            "gate": change.gate,
            "request_id": change.request_id,
            "content": change.content,
            "after": {
                "labels": dict(sorted(state.labels.items())),
                "canary_percent": state.canary_percent,
                "draining": {str(version): since for version, since in sorted(state.draining.items())},
                "highest": state.highest,
                "promoted_at": state.promoted_at,
            },
        },
        separators=(",", ":"),
        allow_nan=False,
    )


def _document(change: Change) -> bytes:
    """The document of the release that a change has made, for people to read too."""
    return json.dumps({"format": _FORMAT, "change": json.loads(_encode(change))}, indent=2).encode() + b"\n"


def _release(document: bytes) -> Release:
    content = _parse(document)
    if content.get("format") != _FORMAT:
        raise _FormatError(f"format is {content.get('format')!r}, expected {_FORMAT}")
    change = _change(_get(content, "change", dict))
    return Release(state=change.state, last_change=change)


def _change(record: Mapping[str, Any]) -> Change:
    after = _get(record, "after", dict)
    draining = _get(after, "draining", dict)
    if not all(
        _VERSION.fullmatch(version) and type(since) in (float, int) and abs(since) < 2**63
        for version, since in draining.items()
    ):
        raise _FormatError(f"draining is {draining!r}, expected a time by version")
    state = State(
        labels=_labels(after, "labels"),
        canary_percent=_get(after, "canary_percent", float, int),
        draining={int(version): float(since) for version, since in draining.items()},
        highest=_get(after, "highest", int),
        promoted_at=_get(after, "promoted_at", float, int, type(None)),
    )
    if not 0 <= state.canary_percent <= 100:
        raise _FormatError(f"canary_percent is {state.canary_percent}, expected 0 to 100")
    if (action := _get(record, "action", str)) not in ACTIONS:
        raise _FormatError(f"action is {action!r}, expected one of {', '.join(ACTIONS)}")
    if (sequence := _get(record, "sequence", int)) < 1:
        raise _FormatError(f"sequence is {sequence}, expected at least 1")
    time_text = _get(record, "time", str)
    try:
        moment = datetime.fromisoformat(time_text)
    except ValueError as error:
        raise _FormatError(f"time is {time_text!r}: {error}") from None
    if moment.tzinfo is None:
        raise _FormatError(f"time is {time_text!r}, expected a time zone")
    return Change(
        sequence=sequence,
        time=moment.timestamp(),
        actor=_get(record, "actor", str),
        action=action,
        labels_before=_labels(record, "labels_before"),
        state=state,
        reason=_get(record, "reason", str),
        forced=_get(record, "forced", bool),
        gate=_get(record, "gate", dict, type(None)),
        request_id=_get(record, "request_id", str),
        content=_get(record, "content", str),
    )


def _parse(text: bytes) -> dict[str, Any]:
    try:
        content = json.loads(text, parse_float=_number, parse_constant=_number)
    except (ValueError, RecursionError) as error:
        raise _FormatError(f"not JSON: {error}") from None
    if not isinstance(content, dict):
        raise _FormatError(f"it is {type(content).__name__}, expected an object")
    return content


def _number(text: str) -> float:
    # Also of digits that are too many, which no line of JSON could hold again.
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is no finite number")
    return value


def _get(record: Mapping[str, Any], name: str, *kinds: type) -> Any:  # noqa: ANN401 - one of `kinds`
    value = record.get(name)
    # Of exactly this type: a truth value is no number.
    if type(value) not in kinds or (type(value) is int and not 0 <= value < 2**63):
        raise _FormatError(f"{name} is {value!r}, expected {kinds[0].__name__}")
    return value


def _labels(record: Mapping[str, Any], name: str) -> dict[str, int]:
    labels: dict[str, int] = _get(record, name, dict)
    if not all(type(version) is int and 1 <= version < 2**63 for version in labels.values()):
        raise _FormatError(f"{name} is {labels!r}, expected versions from 1")
    return labels
