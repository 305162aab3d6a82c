"""One attempt at a version's proof, and what follows from its outcome."""

from __future__ import annotations

import logging
import time

from .backend import Backend, VersionUnloadedError
from .entries import LOADING, READY, REJECTED, Entry, State
from .errors import GatewayError, InternalError
from .proof import UnprovenError, prove, read_version
from .telemetry import log
from .transforms import TransformPool


async def attempt_proof(
    entry: Entry, model: str, backend: Backend, transforms: TransformPool, *, seconds_per_call: float
) -> tuple[State, str]:
    """Reads and proves a version, and leaves in the entry what was read and how often it was interrupted.

    Returns:
        The state that the version is in now, and why: READY, REJECTED, or LOADING when nothing was found out.
    """
    start = time.monotonic()
    try:
        version = await read_version(model, entry.number, backend, seconds_per_call=seconds_per_call)
        entry.version = version
        await prove(version, backend, transforms, seconds_per_call=seconds_per_call)
    except UnprovenError as error:
        log(logging.ERROR, "version_rejected", version=entry.number, reason=str(error))
        return REJECTED, str(error)
    except (VersionUnloadedError, GatewayError) as error:
        return _interrupted(entry, str(error), fault=isinstance(error, InternalError))
    except Exception as error:  # noqa: BLE001 - a version that breaks the proof must not serve either
        log(logging.ERROR, "proof_failed", version=entry.number, error=error)
        return _interrupted(entry, "it failed unforeseen; the gateway's log has the details", fault=True)
    seconds = round(time.monotonic() - start, 3)
    goldens = len(version.manifest.goldens)
    log(logging.INFO, "version_ready", version=entry.number, goldens=goldens, seconds=seconds)
    entry.forget_interruptions()
    return READY, ""


def _interrupted(entry: Entry, reason: str, *, fault: bool) -> tuple[State, str]:
    rejected = entry.interrupted(fault=fault)
    log(logging.WARNING, "proof_interrupted", version=entry.number, reason=reason, rejected=rejected)
    return REJECTED if rejected else LOADING, f"the proof was interrupted: {reason}"
