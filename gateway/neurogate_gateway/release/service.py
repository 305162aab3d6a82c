"""Makes the changes of the release that callers and retrainings ask for."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable

from neurogate.v1 import error_pb2, model_pb2
from neurogate_core.release_store import PROMOTE, ROLLBACK, SET_TRAFFIC, Changed, Draft, Release

from neurogate_gateway.backends.status import StatusSnapshot
from neurogate_gateway.backends.verification import ServedVersion
from neurogate_gateway.backends.versions import READY, REJECTED, State
from neurogate_gateway.deadline import Deadline
from neurogate_gateway.errors import (
    DeadlineTooShortError,
    EtagMismatchError,
    EvaluationImpossibleError,
    GateRefusedError,
    GatewayError,
)

from . import transitions
from .controller import ReleaseController
from .gate import Evaluator, broken_rules, merge_reports
from .messages import gate_json
from .policy import Policy, PolicyError, check_extra_policy, parse_extra_policy
from .promotion import ChangeRequest
from .router import STABLE, VersionRouter, check_number


class ReleaseService:
    """Checks what is asked for, consults the gate, and has the release changed."""

    def __init__(
        self,
        controller: ReleaseController,
        router: VersionRouter,
        evaluator: Evaluator | None,
        policy: Policy,
    ) -> None:
        self._controller = controller
        self._policy = policy
        self._router = router
        self._evaluator = evaluator

    def check_policy(self, text: str, version: ServedVersion, *, field: str) -> None:
        """As `VersionPromoter`."""
        try:
            check_extra_policy(text, self._policy, version.class_ids)
        except PolicyError as error:
            raise GatewayError(
                error_pb2.ERROR_REASON_GATE_POLICY_INVALID,
                f"the gate policy cannot be used: {error}",
                field=field,
            ) from None

    async def until_ready(self, version: int, *, seconds: float) -> None:
        """As `VersionPromoter`."""
        give_up = Deadline.after(seconds)
        while True:
            view = self._router.pool.view(version)
            if view is not None and view.state == READY:
                return
            if view is not None and view.state == REJECTED:
                raise self._not_ready(version, self._router.pool.snapshot)
            if not await self._router.pool.changes(give_up):
                raise DeadlineTooShortError(f"version {version} was not READY within {seconds:g} s")

    async def evaluate(self, version: int, extra_policy: str = "") -> model_pb2.GateReport:
        """As `VersionPromoter`."""
        self._check_ready(version, self._router.pool.snapshot)
        if self._evaluator is None:
            raise EvaluationImpossibleError("this gateway has no evaluation images")
        try:
            extra = parse_extra_policy(extra_policy, self._policy) if extra_policy else None
        except PolicyError as error:
            # A newer gateway may have started the retraining, or a person the trainer.
            raise EvaluationImpossibleError(
                f"version {version} has a gate policy of its own that cannot be used: {error}"
            ) from error
        stable = self._controller.release.state.labels.get(STABLE)
        # A "stable" that is not READY cannot be measured, which must not keep its successor out.
        comparable = stable if stable is not None and self._router.pool.ready(stable) else None
        report = await self._evaluator.evaluate(version, comparable)
        if extra is None:
            return report
        # This gateway limits the work of a verdict, even if another one has accepted the retraining.
        most = self._policy.gate.resamples
        extra = Policy(gate=dataclasses.replace(extra.gate, resamples=min(extra.gate.resamples, most)))
        return merge_reports(report, await self._evaluator.evaluate(version, comparable, extra))

    async def promote(
        self, version: int, request: ChangeRequest, *, force: bool = False, extra_policy: str = ""
    ) -> Changed:
        """As `VersionPromoter`."""
        content = {"action": PROMOTE, "version": version, "force": force, **_content(request)}
        if repeated := await self._controller.repeated(request.request_id, content):
            return repeated
        self._check_ready(version, self._router.pool.snapshot)
        stable = self._controller.release.state.labels.get(STABLE)
        # The version that is "stable" already is not judged.
        report = (
            None
            if version == stable
            else await self._verdict(version, force=force, extra_policy=extra_policy)
        )
        # A promotion that does not wait for a verdict overrules the gate too.
        overruled = force and self._evaluator is not None and (report is None or not report.accepted)
        if report is not None and not report.accepted and not force:
            rules = broken_rules(report)
            messages = "; ".join(each.message for each in report.findings if not each.passed)
            raise GateRefusedError(
                f"the gate refuses version {version}: {messages}",
                resource=("model_version", f"{self._router.model}/{version}"),
                metadata={"rules": ",".join(rules), "version": str(version)},
            )

        def decide(release: Release, seen: StatusSnapshot) -> Draft:
            self._check_ready(version, seen)
            self._check_loaded(version, release)
            # In mode "gated" it may be this very version, which then stays what it is.
            unforeseen = release.state.labels.get(STABLE) not in (stable, version)
            if self._evaluator is not None and not force and unforeseen:
                raise EtagMismatchError('another version became "stable" meanwhile')
            state = transitions.promote(release.state, version, now=time.time())
            return Draft(
                action=PROMOTE,
                state=state,
                actor=request.actor,
                reason=request.reason,
                forced=overruled,
                gate=gate_json(report),
            )

        return await self._change(decide, request, content)

    async def rollback(self, request: ChangeRequest) -> Changed:
        """Makes "previous" the "stable" version again; the two change places.

        Raises:
            NothingToRollBackError: There is no "previous".
            GatewayError (MODEL_VERSION_NOT_READY): It is not READY.
            EtagMismatchError: Another version is "stable" by now: to change places again would undo it.
            GatewayError: The release was changed, or cannot be.
        """
        content = {"action": ROLLBACK, **_content(request)}
        stable = self._controller.release.state.labels.get(STABLE)

        def decide(release: Release, seen: StatusSnapshot) -> Draft:
            # An etag says already what the caller has seen, which may be more than this gateway has.
            if not request.etag and release.state.labels.get(STABLE) != stable:
                raise EtagMismatchError('another version became "stable" meanwhile')
            state = transitions.rollback(release.state, now=time.time())
            self._check_ready(state.labels[STABLE], seen)
            return Draft(action=ROLLBACK, state=state, actor=request.actor, reason=request.reason)

        return await self._change(decide, request, content)

    async def split(self, request: ChangeRequest, *, canary: int, percent: float, shadow: int) -> Changed:
        """Sets canary and shadow as a whole; 0 means none.

        A canary has to be READY. A shadow only has to be published: it is loaded when it is not, which is
        also the way back for a version that was retired.

        Raises:
            TrafficSplitInvalidError: The share is out of its range, or does not fit the versions named.
            GatewayError: A version is not fit, or the release was changed, or cannot be.
        """
        content = {
            "action": SET_TRAFFIC,
            "canary": canary,
            "percent": str(percent),
            "shadow": shadow,
            **_content(request),
        }

        def decide(release: Release, seen: StatusSnapshot) -> Draft:
            state = transitions.split(
                release.state, canary=canary, percent=percent, shadow=shadow, now=time.time()
            )
            if canary:
                self._check_ready(canary, seen)
                self._check_loaded(canary, release)
            if shadow and not self._controller.is_published(shadow):
                self._check_ready(shadow, seen)
            elif shadow:
                self._check_not_rejected(shadow, seen)
            return Draft(action=SET_TRAFFIC, state=state, actor=request.actor, reason=request.reason)

        return await self._change(decide, request, content)

    async def _verdict(self, version: int, *, force: bool, extra_policy: str) -> model_pb2.GateReport | None:
        if self._evaluator is None and not extra_policy:
            return None
        if not force:
            return await self.evaluate(version, extra_policy)
        # A forced promotion does not wait for the gate, but records its last verdict.
        return self._evaluator.last_report(version) if self._evaluator is not None else None

    async def _change(
        self,
        decide: Callable[[Release, StatusSnapshot], Draft],
        request: ChangeRequest,
        content: dict[str, object],
    ) -> Changed:
        change = self._controller.change(
            decide, etag=request.etag, request_id=request.request_id, content=content
        )
        # The change goes on when its caller is cancelled, so that this gateway applies what it has written.
        task = asyncio.ensure_future(change)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)

    def _check_ready(self, version: int, seen: StatusSnapshot) -> None:
        check_number(version, field="version")
        if seen.ready(version) is None:
            raise self._not_ready(version, seen)

    def _check_not_rejected(self, version: int, seen: StatusSnapshot) -> None:
        view = seen.view(version)
        if view is not None and view.state == REJECTED:
            raise self._not_ready(version, seen)

    def _check_loaded(self, version: int, release: Release) -> None:
        """Refuses a version that is about to be unloaded."""
        state = release.state
        if version <= state.highest and version not in {*state.labels.values(), *state.draining}:
            raise GatewayError(
                error_pb2.ERROR_REASON_MODEL_VERSION_NOT_READY,
                f"version {version} was retired and is being unloaded; a shadow is loaded again",
                resource=("model_version", f"{self._router.model}/{version}"),
            )

    def _not_ready(self, version: int, seen: StatusSnapshot) -> GatewayError:
        resource = ("model_version", f"{self._router.model}/{version}")
        view = seen.view(version)
        if view is None and version not in self._controller.published:
            return GatewayError(
                error_pb2.ERROR_REASON_MODEL_VERSION_NOT_FOUND,
                f"model {self._router.model} has no version {version}",
                resource=resource,
            )
        if view is not None and view.state == REJECTED:
            return GatewayError(
                error_pb2.ERROR_REASON_MODEL_VERSION_REJECTED,
                f"version {version} was rejected: {view.reason}",
                resource=resource,
                metadata={"state_reason": view.reason},
            )
        state = "not loaded" if view is None else State.Name(view.state).removeprefix("MODEL_VERSION_STATE_")
        return GatewayError(
            error_pb2.ERROR_REASON_MODEL_VERSION_NOT_READY,
            f"version {version} is {state}, not READY",
            resource=resource,
        )


def _content(request: ChangeRequest) -> dict[str, object]:
    return {"etag": request.etag, "reason": request.reason}
