"""The public Kaggle data set "Brain Tumor MRI Dataset", fetched by kagglehub into its own cache."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import requests
from neurogate_core.files import is_disk_full
from requests.adapters import HTTPAdapter

from neurogate_trainer.errors import TrainerError
from neurogate_trainer.progress import Reporter

from .layout import DatasetError, find_images

HANDLE = "masoudnickparvar/brain-tumor-mri-dataset"
PINNED_VERSION = 2
"""Version that is fetched unless another is asked for; a pinned one needs no request once it is cached."""

ATTRIBUTION = f"""\
Brain Tumor MRI Dataset by Masoud Nickparvar, Kaggle: {HANDLE} (licence given there: CC0, public domain).
It combines three sources: the figshare brain tumour data set by Jun Cheng (CC BY 4.0), the SARTAJ data set,
and Br35H. Please name them when you publish results. Research only: labels were not verified by Neurogate."""

_CONNECT_SECONDS = 15.0
_SILENCE_SECONDS = 60.0
_BROKEN_ARCHIVE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, ValueError, RuntimeError)


class FetchError(TrainerError, RuntimeError):
    """The data set could not be fetched; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A data set that lies ready.

    Attributes:
        path: Its root, with Training/ and Testing/.
        version: Kaggle's version number.
        counts: Number of files by given split and class.
    """

    path: Path
    version: int
    counts: dict[tuple[str, str], int]


def fetch_kaggle(*, version: int = PINNED_VERSION, link: Path | None = None, reporter: Reporter) -> Fetched:
    """Makes the data set available locally; an interrupted download goes on where it stopped.

    `link` is a symbolic link to make to the data set.

    A version that is in kagglehub's cache (KAGGLEHUB_CACHE) is used without any request. When Kaggle cannot
    be reached, another cached version is used, with a warning.

    Raises:
        FetchError: Kaggle refused or cannot be reached, the disk is full, the archive is broken, or what it
            holds is not the data set.
    """
    if version < 1:
        raise FetchError(f"the version is {version}, expected 1 or more")
    if link is not None and (link.exists() or link.is_symlink()) and not link.is_symlink():
        raise FetchError(f"{link} exists and is no symbolic link; choose another name for the link")
    try:
        path = _download(version, reporter)
    except requests.ConnectionError as error:
        cached = _newest_cached()
        if cached is None:
            raise FetchError(_unreachable(error)) from error
        path, found = cached
        reporter.message(
            f"Kaggle cannot be reached; using version {found} from the cache instead of version {version}",
            level="warning",
        )
        version = found
    counts = _verify(path)
    for line in ATTRIBUTION.splitlines():
        reporter.message(line)
    if link is not None:
        _link(link, path)
    return Fetched(path, version, counts)


def _download(version: int, reporter: Reporter) -> Path:
    import kagglehub  # noqa: PLC0415 - takes a third of a second, which only this command needs

    handle = f"{HANDLE}/versions/{version}"
    # Standard output is for results, but kagglehub prints there.
    quiet = contextlib.redirect_stdout(sys.stderr)
    with _default_timeouts(), _silent_log(), quiet, _progress_through(kagglehub.clients, reporter):
        try:
            return Path(kagglehub.dataset_download(handle))
        except requests.HTTPError as error:
            raise FetchError(_refused(error, version)) from error
        except requests.ConnectionError:
            if _partial_size(version):
                raise FetchError(_cut(version)) from None
            raise
        except requests.Timeout as error:
            raise FetchError(
                f"Kaggle did not answer within {_SILENCE_SECONDS:.0f} s. What was downloaded is kept; "
                "call again."
            ) from error
        except requests.RequestException as error:
            raise FetchError(f"{_cut(version)} ({type(error).__name__}: {error})") from error
        except kagglehub.exceptions.DataCorruptionError as error:
            raise FetchError(
                "the downloaded archive is corrupt (its checksum differs from Kaggle's); it was removed. "
                "Call again."
            ) from error
        except OSError as error:
            raise FetchError(_disk(error)) from error
        except _BROKEN_ARCHIVE as error:
            # A ValueError can also be about the credentials file, in the words of kagglehub.
            if type(error) is ValueError and "archive" not in str(error):
                raise FetchError(str(error)) from error
            _remove_broken(version)
            raise FetchError(
                f"what was downloaded is not a whole archive ({error}); it was removed. Call again; if "
                "it happens twice, look whether a proxy answers in Kaggle's place."
            ) from error


def _cache_folder() -> Path:
    from kagglehub.config import get_cache_folder  # noqa: PLC0415 - as in _download

    return Path(get_cache_folder()) / "datasets" / Path(HANDLE)


def _partial_size(version: int) -> int:
    archive = _cache_folder() / f"{version}.archive"
    return archive.stat().st_size if archive.is_file() else 0


def _remove_broken(version: int) -> None:
    """Otherwise the next call would find a complete download and fail in the same way for ever."""
    (_cache_folder() / f"{version}.archive").unlink(missing_ok=True)
    shutil.rmtree(_cache_folder() / "versions" / str(version), ignore_errors=True)


def _newest_cached() -> tuple[Path, int] | None:
    complete = []
    for marker in _cache_folder().glob("*.complete"):
        folder = _cache_folder() / "versions" / marker.stem
        if marker.stem.isdigit() and folder.is_dir():
            complete.append((int(marker.stem), folder))
    return (max(complete)[1], max(complete)[0]) if complete else None


def _verify(path: Path) -> dict[tuple[str, str], int]:
    try:
        files = find_images(path).files
    except DatasetError as error:
        raise FetchError(f"Kaggle's archive does not hold the expected folders: {error}") from error
    counts = Counter((file.given_split, file.class_id) for file in files)
    splits = {split for split, _ in counts}
    if splits != {"train", "test"}:
        raise FetchError(
            f"{path} holds the given splits {sorted(splits)}, expected Training/ and Testing/ with class "
            "folders"
        )
    return dict(sorted(counts.items()))


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target, target_is_directory=True)
    temporary.replace(link)


def _unreachable(error: requests.ConnectionError) -> str:
    return (
        f"Kaggle cannot be reached ({_short(error)}). Check the network and the proxy settings, or put the "
        "data set somewhere by hand and use `neurogate-trainer data import FOLDER`, or make a stand-in with "
        "`neurogate-trainer data phantom OUT`."
    )


def _cut(version: int) -> str:
    megabytes = _partial_size(version) / 1e6
    return f"the connection to Kaggle broke after {megabytes:.1f} MB; they are kept, call again to go on"


def _refused(error: requests.HTTPError, version: int) -> str:
    status = error.response.status_code if error.response is not None else 0
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        advice = (
            "the data set is public, so no account is needed: if credentials are configured "
            "(KAGGLE_API_TOKEN, KAGGLE_USERNAME, ~/.kaggle), correct or remove them; otherwise "
            "a proxy may forbid the access"
        )
    elif status == HTTPStatus.NOT_FOUND:
        advice = f"{HANDLE} has no version {version} (any more); choose another with --dataset-version"
    elif status == HTTPStatus.TOO_MANY_REQUESTS:
        wait = error.response.headers.get("Retry-After") if error.response is not None else None
        pause = f"{wait} s" if wait else "some minutes"
        advice = f"too many requests from this address; wait {pause} and call again"
    elif status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        advice = "Kaggle has a problem; call again later"
    else:
        advice = _short(error)
    return f"Kaggle answered HTTP {status}: {advice}"


def _disk(error: OSError) -> str:
    if is_disk_full(error):
        return (
            f"the disk of {_cache_folder()} is full. Free some space and call again (the download goes on "
            "where it stopped), or point KAGGLEHUB_CACHE at another disk."
        )
    return (
        f"the cache {_cache_folder()} cannot be written ({error}); point KAGGLEHUB_CACHE at a writable folder"
    )


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


@contextlib.contextmanager
def _default_timeouts() -> Iterator[None]:
    """Kagglehub's API calls have no time limit; for as long as this lasts, requests without one get one."""
    original = HTTPAdapter.send

    def send(
        self: HTTPAdapter,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: float | tuple[float | None, float | None] | None = None,
        **others: Any,  # noqa: ANN401 - handed on unseen
    ) -> requests.Response:
        timeout = timeout or (_CONNECT_SECONDS, _SILENCE_SECONDS)
        return original(self, request, stream=stream, timeout=timeout, **others)

    with _replaced(HTTPAdapter, "send", send):
        yield


@contextlib.contextmanager
def _silent_log() -> Iterator[None]:
    """Kagglehub logs to standard output; the reporter says the same in the right place."""
    log = logging.getLogger("kagglehub")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


@contextlib.contextmanager
def _progress_through(clients: ModuleType, reporter: Reporter) -> Iterator[None]:
    """Lets the reporter draw the download instead of kagglehub's own bar."""

    class Bar:
        """The part of tqdm that kagglehub uses; counts whole megabytes."""

        def __init__(self, *, total: int, initial: int = 0, **_: object) -> None:
            self._bytes, self._reported = initial, 0
            reporter.phase("download", total=max(1, round(total / 1e6)), unit="MB")
            self.update(0)

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, n: int) -> None:
            self._bytes += n
            megabytes = round(self._bytes / 1e6)
            if megabytes > self._reported:
                reporter.advance(megabytes - self._reported)
                self._reported = megabytes

    with _replaced(clients, "tqdm", Bar):
        yield


@contextlib.contextmanager
def _replaced(owner: object, name: str, value: object) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)
