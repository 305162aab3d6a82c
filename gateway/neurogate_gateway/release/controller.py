"""The release as this gateway knows it: read from the repository, handed to the router, changed on request.

The document in the repository is the truth. Every gateway reads it several times a second, so that all agree,
and applies its own changes at once. While the document cannot be read, the last state that was read is used.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from neurogate.v1 import error_pb2, model_pb2
from neurogate_core.release_store import (
    PROMOTE,
    Change,
    Changed,
    Draft,
    EtagMismatchError,
    Release,
    ReleaseDamagedError,
    ReleaseStore,
    RequestIdReusedError,
)
from neurogate_core.repository import ModelRepository, RepositoryError, Survey

from neurogate_gateway import errors
from neurogate_gateway.backends.pool import BackendPool
from neurogate_gateway.backends.status import StatusSnapshot
from neurogate_gateway.backends.verification import Rejection, ServedVersion
from neurogate_gateway.backends.versions import RETIRED
from neurogate_gateway.errors import (
    EvaluationImpossibleError,
    GatewayError,
    InternalError,
    ReleaseUnavailableError,
)
from neurogate_gateway.observability.logging import log
from neurogate_gateway.observability.signal import Signal, repeat

from . import transitions
from .gate import broken_rules
from .messages import gate_json
from .policy import PolicyError
from .promotion import VersionPromoter
from .router import CANDIDATE, STABLE, Routing, VersionRouter
from .transitions import GATEWAY

_POLL_SECONDS: Final = 0.25
_AGAIN_SECONDS: Final = 5.0
_REPAIRED_SECONDS: Final = 60.0
"""Images that could not be used may have been repaired by then, and a model server that broke as well."""


class NothingDueError(Exception):
    """The change is no longer due; another gateway has made it."""


class ReleaseController:
    """Keeps the router's labels at what the release says, and makes the changes that are due."""

    def __init__(
        self,
        store: ReleaseStore,
        repository: ModelRepository,
        router: VersionRouter,
        *,
        retire_after: float,
        keep: int,
    ) -> None:
        """Looks at nothing yet.

        Args:
            store: The release.
            repository: Where versions are published.
            router: Gets what labels mean.
            retire_after: Seconds for which a version that has lost its last label stays loaded.
            keep: How many versions without a label stay on disk; 0 keeps all.
        """
        self.release = Release()
        """As it was read last."""
        self.published: frozenset[int] = frozenset()
        """Whole versions in the repository, as they were seen last."""
        self.digests: Mapping[int, str] = {}
        """Digest of the manifest of each of them."""
        self.refused: Mapping[int, str] = {}
        """Why other folders that a model server would load are no versions, by number."""
        self.changed: Signal[[Release]] = Signal()
        """Emitted with the release before, whenever there is another one."""
        self._store = store
        self._repository = repository
        self._survey = Survey(repository.root, router.model)
        self._router = router
        self._retire_after = retire_after
        self._keep = keep
        self._stamp: tuple[int, ...] | None = None
        self._troubles: dict[str, str] = {}
        self._changes_made = 0

    async def load(self) -> None:
        """Reads the release before anybody asks for a label."""
        # Nothing is "stable" until it is known what is: to guess the newest could move callers.
        self._router.set_routing(Routing({}))
        await self._refresh()

    async def run(self) -> None:
        """Keeps to the release until cancelled."""
        await repeat(self._work, self._router.pool.version_changed)

    async def _work(self) -> float:
        if await self._refresh():
            await self._reconcile()
            await self._prune()
        return _POLL_SECONDS

    async def change(
        self,
        decide: Callable[[Release, StatusSnapshot], Draft],
        *,
        etag: str = "",
        request_id: str = "",
        content: Mapping[str, object] | None = None,
    ) -> Changed:
        """Changes the release, for all gateways; it counts here when this returns. As `ReleaseStore.change`.

        `decide` runs in a thread, so it is given where the versions stand, of the moment of this call.

        Raises:
            EtagMismatchError: The release is another one by now.
            RequestIdReusedError: The request_id belongs to another change.
            ReleaseUnavailableError: The release cannot be read or written now.
        """
        seen = self._router.pool.snapshot

        def decide_seen(release: Release) -> Draft:
            self._check_there(release)
            return decide(release, seen)

        with self._refusals("write"):
            changed = await asyncio.to_thread(
                self._store.change, decide_seen, etag=etag, request_id=request_id, content=content
            )
        change = changed.change
        if change is not None and not changed.repeated:
            log(
                logging.INFO,
                "release_changed",
                sequence=change.sequence,
                action=change.action,
                actor=change.actor,
                labels=dict(change.state.labels),
                canary_percent=change.state.canary_percent,
                reason=change.reason,
                forced=change.forced,
            )
            self._changes_made += 1
            if changed.release.revision > self.release.revision:
                self._take(changed.release)
        return changed

    async def repeated(self, request_id: str, content: Mapping[str, object]) -> Changed | None:
        """What a change under this request_id has come to; None when there was none. Raises as `change`."""
        if not request_id:
            return None
        with self._refusals("read"):
            return await asyncio.to_thread(self._store.repeated, request_id, content)

    async def changes(self, *, below: int | None, size: int) -> list[Change]:
        """As `ReleaseStore.changes`. Raises `ReleaseUnavailableError`."""
        with self._refusals("read"):
            return await asyncio.to_thread(self._store.changes, below=below, size=size)

    def is_published(self, version: int) -> bool:
        """Whether a version is in the repository at this moment; looks at the disk."""
        return version in self._repository.versions(self._router.model)

    async def _refresh(self) -> bool:
        """Applies what other gateways have changed; False when the repository cannot be read."""
        made = self._changes_made
        try:
            stamp = await asyncio.to_thread(self._store.stamp)
            if stamp != self._stamp:
                release = await asyncio.to_thread(self._store.read)
                self._check_there(release)
                # A change of our own that was made meanwhile is newer than what was read.
                if made == self._changes_made:
                    self._stamp = stamp
                    self._take(release)
            surveyed = await asyncio.to_thread(self._survey.look)
        except (RepositoryError, OSError) as error:
            self._note("refresh", error)
            return False
        self.published, self.digests = frozenset(surveyed.whole), surveyed.whole
        self._refuse(surveyed.refused)
        self._troubles.pop("refresh", None)
        return True

    def _refuse(self, refused: Mapping[int, str]) -> None:
        for number, reason in refused.items():
            if self.refused.get(number) != reason:
                log(logging.ERROR, "version_refused", version=number, reason=reason)
        self.refused = refused
        self._router.pool.refuse(refused)

    def _check_there(self, release: Release) -> None:
        """Refuses a release that is gone, as when its volume is not mounted, in place of a new one.

        Raises:
            ReleaseDamagedError: There was a document, and now there is none.
        """
        if release.last_change is None and self.release.last_change is not None:
            raise ReleaseDamagedError(
                f"the release is missing, but was at change {self.release.revision}: is the repository still "
                "there? To begin anew, stop the gateways first"
            )

    def _note(self, doing: str, error: Exception) -> None:
        # It is tried several times a second; the log has it once.
        if self._troubles.get(doing) != str(error):
            self._troubles[doing] = str(error)
            log(logging.ERROR, "release_unavailable", doing=doing, message=str(error))

    def _take(self, release: Release) -> None:
        if release == self.release:
            return
        before, self.release = self.release, release
        self._router.set_routing(Routing(dict(release.state.labels), release.state.canary_percent))
        self.changed.emit(before)

    async def _reconcile(self) -> None:
        """Makes the change that is due, if any, unless another gateway has just made it."""

        def now_due(release: Release, seen: StatusSnapshot) -> Draft | None:
            return transitions.next_change(
                release,
                published=self.published,
                ready=frozenset(seen.served),
                with_policy=frozenset(
                    number for number, served in seen.served.items() if served.manifest.lineage.gate_policy
                ),
                now=time.time(),
                retire_after=self._retire_after,
            )

        def decide(release: Release, seen: StatusSnapshot) -> Draft:
            draft = now_due(release, seen)
            if draft is None:
                raise NothingDueError
            return draft

        if now_due(self.release, self._router.pool.snapshot) is None:
            return
        # The log has a failed write once; the next look tries again.
        with contextlib.suppress(NothingDueError, ReleaseUnavailableError):
            await self.change(decide)

    async def _prune(self) -> None:
        """Removes versions from the disk that are too many."""
        model, loaded = self._router.model, self._loaded()

        def old(release: Release, published: frozenset[int]) -> list[int]:
            return transitions.versions_to_prune(release, published=published, loaded=loaded, keep=self._keep)

        def remove(release: Release) -> list[int]:
            # Under the lock of the release no gateway labels or removes one of them meanwhile. The gateway
            # removes whole versions only.
            published = frozenset(self._repository.versions(model)) & self.published
            return [self._repository.withdraw(model, version) for version in old(release, published)]

        if not old(self.release, self.published):
            return
        try:
            for version in await asyncio.to_thread(self._store.holding, remove):
                log(logging.INFO, "version_removed", version=version, keep=self._keep)
            await asyncio.to_thread(self._repository.sweep, model)
            self._troubles.pop("prune", None)
        except (RepositoryError, OSError) as error:
            self._note("prune", error)

    def _loaded(self) -> frozenset[int]:
        """Versions that a model server has, or is about to have."""
        return frozenset(
            view.number
            for view in self._router.pool.versions()
            if any(there.state != RETIRED and there.kind != Rejection.LOAD_FAILED for there in view.backends)
        )

    @contextlib.contextmanager
    def _refusals(self, doing: str) -> Iterator[None]:
        """What the store refuses, in the words of the contract."""
        try:
            yield
            self._troubles.pop(doing, None)
        except EtagMismatchError as error:
            raise errors.EtagMismatchError(str(error)) from error
        except RequestIdReusedError as error:
            raise errors.GatewayError(
                error_pb2.ERROR_REASON_REQUEST_ID_REUSED, str(error), field="request_id"
            ) from error
        except (RepositoryError, OSError) as error:
            self._note(doing, error)
            raise ReleaseUnavailableError(
                "the release cannot be read or written now; the gateway's log says why"
            ) from error


class CandidateJudge:
    """Has the gate judge each candidate that is READY, and in mode "gated" promotes what it accepts."""

    def __init__(
        self, controller: ReleaseController, pool: BackendPool, service: VersionPromoter, *, promote: bool
    ) -> None:
        self._controller = controller
        self._pool = pool
        self._service = service
        self._promote = promote
        self._judged: tuple[str, int | None] | None = None

    async def run(self) -> None:
        """Judges whenever a version or the release has changed, until cancelled."""
        await repeat(self._judge, self._pool.version_changed, self._controller.changed)

    async def _judge(self) -> float | None:
        """Judges the candidate, if it is due; seconds until another try, None for none."""
        labels = self._controller.release.state.labels
        candidate, stable = labels.get(CANDIDATE), labels.get(STABLE)
        version = self._pool.ready(candidate) if candidate is not None else None
        if candidate is None or version is None or self._judged == (version.digest, stable):
            return None
        if stable is not None and self._pool.ready(stable) is None:
            # No version is promoted only because there is nothing to compare it with.
            return _AGAIN_SECONDS
        try:
            # From the manifest, so that gateways without the retraining's records apply it too.
            report = await self._service.evaluate(candidate, version.manifest.lineage.gate_policy)
            if self._promote and report.accepted:
                await self._promote_it(version, stable, report)
            elif not report.accepted:
                log(logging.INFO, "candidate_refused", version=candidate, rules=broken_rules(report))
        except NothingDueError:
            return _AGAIN_SECONDS
        except EvaluationImpossibleError as error:
            log(logging.ERROR, "evaluation_impossible", version=candidate, message=error.message)
            # The version's own gate policy is part of its manifest, so it cannot be repaired.
            if not isinstance(error.__cause__, PolicyError):
                return _REPAIRED_SECONDS
        except GatewayError as error:
            log(logging.WARNING, "evaluation_interrupted", version=candidate, message=error.message)
            # A server that breaks on one image breaks again, and each attempt sends all of them.
            return _REPAIRED_SECONDS if isinstance(error, InternalError) else _AGAIN_SECONDS
        self._judged = (version.digest, stable)
        return None

    async def _promote_it(
        self, version: ServedVersion, stable: int | None, report: model_pb2.GateReport
    ) -> None:
        number = version.number

        def decide(release: Release, seen: StatusSnapshot) -> Draft:
            labels = release.state.labels
            if (labels.get(CANDIDATE), labels.get(STABLE)) != (number, stable):
                raise NothingDueError
            # Measuring takes long, and the version may be gone by now.
            served = seen.ready(number)
            if served is None or served.digest != version.digest:
                raise NothingDueError
            state = transitions.promote(release.state, number, now=time.time())
            reason = "the gate accepts it"
            return Draft(action=PROMOTE, state=state, actor=GATEWAY, reason=reason, gate=gate_json(report))

        await self._controller.change(decide)
