"""Whether a version's files are those that its manifest lists, where the gateway can see the repository.

Goldens find a model that answers differently; digests find one that was changed so that these few images do
not show it. Reading all files takes a while, so it happens in a thread of its own, and again only when a file
has changed since.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from neurogate_core.manifest import (
    MANIFEST_FILE,
    ManifestError,
    manifest_digest,
    verify_version,
    version_files,
)
from neurogate_core.repository import misnamed, served_names

from .verification import FilesUnreadableError, Rejection, ServedVersion, VerificationError

_Fingerprint = tuple[tuple[str, int, int, int], ...]


class RepositoryIntegrity:
    """Reads the files in the model repository."""

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._verified: dict[int, tuple[str, _Fingerprint]] = {}
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="integrity")

    def close(self) -> None:
        """Drops what has not begun."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def check(self, version: ServedVersion) -> None:
        """Holds a version to its files, unless that was done and no file has changed since.

        Raises:
            VerificationError: A file is missing, additional or another one, or the manifest is.
            FilesUnreadableError: Nobody can tell now.
        """
        await asyncio.get_running_loop().run_in_executor(self._executor, self._check, version)

    def _check(self, version: ServedVersion) -> None:
        folder = self._repository / version.model / str(version.number)
        try:
            # Before reading, so that a change during the reading is found at the next check.
            seen = (version.digest, _fingerprint(folder))
            if self._verified.get(version.number) == seen:
                return
            verify_version(folder, model_name=version.model)
            digest = manifest_digest((folder / MANIFEST_FILE).read_bytes())
        except ManifestError as error:
            # Paths are the operator's affair.
            complaint = str(error).removeprefix(f"{folder}: ").replace(f"{folder}/", "")
            complaint = complaint.replace(str(folder), f"version {version.number}")
            raise VerificationError(
                Rejection.FILES_DIFFER, f"the files differ from the manifest: {complaint}"
            ) from error
        except OSError as error:
            self._check_name(folder)
            raise FilesUnreadableError(
                f"the repository's files of version {version.number} cannot be read: {error.strerror}"
            ) from error
        if digest != version.digest:
            raise VerificationError(
                Rejection.FILES_DIFFER,
                f"the files differ from what is served: the repository's manifest has digest {digest[:12]}…, "
                f"the model server's has {version.digest[:12]}…",
            )
        self._verified[version.number] = seen

    def _check_name(self, folder: Path) -> None:
        """Tells a version whose folder has another name from one that cannot be seen yet.

        Raises:
            VerificationError: A model server reads the number from a name that no version has.
        """
        number = int(folder.name)
        try:
            name = served_names(folder.parent).get(number, folder.name)
        except OSError:
            return
        if name != folder.name:
            raise VerificationError(Rejection.FILES_DIFFER, misnamed(number, name))


def _fingerprint(folder: Path) -> _Fingerprint:
    """Path, size, time of the last change and inode of every file, behind whatever links it lies.

    Raises:
        VersionCorrupt: Something is neither a file nor a folder.
        OSError: One cannot be looked at; FileNotFoundError when there is no such folder.
    """
    found = []
    for relative in version_files(folder):
        status = (folder / relative).stat()
        found.append((relative, status.st_size, status.st_ctime_ns, status.st_ino))
    return tuple(sorted(found))
