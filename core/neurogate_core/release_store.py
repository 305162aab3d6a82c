"""The release of a model: which version each label means, kept beside the versions for everyone to agree on.

    <root>/<model>/.release.json        the release, with the change that made it so
    <root>/<model>/.release-log.jsonl   the audit record, one change a line
    <root>/<model>/.release-idle.jsonl  requests that asked for what was so already
    <root>/<model>/.release.lock        held while one of them changes

A change is one replacement of the document, so a crash leaves the old release or the new one. The record
follows it: what a crash kept out is there in the document, and is written before the next change.

The names start with a dot, so TensorFlow Serving does not see them. Locks are flock(2) on open files, so they
end with their process, however it ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from . import _release_idle as idle
from . import _release_log as record
from ._release_format import (
    ACTIONS,
    CANDIDATE,
    GUARD,
    PROMOTE,
    RETIRE,
    ROLLBACK,
    SET_TRAFFIC,
    Change,
    FormatError,
    Release,
    State,
    decode_release,
    encode_release,
)
from .files import replace_file
from .names import MODEL_NAME_RULE, is_model_name
from .repository import RepositoryError

__all__ = [
    "ACTIONS",
    "CANDIDATE",
    "GUARD",
    "PROMOTE",
    "RETIRE",
    "ROLLBACK",
    "SET_TRAFFIC",
    "Change",
    "Changed",
    "Draft",
    "EtagMismatchError",
    "Release",
    "ReleaseDamagedError",
    "ReleaseStore",
    "RequestIdReusedError",
    "State",
]

_T = TypeVar("_T")

_DOCUMENT: Final = ".release.json"
_LOG: Final = ".release-log.jsonl"
_IDLE: Final = ".release-idle.jsonl"
_LOCK: Final = ".release.lock"


class EtagMismatchError(RepositoryError):
    """The release has changed since its etag was read."""


class RequestIdReusedError(RepositoryError):
    """The request_id belongs to a change that asked for something else."""


class ReleaseDamagedError(RepositoryError):
    """The document or the record cannot be understood; the message names the file and what is wrong."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A change as somebody wants it; attributes as in `Change`."""

    action: str
    state: State
    actor: str
    reason: str = ""
    forced: bool = False
    gate: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """What a change has come to.

    Attributes:
        release: The release right after it.
        change: Its line of the audit record; None where all was so already, and nothing was changed.
        repeated: Whether it had been asked for before, under the same request_id.
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
        if not is_model_name(model):
            raise RepositoryError(f"model name {model!r} is not valid, expected {MODEL_NAME_RULE}")
        self._folder = root.absolute() / model
        self._document = self._folder / _DOCUMENT
        self._log = self._folder / _LOG
        self._idle = self._folder / _IDLE

    def stamp(self) -> tuple[int, ...]:
        """Something that differs whenever the document does, at the price of one look at its name."""
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
            content = self._document.read_bytes()
        except FileNotFoundError:
            return Release()
        try:
            return decode_release(content)
        except FormatError as error:
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
            decide: What to make of the release as it is now; may raise, and then nothing changes. A state
                that is the present one changes nothing either, and leaves no line in the audit record.
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
        asked = _digest(content or {})
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            self._sweep()
            release = self.read()
            self._catch_up(release)
            if repeated := self._repeated(request_id, asked):
                return repeated
            if etag and etag != release.etag:
                raise EtagMismatchError(f"the release is at {release.etag} by now, not at {etag}")
            draft = decide(release)
            if draft.state == release.state:
                if request_id:
                    idle.remember(self._idle, idle.Asked(request_id, asked, release.revision, release.etag))
                return Changed(release=release, change=None)
            change = Change(
                sequence=release.revision + 1,
                time=time.time(),
                labels_before=release.state.labels,
                request_id=request_id,
                content=asked if request_id else "",
                **{field.name: getattr(draft, field.name) for field in dataclasses.fields(draft)},
            )
            document = encode_release(change)
            # As everybody else will read it, down to the digits of its numbers: so all agree on the etag.
            after = decode_release(document)
            replace_file(self._document, document)
            # From here on it is done. A record that cannot be written now is completed by the next change.
            with contextlib.suppress(OSError):
                record.complete(self._log, after.change)
            return Changed(release=after, change=after.change)

    def holding(self, act: Callable[[Release], _T]) -> _T:
        """What `act` makes of the release while nobody can change it.

        Raises:
            ReleaseDamagedError, OSError: As `read`.
        """
        with self._locked():
            return act(self.read())

    def changes(self, *, below: int | None = None, size: int = 50) -> list[Change]:
        """Up to `size` changes whose sequence is below a limit, newest first.

        Raises:
            ReleaseDamagedError: The document or the record cannot be understood.
            OSError: They cannot be read.
        """
        last = self.read().last_change
        limit = sys.maxsize if below is None else below
        found = self._guarded(lambda: record.page(self._log, below=limit, size=size))
        recorded = found[0].sequence if found else 0
        if last is not None and recorded < last.sequence < limit:
            # A crash kept it out of the record.
            found = [last, *found][:size]
        return found

    def repeated(self, request_id: str, content: Mapping[str, object]) -> Changed | None:
        """What a change under this request_id has come to; None when there was none.

        Arguments as in `change`.

        Raises:
            RequestIdReusedError, ReleaseDamagedError, OSError: As `change`.
        """
        last = self.read().last_change
        if last is not None and request_id and last.request_id == request_id:
            # A crash may have kept it out of the record.
            return _first_answer(last, request_id, _digest(content))
        return self._repeated(request_id, _digest(content))

    def _repeated(self, request_id: str, asked: str) -> Changed | None:
        if not request_id:
            return None
        earlier = self._guarded(lambda: record.find(self._log, request_id))
        if earlier is not None:
            return _first_answer(earlier, request_id, asked)
        before = idle.find(self._idle, request_id)
        if before is None:
            return None
        then = self.changes(below=before.revision + 1, size=1)
        release = Release(state=then[0].state, last_change=then[0]) if then else Release()
        if release.etag != before.etag:
            # Of a history that was moved away, to begin anew.
            return None
        if before.content != asked:
            raise RequestIdReusedError(
                f"request_id {request_id!r} belongs to a request that asked for something else"
            )
        return Changed(release=release, change=None, repeated=True)

    def _catch_up(self, release: Release) -> None:
        last = release.last_change
        if last is not None:
            self._guarded(lambda: record.complete(self._log, last))
        elif recorded := self._guarded(lambda: record.last_sequence(self._log)):
            raise ReleaseDamagedError(
                f"{self._document} is missing, but {_LOG} holds {recorded} changes; restore it from the last "
                f"line, or move {_LOG} and {_IDLE} away to begin anew"
            )

    def _guarded(self, read: Callable[[], _T]) -> _T:
        try:
            return read()
        except FormatError as error:
            raise ReleaseDamagedError(f"{self._log} is damaged: {error}") from None

    def _sweep(self) -> None:
        """Removes what a killed process left of a file in the making; the caller holds the lock."""
        for name in (_DOCUMENT, _IDLE):
            for path in self._folder.glob(f".{name}.*.tmp"):
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _first_answer(earlier: Change, request_id: str, asked: str) -> Changed:
    if earlier.content != asked:
        raise RequestIdReusedError(
            f"request_id {request_id!r} belongs to change {earlier.sequence}, which asked for something else"
        )
    after = Release(state=earlier.state, last_change=earlier)
    return Changed(release=after, change=earlier, repeated=True)


def _digest(content: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
