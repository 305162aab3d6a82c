"""The verification that a version must pass: it gives here what it gave where it was trained.

Training and serving can part ways silently, by another decoder, another resize, another build of the model
server. So a version brings examples along (goldens), and the gateway runs them through its own transform and
its own backend. Any difference in a pixel, or in a probability beyond the tolerance, and the version is
rejected.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Awaitable, Callable
from typing import Final

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError
from google.rpc import code_pb2
from neurogate.v1 import manifest_pb2
from neurogate_core.manifest import ManifestError, manifest_digest, parse_manifest
from neurogate_core.preprocessing.transform import REVISIONS, pixels_digest

from neurogate_gateway.errors import BackendAnswerInvalidError, GatewayError

from .control_calls import ControlCalls
from .tfserving import BackendFaultError, VersionRefusedError

_DEFAULT_TOLERANCE: Final = 1e-3
_MAX_FINDINGS: Final = 3


class Rejection(enum.StrEnum):
    """Why a version may not serve, as metrics and the log name it."""

    LOAD_FAILED = "load_failed"
    """The model server could not load it, as when it was copied half."""
    NOT_DESCRIBED = "not_described"
    """It does not answer the signature "describe", so nothing is known about it."""
    MANIFEST_INVALID = "manifest_invalid"
    """Its manifest cannot be read, or makes no sense."""
    MANIFEST_OF_ANOTHER = "manifest_of_another"
    """Its manifest is another model's or version's."""
    TRANSFORM_UNKNOWN = "transform_unknown"
    """It asks for a revision of the transform that this gateway does not implement."""
    FILES_DIFFER = "files_differ"
    """Its files are not those that its manifest lists."""
    GOLDENS_DIFFER = "goldens_differ"
    """It does not give here what it gave where it was trained."""
    NUMBER_TAKEN = "number_taken"
    """Another model server already serves something else under this number."""
    PROOF_FAILED = "proof_failed"
    """Its verification broke off too often."""


class VerificationError(Exception):
    """The version must not serve; the message says why, for people."""

    def __init__(self, kind: Rejection, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class FilesUnreadableError(Exception):
    """The version's files cannot be seen (yet), which says nothing about the version."""


@dataclasses.dataclass(frozen=True)
class ServedVersion:
    """A version as it describes itself, and all that an answer needs to know of it."""

    model: str
    number: int
    manifest: manifest_pb2.ModelManifest
    digest: str
    """Hex SHA-256 of the serialized manifest."""

    @functools.cached_property
    def summary(self) -> manifest_pb2.ModelManifest:
        """The manifest without its large parts, goldens and files; not to be changed."""
        return manifest_pb2.ModelManifest(
            **{
                field.name: value
                for field, value in self.manifest.ListFields()
                if field.name not in {"goldens", "files"}
            }
        )

    @functools.cached_property
    def classes(self) -> tuple[tuple[str, str], ...]:
        """Identifier and display name by index."""
        return tuple((entry.id, entry.display_name) for entry in self.manifest.classes)

    @functools.cached_property
    def class_ids(self) -> list[str]:
        """Identifiers by index; not to be changed."""
        return [entry.id for entry in self.manifest.classes]

    @functools.cached_property
    def out_of_distribution_above(self) -> float | None:
        """Largest ood_score of an answer that means something; None when the version sets no limit."""
        thresholds = self.manifest.thresholds
        if thresholds.HasField("out_of_distribution_above"):
            return thresholds.out_of_distribution_above
        return None


class VersionVerifier:
    """Verifies versions on any of the model servers.

    Both methods raise `VerificationError` for a version that must not serve, `VersionUnloadedError` when it
    went away meanwhile, and `GatewayError` when the model server could not be asked, so that nothing is
    known.
    """

    def __init__(
        self,
        preprocess: Callable[[bytes, manifest_pb2.TransformSpec], Awaitable[npt.NDArray[np.uint8]]],
        check_files: Callable[[ServedVersion], Awaitable[None]] | None,
        *,
        model: str,
        seconds_per_call: float,
    ) -> None:
        """Verifies nothing yet.

        Args:
            preprocess: From an encoded image to the pixels that a version sees, uint8 [height, width, 3].
            check_files: Holds a version to its files; raises `VerificationError`, `FilesUnreadableError`.
                None where the gateway does not see the repository, so that goldens alone decide.
            model: Name of the model.
            seconds_per_call: For each call to a model server.
        """
        self.model = model
        self._preprocess = preprocess
        self._check_files = check_files
        self._seconds = seconds_per_call

    async def read(self, number: int, server: ControlCalls) -> ServedVersion:
        """A version as it describes itself, not verified yet; its manifest may be of something else."""
        try:
            data = await server.describe(self.model, number, seconds=self._seconds)
            manifest = parse_manifest(data)
        except BackendFaultError:
            raise
        except (VersionRefusedError, BackendAnswerInvalidError) as error:
            raise VerificationError(
                Rejection.NOT_DESCRIBED, f"the version does not describe itself: {error}"
            ) from error
        except ManifestError as error:
            raise VerificationError(_kind_of_invalid(data), f"the manifest is not valid: {error}") from error
        return ServedVersion(self.model, number, manifest, manifest_digest(data))

    async def verify(self, version: ServedVersion, server: ControlCalls) -> None:
        """Holds a version to its name, its files and its goldens.

        Goldens are replayed one after another, since a verification must not crowd out the callers' images.

        Raises:
            FilesUnreadableError: Its files cannot be seen now.
        """
        manifest = version.manifest
        if (manifest.model_name, manifest.version) != (version.model, version.number):
            raise VerificationError(
                Rejection.MANIFEST_OF_ANOTHER,
                f"the manifest is of {manifest.model_name} version {manifest.version}, "
                f"but the model server gave it for {version.model} version {version.number}",
            )
        if self._check_files is not None:
            await self._check_files(version)
        findings = [await self._replay(version, golden, server) for golden in manifest.goldens]
        wrong = [finding for finding in findings if finding]
        if wrong:
            more = f"; and {len(wrong) - _MAX_FINDINGS} more" if len(wrong) > _MAX_FINDINGS else ""
            raise VerificationError(
                Rejection.GOLDENS_DIFFER,
                f"{len(wrong)} of {len(findings)} goldens differ: {'; '.join(wrong[:_MAX_FINDINGS])}{more}",
            )

    async def _replay(self, version: ServedVersion, golden: manifest_pb2.Golden, server: ControlCalls) -> str:
        """What is wrong with the answer to a golden; empty for nothing."""
        try:
            pixels = await self._preprocess(golden.image, version.manifest.transform)
        except GatewayError as error:
            if error.code != code_pb2.INVALID_ARGUMENT:
                raise
            return f"{golden.name}: {error.message}"
        if pixels_digest(pixels) != golden.pixels_sha256:
            return f"{golden.name}: other pixels than at training"
        try:
            outputs = await server.predict(
                version.model,
                version.number,
                pixels,
                classes=len(version.classes),
                gradcam=False,
                seconds=self._seconds,
            )
        except BackendFaultError:
            raise
        except (VersionRefusedError, BackendAnswerInvalidError) as error:
            return f"{golden.name}: {error}"
        expected = np.array(golden.probabilities, dtype=np.float32)
        difference = float(np.abs(expected - outputs.probabilities).max())
        tolerance = golden.tolerance or _DEFAULT_TOLERANCE
        # Written so that NaN counts as a difference.
        if not difference <= tolerance:
            return f"{golden.name}: a probability is off by {difference:.3g}, accepted is {tolerance:.3g}"
        return ""


def _kind_of_invalid(data: bytes) -> Rejection:
    """Tells a manifest from the future, which another gateway may well serve, from a broken one."""
    try:
        revision = manifest_pb2.ModelManifest.FromString(data).transform.revision
    except DecodeError:
        return Rejection.MANIFEST_INVALID
    known = revision in {0, *REVISIONS}
    return Rejection.MANIFEST_INVALID if known else Rejection.TRANSFORM_UNKNOWN
