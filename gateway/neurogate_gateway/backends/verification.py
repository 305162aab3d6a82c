"""The proof that a version must pass before it answers: it gives here what it gave where it was trained.

Training and serving can part ways silently, by another decoder, another resize, another build of the model
server. So a version brings examples along (goldens), and the gateway runs them through its own transform and
its own backend. Any difference in a pixel, or in a probability beyond the tolerance, and the version is
refused.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError
from google.rpc import code_pb2
from neurogate.v1 import manifest_pb2
from neurogate_core.manifest import ManifestError, manifest_digest, parse_manifest
from neurogate_core.preprocessing.transform import REVISIONS, pixels_digest

from neurogate_gateway.errors import BackendAnswerInvalidError, GatewayError

from .rejection import Rejection, UnprovenError
from .tfs_messages import Outputs, Pixels
from .tfserving import BackendFaultError, VersionRefusedError

_DEFAULT_TOLERANCE: Final = 1e-3


Preprocess = Callable[[bytes, manifest_pb2.TransformSpec], Awaitable[npt.NDArray[np.uint8]]]
"""From an encoded image to the pixels that a version sees, uint8 [height, width, 3]."""


class Witness(Protocol):
    """What a proof asks of a model server; the methods are as the backend has them."""

    async def describe(self, model: str, version: int, *, seconds: float) -> bytes:
        """The version's serialized manifest."""

    async def predict(
        self, model: str, version: int, pixels: Pixels, *, classes: int, gradcam: bool, seconds: float
    ) -> Outputs:
        """Runs one image."""


@dataclasses.dataclass(frozen=True)
class ServedVersion:
    """A proven version and all that an answer needs to know of it."""

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
    def out_of_distribution_above(self) -> float | None:
        """Largest ood_score of an answer that means something; None when the version sets no limit."""
        thresholds = self.manifest.thresholds
        if thresholds.HasField("out_of_distribution_above"):
            return thresholds.out_of_distribution_above
        return None


async def read_version(
    model: str, number: int, backend: Witness, *, seconds_per_call: float
) -> ServedVersion:
    """A version as it describes itself, not proven yet; its manifest may be of something else.

    Raises:
        UnprovenError: It does not, or the manifest is not valid, or asks for a transform that this gateway
            does not implement.
        VersionUnloadedError: The version is not loaded.
        GatewayError: The model server could not be asked; nothing is known.
    """
    try:
        data = await backend.describe(model, number, seconds=seconds_per_call)
        manifest = parse_manifest(data)
    except BackendFaultError:
        raise
    except (VersionRefusedError, BackendAnswerInvalidError) as error:
        raise UnprovenError(
            Rejection.NOT_DESCRIBED, f"the version does not describe itself: {error}"
        ) from error
    except ManifestError as error:
        raise UnprovenError(_kind_of_invalid(data), f"the manifest is not valid: {error}") from error
    return ServedVersion(model, number, manifest, manifest_digest(data))


def _kind_of_invalid(data: bytes) -> Rejection:
    """Tells a manifest from the future, which another gateway may well serve, from a broken one."""
    try:
        revision = manifest_pb2.ModelManifest.FromString(data).transform.revision
    except DecodeError:
        return Rejection.MANIFEST_INVALID
    known = revision in {0, *REVISIONS}
    return Rejection.MANIFEST_INVALID if known else Rejection.TRANSFORM_UNKNOWN


def check_named(version: ServedVersion) -> None:
    """Holds a version to the model and the number that its manifest names.

    Raises:
        UnprovenError: The manifest is of something else.
    """
    manifest = version.manifest
    if (manifest.model_name, manifest.version) != (version.model, version.number):
        raise UnprovenError(
            Rejection.MANIFEST_OF_ANOTHER,
            f"the manifest is of {manifest.model_name} version {manifest.version}, "
            f"but the model server gave it for {version.model} version {version.number}",
        )


async def prove(
    version: ServedVersion, backend: Witness, preprocess: Preprocess, *, seconds_per_call: float
) -> None:
    """Replays every golden, one after another, since a proof must not crowd out the callers' images.

    Raises:
        UnprovenError: A golden's pixels or probabilities differ.
        VersionUnloadedError: The version went away meanwhile.
        GatewayError: The model server could not be asked; nothing is known.
    """
    findings = [
        await _replay(version, golden, backend, preprocess, seconds_per_call)
        for golden in version.manifest.goldens
    ]
    wrong = [finding for finding in findings if finding]
    if wrong:
        raise UnprovenError(
            Rejection.GOLDENS_DIFFER, f"{len(wrong)} of {len(findings)} goldens differ: {_first(wrong)}"
        )


async def _replay(
    version: ServedVersion,
    golden: manifest_pb2.Golden,
    backend: Witness,
    preprocess: Preprocess,
    seconds_per_call: float,
) -> str:
    try:
        pixels = await preprocess(golden.image, version.manifest.transform)
    except GatewayError as error:
        if error.code != code_pb2.INVALID_ARGUMENT:
            raise
        return f"{golden.name}: {error.message}"
    if pixels_digest(pixels) != golden.pixels_sha256:
        return f"{golden.name}: other pixels than at training"
    try:
        outputs = await backend.predict(
            version.model,
            version.number,
            pixels,
            classes=len(version.classes),
            gradcam=False,
            seconds=seconds_per_call,
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


def _first(findings: Sequence[str], most: int = 3) -> str:
    more = f"; and {len(findings) - most} more" if len(findings) > most else ""
    return "; ".join(findings[:most]) + more
