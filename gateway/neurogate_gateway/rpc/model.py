"""ModelService: lists versions, and has the release changed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final, Protocol, TypeVar

from neurogate.v1 import error_pb2, model_pb2, model_pb2_grpc
from neurogate_core.release_store import Changed

from neurogate_gateway.deadline import Deadline
from neurogate_gateway.errors import GatewayError
from neurogate_gateway.inference.admission import Admission
from neurogate_gateway.release.messages import change_message, version_message
from neurogate_gateway.release.module import ReleaseModule
from neurogate_gateway.release.promotion import ChangeRequest
from neurogate_gateway.release.router import VersionRouter, check_number

from .interceptor import Context
from .paging import UNFILTERED, Pages

_VERSIONS: Final = Pages("versions", default=50, max_size=100)
_CHANGES: Final = Pages("changes", default=50, max_size=100)
_MAX_REASON: Final = 512
_UNLIMITED_SECONDS: Final = 24 * 3600.0
"""An evaluation takes as long as it takes, where its caller sets no deadline."""

_T = TypeVar("_T")


class _Change(Protocol):
    """What the requests of all changes have in common."""

    model: str
    etag: str
    request_id: str
    reason: str


class ModelServicer(model_pb2_grpc.ModelServiceServicer):
    """Versions, release, traffic split, gate, audit record and watch."""

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

    async def ListModelVersions(  # noqa: N802 - the contract's name
        self,
        request: model_pb2.ListModelVersionsRequest,
        context: Context,  # noqa: ARG002 - gRPC passes it
    ) -> model_pb2.ListModelVersionsResponse:
        """A page of versions, newest first."""
        self._router.check_model(request.model)
        pool, report = self._router.pool, self._release_module.report
        size = _VERSIONS.size(request.page_size)
        below = _VERSIONS.below(UNFILTERED, request.page_token)
        views = [view for view in pool.versions() if below is None or view.number < below]
        page = views[:size]
        return model_pb2.ListModelVersionsResponse(
            versions=[version_message(self._router, view, report(view.number)) for view in page],
            next_page_token=_VERSIONS.token(UNFILTERED, page[-1].number) if len(views) > size else "",
            model_servers=[
                model_pb2.ModelServer(
                    address=address, connected=up, foreign_reason=pool.foreign.get(address, "")
                )
                for address, up in sorted(pool.backends.items())
            ],
        )

    async def GetModelVersion(  # noqa: N802 - the contract's name
        self,
        request: model_pb2.GetModelVersionRequest,
        context: Context,  # noqa: ARG002 - gRPC passes it
    ) -> model_pb2.GetModelVersionResponse:
        """One version with its whole manifest."""
        self._router.check_model(request.model)
        check_number(request.version, field="version")
        view = self._router.pool.view(request.version)
        if view is None:
            raise GatewayError(
                error_pb2.ERROR_REASON_MODEL_VERSION_NOT_FOUND,
                f"model {self._router.model} has no version {request.version}",
                resource=("model_version", f"{self._router.model}/{request.version}"),
            )
        report = self._release_module.report(view.number)
        return model_pb2.GetModelVersionResponse(
            version=version_message(self._router, view, report, whole=True)
        )

    async def WatchModelVersions(  # noqa: N802 - the contract's name
        self,
        request: model_pb2.WatchModelVersionsRequest,
        context: Context,  # noqa: ARG002 - gRPC passes it
    ) -> AsyncIterator[model_pb2.WatchModelVersionsResponse]:
        """The present state, and then every change."""
        self._router.check_model(request.model)
        with self._admission.watches.held():
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
        service, change = _managed(self._release_module.service), self._change_request(request, context)
        check_number(request.version, field="version")
        async with Deadline.of_call(context.time_remaining(), self._default_timeout).enforced():
            changed = await service.promote(request.version, change, force=request.force)
        return model_pb2.PromoteModelVersionResponse(**self._changed(changed))

    async def RollbackModel(  # noqa: N802 - the contract's name
        self, request: model_pb2.RollbackModelRequest, context: Context
    ) -> model_pb2.RollbackModelResponse:
        """Makes "previous" the "stable" version again."""
        service, change = _managed(self._release_module.service), self._change_request(request, context)
        async with Deadline.of_call(context.time_remaining(), self._default_timeout).enforced():
            changed = await service.rollback(change)
        return model_pb2.RollbackModelResponse(**self._changed(changed))

    async def SetTrafficSplit(  # noqa: N802 - the contract's name
        self, request: model_pb2.SetTrafficSplitRequest, context: Context
    ) -> model_pb2.SetTrafficSplitResponse:
        """Sets canary and shadow."""
        service, change = _managed(self._release_module.service), self._change_request(request, context)
        async with Deadline.of_call(context.time_remaining(), self._default_timeout).enforced():
            changed = await service.split(
                change,
                canary=request.canary_version,
                percent=request.canary_percent,
                shadow=request.shadow_version,
            )
        return model_pb2.SetTrafficSplitResponse(**self._changed(changed))

    async def EvaluateModelVersion(  # noqa: N802 - the contract's name
        self, request: model_pb2.EvaluateModelVersionRequest, context: Context
    ) -> model_pb2.EvaluateModelVersionResponse:
        """What the gate makes of a version; may take long."""
        self._router.check_model(request.model)
        check_number(request.version, field="version")
        service = _managed(self._release_module.service)
        served = self._router.pool.ready(request.version)
        # What mode gated asks by itself.
        extra_policy = served.manifest.lineage.gate_policy if served is not None else ""
        async with Deadline.of_call(context.time_remaining(), _UNLIMITED_SECONDS).enforced():
            report = await service.evaluate(request.version, extra_policy)
        return model_pb2.EvaluateModelVersionResponse(report=report)

    async def ListReleaseChanges(  # noqa: N802 - the contract's name
        self,
        request: model_pb2.ListReleaseChangesRequest,
        context: Context,  # noqa: ARG002 - gRPC passes it
    ) -> model_pb2.ListReleaseChangesResponse:
        """The audit record, newest first."""
        self._router.check_model(request.model)
        controller = _managed(self._release_module.controller)
        size = _CHANGES.size(request.page_size)
        below = _CHANGES.below(UNFILTERED, request.page_token)
        found = await controller.changes(below=below, size=size + 1)
        page = found[:size]
        return model_pb2.ListReleaseChangesResponse(
            changes=[change_message(change) for change in page],
            next_page_token=_CHANGES.token(UNFILTERED, page[-1].sequence) if len(found) > size else "",
        )

    def _change_request(self, request: _Change, context: Context) -> ChangeRequest:
        self._router.check_model(request.model)
        reason = request.reason
        complaint = ""
        if len(reason) > _MAX_REASON:
            complaint = f"the reason has {len(reason)} characters, the limit is {_MAX_REASON}"
        elif reason and not reason.isprintable():
            complaint = "the reason has characters that are not printable"
        if complaint:
            raise GatewayError(error_pb2.ERROR_REASON_CHANGE_REASON_INVALID, complaint, field="reason")
        return ChangeRequest(
            actor=peer_identity(context),
            etag=request.etag,
            request_id=request.request_id,
            reason=reason,
        )

    def _changed(self, changed: Changed) -> dict[str, Any]:
        """The fields that the responses of all changes have."""
        change = None if changed.change is None else change_message(changed.change)
        return {"release": self._release_module.release(changed.release), "change": change}


def peer_identity(context: Context) -> str:
    """Who calls: the name in the client's certificate where there is one, else the address."""
    names = context.auth_context()
    for key in ("x509_subject_alternative_name", "x509_common_name"):
        if names.get(key):
            return b",".join(names[key]).decode(errors="replace")
    return context.peer()


def _managed(part: _T | None) -> _T:
    """A part of the release that there is only where this gateway manages it.

    Raises:
        GatewayError (RELEASE_NOT_MANAGED): There is none.
    """
    if part is None:
        raise GatewayError(
            error_pb2.ERROR_REASON_RELEASE_NOT_MANAGED,
            "this gateway does not manage the release: it needs a repository, and mode manual or gated",
        )
    return part
