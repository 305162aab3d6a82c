"""The release as one process sees it: changes, etags, repeats, the record, and damaged files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from unittest import mock

import pytest
from neurogate_core import release_store as module
from neurogate_core.release_store import (
    PROMOTE,
    Draft,
    Release,
    ReleaseDamagedError,
    ReleaseStore,
    State,
)
from neurogate_core.repository import ModelRepository, RepositoryError

MODEL = "brain_tumor"


@pytest.fixture
def store(tmp_path: Path) -> ReleaseStore:
    return ReleaseStore(tmp_path, MODEL)


def to(version: int, **changes: object) -> module.Callable[[Release], Draft]:
    def decide(release: Release) -> Draft:
        labels = {**release.state.labels, "stable": version}
        return Draft(action=PROMOTE, state=State(labels=labels, highest=version), actor="me", **changes)  # type: ignore[arg-type]

    return decide


def log_lines(root: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (root / MODEL / ".release-log.jsonl").read_text().splitlines()]


def test_before_the_first_change(store: ReleaseStore) -> None:
    release = store.read()
    assert (release.revision, release.state, store.changes()) == (0, State(), [])
    assert store.stamp() == ()


def test_a_change_is_what_everybody_reads(store: ReleaseStore, tmp_path: Path) -> None:
    state = State(
        labels={"stable": 3, "previous": 2, "canary": 4},
        canary_percent=12.5,
        draining={1: 1_700_000_000.25},
        highest=4,
        promoted_at=1_700_000_000.5,
    )
    gate = {"accepted": False, "findings": [{"rule": "min_accuracy", "value": 0.1}]}
    draft = Draft(action=PROMOTE, state=state, actor="ipv4:127.0.0.1:5", reason="why", forced=True, gate=gate)
    changed = store.change(lambda _: draft)
    other = ReleaseStore(tmp_path, MODEL).read()
    assert other == changed.release
    assert other.etag == changed.release.etag
    assert other.state == state
    last = other.last_change
    assert last is not None
    assert (last.sequence, last.forced, last.reason, last.gate) == (1, True, "why", gate)
    assert ModelRepository(tmp_path).versions(MODEL) == []
    assert store.changes() == [last]


def test_every_release_has_an_etag_of_its_own(store: ReleaseStore) -> None:
    etags = [store.read().etag] + [store.change(to(number % 2 + 1)).release.etag for number in range(10)]
    assert len(set(etags)) == 11


@pytest.mark.parametrize("request_id", ['a"b', "a\\b", '","request_id":"r-1', "r-1 ", " "])
def test_request_ids_are_told_apart(store: ReleaseStore, request_id: str) -> None:
    store.change(to(1), request_id="r-1")
    assert not store.change(to(2), request_id=request_id).repeated
    assert store.change(to(3), request_id=request_id).repeated


def test_the_record_pages_newest_first_and_has_no_gaps(store: ReleaseStore, tmp_path: Path) -> None:
    for number in range(1, 8):
        store.change(to(number, reason="x" * 30_000 * (number % 3)))
    assert [change.sequence for change in store.changes(size=3)] == [7, 6, 5]
    assert [change.sequence for change in store.changes(below=5, size=3)] == [4, 3, 2]
    assert [change.sequence for change in store.changes(below=2)] == [1]
    assert [line["sequence"] for line in log_lines(tmp_path)] == list(range(1, 8))
    befores = [change.labels_before for change in store.changes()]
    assert befores == [{"stable": number} for number in range(6, 0, -1)] + [{}]


@pytest.mark.parametrize("cut", [1, 40, 10_000])
def test_a_line_cut_short_or_missing_is_written_again(store: ReleaseStore, tmp_path: Path, cut: int) -> None:
    store.change(to(1))
    second = store.change(to(2)).change
    log = tmp_path / MODEL / ".release-log.jsonl"
    content = log.read_bytes()
    keep = max(content.index(b"\n") + 1, len(content) - cut)
    log.write_bytes(content[:keep])
    assert store.changes()[0] == second
    store.change(to(3))
    assert [line["sequence"] for line in log_lines(tmp_path)] == [1, 2, 3]


def test_a_full_disk_changes_nothing(store: ReleaseStore) -> None:
    before = store.change(to(1)).release
    with (
        mock.patch.object(module, "replace_file", side_effect=OSError(28, "No space left on device")),
        pytest.raises(OSError, match="No space"),
    ):
        store.change(to(2), request_id="r")
    assert store.read() == before
    assert not store.change(to(2), request_id="r").repeated


def test_a_record_that_cannot_be_written_follows_later(store: ReleaseStore, tmp_path: Path) -> None:
    store.change(to(1))
    with mock.patch("os.fsync", side_effect=[None, None, OSError(28, "No space left on device")]):
        assert store.change(to(2)).release.revision == 2
    store.change(to(3))
    assert [line["sequence"] for line in log_lines(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"format": 2}',
        b'{"format": 1}',
        b'{"format": 1, "change": {"sequence": 0}}',
        b"[" * 3000,
    ],
)
def test_a_damaged_document_is_told_and_never_overwritten(
    store: ReleaseStore, tmp_path: Path, content: bytes
) -> None:
    store.change(to(1))
    document = tmp_path / MODEL / ".release.json"
    document.write_bytes(content)
    for act in (store.read, lambda: store.change(to(2)), store.changes):
        with pytest.raises(ReleaseDamagedError, match=r"\.release\.json"):
            act()
    assert document.read_bytes() == content


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("sequence", "1"),
        ("sequence", True),
        ("action", "dance"),
        ("time", "yesterday"),
        ("time", "2026-01-01T00:00:00"),
        ("reason", None),
        ("gate", []),
        ("after.labels", {"stable": 0}),
        ("after.labels", {"stable": "1"}),
        ("after.canary_percent", 101),
        ("after.canary_percent", True),
        ("after.draining", {"x": 1}),
        ("after.draining", {"1": "x"}),
        ("after.draining", {"1": 10**400}),
        ("after.highest", 1.5),
        ("after.promoted_at", "x"),
    ],
)
def test_every_field_of_the_document_is_checked(
    store: ReleaseStore, tmp_path: Path, path: str, value: object
) -> None:
    store.change(to(1))
    document = tmp_path / MODEL / ".release.json"
    whole = json.loads(document.read_text())
    part = whole["change"]
    *folders, name = path.split(".")
    for folder in folders:
        part = part[folder]
    part[name] = value
    document.write_text(json.dumps(whole))
    with pytest.raises(ReleaseDamagedError, match=name):
        store.read()


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_a_number_that_no_release_can_hold_is_damage(
    store: ReleaseStore, tmp_path: Path, number: str
) -> None:
    store.change(to(1))
    document = tmp_path / MODEL / ".release.json"
    document.write_text(document.read_text().replace('"promoted_at": null', f'"promoted_at": {number}'))
    with pytest.raises(ReleaseDamagedError, match=number):
        store.read()


def test_a_lost_document_or_record_stops_changes(store: ReleaseStore, tmp_path: Path) -> None:
    store.change(to(1))
    store.change(to(2))
    document, log = tmp_path / MODEL / ".release.json", tmp_path / MODEL / ".release-log.jsonl"
    content = document.read_bytes()
    document.unlink()
    with pytest.raises(ReleaseDamagedError, match=r"is missing.*move \S+log.jsonl away"):
        store.change(to(3))
    document.write_bytes(content)
    log.unlink()
    with pytest.raises(ReleaseDamagedError, match="ends with change 0"):
        store.change(to(3))


def test_the_stamp_follows_the_document(store: ReleaseStore) -> None:
    stamps = [store.stamp()]
    for number in range(1, 5):
        store.change(to(number))
        stamps.append(store.stamp())
    assert len(set(stamps)) == 5


def test_names_that_are_no_models(tmp_path: Path) -> None:
    for name in ("", "../x", ".x"):
        with pytest.raises(RepositoryError):
            ReleaseStore(tmp_path, name)


# As the first release of Neurogate wrote it.
EARLIER = {
    "sequence": 1,
    "time": "2026-01-02T03:04:05.678901+00:00",
    "actor": "ipv4:127.0.0.1:5",
    "action": "promote",
    "labels_before": {},
    "reason": "wh\u00fd",
    "forced": True,
    "gate": {"accepted": False, "findings": [{"rule": "min_accuracy", "value": 0.1}]},
    "request_id": "r-1",
    "content": hashlib.sha256(b"{}").hexdigest(),
    "after": {
        "labels": {"canary": 4, "stable": 3},
        "canary_percent": 12.5,
        "draining": {"1": 1700000000.25},
        "highest": 4,
        "promoted_at": None,
    },
}


def test_files_of_earlier_releases_are_read(store: ReleaseStore, tmp_path: Path) -> None:
    folder = tmp_path / MODEL
    folder.mkdir()
    (folder / ".release.json").write_text(json.dumps({"format": 1, "change": EARLIER}, indent=2) + "\n")
    (folder / ".release-log.jsonl").write_text(json.dumps(EARLIER, separators=(",", ":")) + "\n")
    (folder / ".release-idle.jsonl").write_text('["r-0", "x", 1, "e"]\n')
    release = store.read()
    assert release.etag == "87ccda5f7978ac32e0c7f1bc"
    assert release.state == State(
        labels={"stable": 3, "canary": 4}, canary_percent=12.5, draining={1: 1_700_000_000.25}, highest=4
    )
    assert store.changes() == [release.last_change]
    assert store.change(to(9), request_id="r-1").repeated
    store.change(to(5), etag=release.etag)
    assert [change.sequence for change in store.changes()] == [2, 1]
