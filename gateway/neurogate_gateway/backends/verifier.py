"""One attempt at a version's proof, and what follows from its outcome."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable

from neurogate_gateway.errors import GatewayError, InternalError
from neurogate_gateway.observability.logging import log

from .integrity import FilesUnreadableError, Integrity
from .rejection import Rejection, UnprovenError
from .tfserving import VersionUnloadedError
from .verification import Preprocess, ServedVersion, Witness, check_named, prove, read_version
from .versions import LOADING, READY, REJECTED, EndpointVersion, State


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """The state that a version is in after an attempt, and why."""

    state: State
    reason: str = ""
    kind: Rejection | None = None


class VersionVerifier:
    """Proves versions on any of the model servers."""

    def __init__(
        self,
        preprocess: Preprocess,
        integrity: Integrity,
        *,
        model: str,
        seconds_per_call: float,
    ) -> None:
        self.model = model
        self._preprocess = preprocess
        self._integrity = integrity
        self._seconds_per_call = seconds_per_call

    async def attempt(
        self, entry: EndpointVersion, backend: Witness, admit: Callable[[ServedVersion], ServedVersion]
    ) -> Verdict:
        """Reads and proves a version, and leaves in the entry what was read and how often it was interrupted.

        Args:
            entry: The version.
            backend: The model server that has it.
            admit: Has the last word on a version that is proven: gives the object to go on with, or raises
                `UnprovenError`. Nothing is awaited between it and the return.

        Returns:
            READY, REJECTED, or LOADING when nothing was found out.
        """
        start = time.monotonic()
        seconds = self._seconds_per_call
        try:
            version = await read_version(self.model, entry.number, backend, seconds_per_call=seconds)
            # Also of one that is refused, so that it can be looked at.
            entry.version = version
            check_named(version)
            await self._integrity.check(version)
            await prove(version, backend, self._preprocess, seconds_per_call=seconds)
            entry.version = admit(version)
        except UnprovenError as error:
            return Verdict(REJECTED, str(error), error.kind)
        except FilesUnreadableError as error:
            return _interrupted(entry, str(error), fault=False)
        except (VersionUnloadedError, GatewayError) as error:
            return _interrupted(entry, str(error), fault=isinstance(error, InternalError))
        except Exception as error:  # noqa: BLE001 - a version that breaks the proof must not serve either
            log(logging.ERROR, "proof_failed", version=entry.number, error=error)
            return _interrupted(entry, "it failed unforeseen; the gateway's log has the details", fault=True)
        observe_latency = round(time.monotonic() - start, 3)
        goldens = len(version.manifest.goldens)
        log(logging.INFO, "version_ready", version=entry.number, goldens=goldens, seconds=observe_latency)
        entry.forget_interruptions()
        return Verdict(READY)


def _interrupted(entry: EndpointVersion, reason: str, *, fault: bool) -> Verdict:
    rejected = entry.interrupted(fault=fault)
    log(logging.WARNING, "proof_interrupted", version=entry.number, reason=reason, rejected=rejected)
    reason = f"the proof was interrupted: {reason}"
    return Verdict(REJECTED, reason, Rejection.PROOF_FAILED) if rejected else Verdict(LOADING, reason)
