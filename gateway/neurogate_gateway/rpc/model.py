"""ModelService: reads the router, and has the release changed."""

from __future__ import annotations

from typing import Final

from neurogate.v1 import error_pb2, model_pb2

from neurogate_gateway.errors import GatewayError
from neurogate_gateway.release.messages import version_message

from .paging import UNFILTERED, Pages
from .release import ReleaseMethods, check_version
from .requests import Context

_VERSIONS: Final = Pages("versions", default=50, largest=100)


class ModelServicer(ReleaseMethods):
    """Lists and returns model versions; what concerns the release is inherited."""

    async def ListModelVersions(  # noqa: N802 - the contract's name
        self,
        request: model_pb2.ListModelVersionsRequest,
        context: Context,  # noqa: ARG002 - gRPC passes it
    ) -> model_pb2.ListModelVersionsResponse:
        """A page of versions, newest first."""
        self._router.check_model(request.model)
        size = _VERSIONS.size(request.page_size)
        below = _VERSIONS.below(UNFILTERED, request.page_token)
        views = [view for view in self._router.pool.versions() if below is None or view.number < below]
        page = views[:size]
        return model_pb2.ListModelVersionsResponse(
            versions=[
                version_message(self._router, view, self._release_module.report(view.number)) for view in page
            ],
            next_page_token=_VERSIONS.token(UNFILTERED, page[-1].number) if len(views) > size else "",
            model_servers=[
                model_pb2.ModelServer(
                    address=address, connected=up, foreign_reason=self._router.pool.foreign.get(address, "")
                )
                for address, up in sorted(self._router.pool.backends.items())
            ],
        )

    async def GetModelVersion(  # noqa: N802 - the contract's name
        self,
        request: model_pb2.GetModelVersionRequest,
        context: Context,  # noqa: ARG002 - gRPC passes it
    ) -> model_pb2.GetModelVersionResponse:
        """One version with its whole manifest."""
        self._router.check_model(request.model)
        check_version(request.version)
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
