"""The part of ModelService that moves callers from one version to another, and tells of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final, Protocol

from neurogate.v1 import error_pb2, model_pb2, model_pb2_grpc
from neurogate_core.release_store import Changed

from neurogate_gateway.errors import GatewayError
from neurogate_gateway.inference.admission import Admission
from neurogate_gateway.release.controller import ReleaseManager
from neurogate_gateway.release.messages import change_message
from neurogate_gateway.release.module import ReleaseModule
from neurogate_gateway.release.promotion import ChangeRequest
from neurogate_gateway.release.router import VersionRouter
from neurogate_gateway.release.service import ReleaseService

from .paging import UNFILTERED, Pages
from .requests import Context, deadline_of, take_request_id

_CHANGES: Final = Pages("changes", default=50, largest=100)
_LONGEST_REASON: Final = 512
_UNLIMITED_SECONDS: Final = 24 * 3600.0
"""An evaluation takes as long as it takes, where its caller sets no deadline."""


class _Change(Protocol):
    """What the requests of all changes have in common."""

    model: str
    etag: str
    request_id: str
    reason: str


class ReleaseMethods(model_pb2_grpc.ModelServiceServicer):
    """Release, traffic split, gate, audit record and watch."""

    def __init__(
        self,
        router: VersionRouter,
        release_module: ReleaseModule,
        admission: Admission,
        *,
        default_timeout: float,
    ) -> None:
        self._router = router
        self._release_module = release_module
        self._admission = admission
        self._default_timeout = default_timeout

    async def WatchModelVersions(  # noqa: N802 - the contract's name
        self,
        request: model_pb2.WatchModelVersionsRequest,
        context: Context,  # noqa: ARG002 - gRPC passes it
    ) -> AsyncIterator[model_pb2.WatchModelVersionsResponse]:
        """The present state, and then every change."""
        self._router.check_model(request.model)
        with self._admission.watch():
            async for event in self._release_module.hub.watch(request.resume_token):
                yield event

    async def GetRelease(  # noqa: N802 - the contract's name
        self,
        request: model_pb2.GetReleaseRequest,
        context: Context,  # noqa: ARG002 - gRPC passes it
    ) -> model_pb2.GetReleaseResponse:
        """Which version each label means, and what shadow and guards see."""
        self._router.check_model(request.model)
        return model_pb2.GetReleaseResponse(release=self._release_module.release())

    async def PromoteModelVersion(  # noqa: N802 - the contract's name
        self, request: model_pb2.PromoteModelVersionRequest, context: Context
    ) -> model_pb2.PromoteModelVersionResponse:
        """Makes a version "stable"."""
        desk, asked = self._desk(), self._asked(request, context)
        check_version(request.version)
        async with deadline_of(context, self._default_timeout).enforced():
            changed = await desk.promote(request.version, asked, force=request.force)
        return model_pb2.PromoteModelVersionResponse(
            release=self._release_module.release(changed.release), change=_change(changed)
        )

    async def RollbackModel(  # noqa: N802 - the contract's name
        self, request: model_pb2.RollbackModelRequest, context: Context
    ) -> model_pb2.RollbackModelResponse:
        """Makes "previous" the "stable" version again."""
        desk, asked = self._desk(), self._asked(request, context)
        async with deadline_of(context, self._default_timeout).enforced():
            changed = await desk.rollback(asked)
        return model_pb2.RollbackModelResponse(
            release=self._release_module.release(changed.release), change=_change(changed)
        )

    async def SetTrafficSplit(  # noqa: N802 - the contract's name
        self, request: model_pb2.SetTrafficSplitRequest, context: Context
    ) -> model_pb2.SetTrafficSplitResponse:
        """Sets canary and shadow."""
        desk, asked = self._desk(), self._asked(request, context)
        async with deadline_of(context, self._default_timeout).enforced():
            changed = await desk.split(
                asked,
                canary=request.canary_version,
                percent=request.canary_percent,
                shadow=request.shadow_version,
            )
        return model_pb2.SetTrafficSplitResponse(
            release=self._release_module.release(changed.release), change=_change(changed)
        )

    async def EvaluateModelVersion(  # noqa: N802 - the contract's name
        self, request: model_pb2.EvaluateModelVersionRequest, context: Context
    ) -> model_pb2.EvaluateModelVersionResponse:
        """What the gate makes of a version; may take long."""
        self._router.check_model(request.model)
        check_version(request.version)
        desk = self._desk()
        served = self._router.pool.ready(request.version)
        # What mode gated asks by itself.
        own = served.manifest.lineage.gate_policy if served is not None else ""
        async with deadline_of(context, _UNLIMITED_SECONDS).enforced():
            report = await desk.evaluate(request.version, own)
        return model_pb2.EvaluateModelVersionResponse(report=report)

    async def ListReleaseChanges(  # noqa: N802 - the contract's name
        self,
        request: model_pb2.ListReleaseChangesRequest,
        context: Context,  # noqa: ARG002 - gRPC passes it
    ) -> model_pb2.ListReleaseChangesResponse:
        """The audit record, newest first."""
        self._router.check_model(request.model)
        manager, size = self._manager(), _CHANGES.size(request.page_size)
        found = await manager.changes(below=_CHANGES.below(UNFILTERED, request.page_token), size=size + 1)
        page = found[:size]
        return model_pb2.ListReleaseChangesResponse(
            changes=[change_message(change) for change in page],
            next_page_token=_CHANGES.token(UNFILTERED, page[-1].sequence) if len(found) > size else "",
        )

    def _asked(self, request: _Change, context: Context) -> ChangeRequest:
        self._router.check_model(request.model)
        reason = request.reason
        if len(reason) > _LONGEST_REASON:
            raise GatewayError(
                error_pb2.ERROR_REASON_CHANGE_REASON_INVALID,
                f"the reason has {len(reason)} characters, the limit is {_LONGEST_REASON}",
                field="reason",
            )
        if reason and not reason.isprintable():
            raise GatewayError(
                error_pb2.ERROR_REASON_CHANGE_REASON_INVALID,
                "the reason has characters that are not printable",
                field="reason",
            )
        return ChangeRequest(
            actor=peer_identity(context),
            etag=request.etag,
            request_id=take_request_id(request.request_id),
            reason=reason,
        )

    def _desk(self) -> ReleaseService:
        if self._release_module.desk is None:
            raise _not_managed()
        return self._release_module.desk

    def _manager(self) -> ReleaseManager:
        if self._release_module.manager is None:
            raise _not_managed()
        return self._release_module.manager


def _change(changed: Changed) -> model_pb2.ReleaseChange | None:
    return None if changed.change is None else change_message(changed.change)


def check_version(version: int) -> None:
    """Refuses a number that no version can have.

    Raises:
        GatewayError (MODEL_SELECTOR_INVALID): It is below 1.
    """
    if version < 1:
        raise GatewayError(
            error_pb2.ERROR_REASON_MODEL_SELECTOR_INVALID,
            f"the version is {version}, expected at least 1",
            field="version",
        )


def peer_identity(context: Context) -> str:
    """Who calls: the name in the client's certificate where there is one, else the address."""
    names = context.auth_context()
    for key in ("x509_subject_alternative_name", "x509_common_name"):
        if names.get(key):
            return b",".join(names[key]).decode(errors="replace")
    return context.peer()


def _not_managed() -> GatewayError:
    return GatewayError(
        error_pb2.ERROR_REASON_RELEASE_NOT_MANAGED,
        "this gateway does not manage the release: it needs a repository, and mode manual or gated",
    )
