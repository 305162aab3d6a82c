"""Tells foreign model servers from the gateway's own, before one is sent a configuration.

A configuration replaces all that a server serves. So what it serves under the model's name is first held to
the repository. A server is foreign when it serves there a version that does not describe itself, or one
whose manifest is another than the repository's of that number. It is left alone; versions on it that are
proven, and so the repository's, may answer.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable, Mapping

from neurogate_gateway.backends.pool import BackendPool
from neurogate_gateway.backends.verification import Rejection
from neurogate_gateway.backends.versions import LOADING, PROVING, VersionOnBackend
from neurogate_gateway.observability.logging import log

from .controller import ReleaseController

_OTHER_MANIFEST = {Rejection.MANIFEST_INVALID, Rejection.TRANSFORM_UNKNOWN}
"""Rejections of a manifest that cannot be read; the server is foreign where the repository's can be."""


class ForeignServers:
    """Remembers which model servers are the gateway's own, for as long as the connection to each lasts."""

    def __init__(self, controller: ReleaseController, pool: BackendPool, *, take_over: bool) -> None:
        self._controller = controller
        self._pool = pool
        self._take_over = take_over
        self._own: set[str] = set()

    def is_own(self, address: str) -> bool:
        """Whether a server may be given a configuration."""
        return address in self._own

    def forget(self, address: str) -> None:
        """The connection has ended or begun: another server may be there."""
        self._own.discard(address)

    def look(self) -> None:
        """Compares the servers that can be reached and are not known yet."""
        before, found = self._pool.foreign, dict[str, str]()
        for address in sorted(address for address, up in self._pool.backends.items() if up):
            if address in self._own:
                continue
            reason = foreign(self._on(address), self._controller.digests, self._controller.refused)
            if reason is None:
                # Until it is known again.
                reason = before.get(address)
            elif not reason or self._take_over:
                self._own.add(address)
            if reason:
                if before.get(address) != reason:
                    taken = address in self._own
                    log(
                        logging.ERROR,
                        "model_server_foreign",
                        backend=address,
                        reason=reason,
                        taken_over=taken,
                    )
                if address not in self._own:
                    found[address] = reason
        self._pool.leave_alone(found)

    def _on(self, address: str) -> Iterable[tuple[int, VersionOnBackend]]:
        for view in self._pool.versions():
            for there in view.backends:
                if there.address == address:
                    yield view.number, there


def foreign(
    versions: Iterable[tuple[int, VersionOnBackend]], digests: Mapping[int, str], refused: Container[int]
) -> str | None:
    """Why a model server is somebody else's; empty for the gateway's own, None when that is not known yet.

    Args:
        versions: What the server has, with the numbers.
        digests: Digest of the manifest of the repository's versions. Numbers that are not among them prove
            nothing: they may have been pruned. Without any there is nothing yet to hold the server to.
        refused: Numbers of what lies in the repository and is no version. A server that has one loaded may
            have it from there.
    """
    loaded, loading, unread = False, False, False
    for number, there in versions:
        loading |= there.state == LOADING
        if not there.loaded:
            continue
        loaded = True
        if number in refused:
            continue
        if there.kind == Rejection.NOT_DESCRIBED:
            return f"its version {number} does not describe itself"
        ours = digests.get(number)
        if ours is not None and there.kind in _OTHER_MANIFEST:
            return f"its version {number} has a manifest that is not valid, and the repository's is"
        if ours is not None and there.digest not in {"", ours}:
            return (
                f"its version {number} has a manifest with digest {there.digest[:12]}…, "
                f"the repository's has {ours[:12]}…"
            )
        unread |= not there.digest and there.state in {LOADING, PROVING}
    unknown = unread or (loaded and not digests) or (loading and not loaded)
    return None if unknown else ""
