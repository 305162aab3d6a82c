from __future__ import annotations

import errno
import io
from pathlib import Path

import kagglesdk.kaggle_env
import pytest
from neurogate_testing.kaggle_stub import KaggleStub, archive_of, serving
from neurogate_trainer.data import kaggle
from neurogate_trainer.data.kaggle import HANDLE, FetchError, fetch_kaggle
from neurogate_trainer.progress import LogReporter

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")
FILES = {
    f"{folder}/{class_id}/{folder[:2]}-{n}.jpg": bytes([n]) * 100_000
    for folder in ("Training", "Testing")
    for class_id in CLASSES
    for n in range(3)
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and no credentials from the machine."""
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN", "KAGGLE_KERNEL_RUN_TYPE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
    return tmp_path / "cache" / "datasets" / HANDLE


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch):
    def point_at(stub: KaggleStub):
        context = serving(stub)
        running = context.__enter__()
        stops.append(context)
        monkeypatch.setitem(
            kagglesdk.kaggle_env._env_to_endpoint, kagglesdk.kaggle_env.KaggleEnv.LOCAL, running.url
        )
        return running

    stops = []
    yield point_at
    for context in stops:
        context.__exit__(None, None, None)


@pytest.fixture
def log() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def fetch(log: io.StringIO):
    def call(**settings):
        with LogReporter(log) as reporter:
            return fetch_kaggle(reporter=reporter, **settings)

    return call


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        kagglesdk.kaggle_env._env_to_endpoint, kagglesdk.kaggle_env.KaggleEnv.LOCAL, "http://127.0.0.1:9"
    )


def test_fetch_gives_the_folder_its_counts_and_the_attribution(start, fetch, log, home, tmp_path, capsys):
    start(KaggleStub(archive_of(FILES)))
    fetched = fetch(link=tmp_path / "data" / "kaggle")
    assert fetched.path == home / "versions" / "2"
    assert fetched.counts == {(s, c): 3 for s in ("test", "train") for c in CLASSES}
    assert (tmp_path / "data" / "kaggle").resolve() == fetched.path
    assert "CC BY 4.0" in log.getvalue()
    assert capsys.readouterr().out == ""
    assert not (home / "2.archive").exists()


def test_a_cached_version_needs_no_request(start, fetch):
    stub = start(KaggleStub(archive_of(FILES)))
    first = fetch()
    calls = len(stub.calls)
    assert fetch().path == first.path
    assert len(stub.calls) == calls


def test_a_cut_download_goes_on_where_it_stopped(start, fetch, home):
    archive = archive_of(FILES)
    start(KaggleStub(archive, cut_after=1_500_000))
    with pytest.raises(FetchError, match=r"broke after 1\.0 MB; they are kept"):
        fetch()
    # kagglehub writes whole mebibytes.
    kept = (home / "2.archive").stat().st_size
    assert kept == 2**20
    stub = start(KaggleStub(archive))
    assert sum(fetch().counts.values()) == len(FILES)
    assert ("GET", "archive.zip", f"bytes={kept}-") in stub.calls


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "no account is needed"),
        (403, "no account is needed"),
        (404, "has no version 2"),
        (429, "wait 17 s"),
        (503, "call again later"),
        (418, "HTTP 418"),
    ],
)
def test_refusals_are_explained(start, fetch, status, words):
    start(KaggleStub(b"", status=status, headers={"Retry-After": "17"}))
    with pytest.raises(FetchError, match=words):
        fetch()


def test_without_network_it_says_what_else_can_be_done(fetch, monkeypatch):
    go_offline(monkeypatch)
    with pytest.raises(FetchError, match=r"cannot be reached.*data import"):
        fetch()


def test_without_network_another_cached_version_serves_with_a_warning(start, fetch, log, monkeypatch):
    start(KaggleStub(archive_of(FILES)))
    fetch(version=1)
    go_offline(monkeypatch)
    assert fetch(version=2).version == 1
    assert "WARNING: Kaggle cannot be reached; using version 1" in log.getvalue()


def test_a_wrong_checksum_is_an_error_and_the_next_call_works(start, fetch):
    start(KaggleStub(archive_of(FILES), digest="wrong"))
    with pytest.raises(FetchError, match="checksum"):
        fetch()
    start(KaggleStub(archive_of(FILES)))
    fetch()


@pytest.mark.parametrize(
    "broken", [b"<html>Please log in</html>" * 100, archive_of(FILES)[:-30]], ids=["page", "cut"]
)
def test_a_broken_archive_is_removed_so_that_the_next_call_works(start, fetch, home, broken):
    start(KaggleStub(broken, digest="none"))
    with pytest.raises(FetchError, match="not a whole archive"):
        fetch()
    assert not (home / "2.archive").exists()
    start(KaggleStub(archive_of(FILES)))
    fetch()


def test_a_damaged_member_is_a_broken_archive(start, fetch, home):
    archive = bytearray(archive_of(FILES))
    archive[2000] ^= 0xFF
    start(KaggleStub(bytes(archive), digest="none"))
    with pytest.raises(FetchError, match="not a whole archive"):
        fetch()
    assert not (home / "2.archive").exists()
    assert not (home / "versions" / "2").exists()


def test_a_silent_server_is_not_waited_for_for_ever(start, fetch, monkeypatch):
    monkeypatch.setattr(kaggle, "_SILENCE_SECONDS", 0.2)
    start(KaggleStub(b"", hang=True))
    with pytest.raises(FetchError, match="did not answer"):
        fetch()


def test_a_full_disk_is_named(start, fetch, monkeypatch):
    import kagglehub.clients

    def no_space(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(kagglehub.clients, "_download_file", no_space)
    start(KaggleStub(archive_of(FILES)))
    with pytest.raises(FetchError, match=r"disk of .* is full.*KAGGLEHUB_CACHE"):
        fetch()


@pytest.mark.parametrize(
    "files",
    [
        {"readme.txt": b"nothing here"},
        {f"{c}/{n}.jpg": b"x" for c in CLASSES for n in range(3)},
    ],
)
def test_an_archive_of_something_else_is_refused(start, fetch, files):
    start(KaggleStub(archive_of(files)))
    with pytest.raises(FetchError, match="expected"):
        fetch()


def test_a_damaged_credentials_file_is_named_and_nothing_removed(start, fetch, tmp_path, home):
    (tmp_path / "kaggle.json").write_text("{")
    home.mkdir(parents=True)
    (home / "2.archive").write_bytes(b"half")
    start(KaggleStub(archive_of(FILES)))
    with pytest.raises(FetchError, match="credentials file"):
        fetch()
    assert (home / "2.archive").read_bytes() == b"half"


def test_the_link_never_replaces_a_folder(start, fetch, tmp_path):
    stub = start(KaggleStub(archive_of(FILES)))
    (tmp_path / "data").mkdir()
    with pytest.raises(FetchError, match="no symbolic link"):
        fetch(link=tmp_path / "data")
    assert stub.calls == []


def test_the_version_must_be_a_number_from_one(fetch):
    with pytest.raises(FetchError, match="expected 1 or more"):
        fetch(version=0)
