"""ModelService: reads the catalog."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from google.protobuf import timestamp_pb2
from neurogate.v1 import model_pb2

from neurogate_gateway.catalog import Catalog
from neurogate_gateway.errors import ModelSelectorInvalidError, ModelVersionNotFoundError, PageInvalidError
from neurogate_gateway.views import VersionView

from .release import ReleaseMethods
from .requests import Context

_DEFAULT_PAGE: Final = 50
_LARGEST_PAGE: Final = 100
_TOKEN: Final = re.compile(r"versions-below:([1-9][0-9]{0,18})")


class ModelServicer(ReleaseMethods):
    """Lists and returns model versions."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def ListModelVersions(  # noqa: N802 - the contract's name
        self,
        request: model_pb2.ListModelVersionsRequest,
        context: Context,  # noqa: ARG002 - gRPC passes it
    ) -> model_pb2.ListModelVersionsResponse:
        """A page of versions, newest first."""
        self._catalog.check_model(request.model)
        if request.page_size < 0:
            raise PageInvalidError(
                f"page_size is {request.page_size}, expected 0 to {_LARGEST_PAGE}", field="page_size"
            )
        size = min(request.page_size or _DEFAULT_PAGE, _LARGEST_PAGE)
        views = self._catalog.fleet.versions()
        if request.page_token:
            # By number and not by position: versions that come meanwhile shift no page.
            below = _read_token(request.page_token)
            views = [view for view in views if view.number < below]
        page = views[:size]
        return model_pb2.ListModelVersionsResponse(
            versions=[version_message(self._catalog, view, whole=False) for view in page],
            next_page_token=_token(page[-1].number) if len(views) > size else "",
        )

    async def GetModelVersion(  # noqa: N802 - the contract's name
        self,
        request: model_pb2.GetModelVersionRequest,
        context: Context,  # noqa: ARG002 - gRPC passes it
    ) -> model_pb2.GetModelVersionResponse:
        """One version with its whole manifest."""
        self._catalog.check_model(request.model)
        if request.version < 1:
            raise ModelSelectorInvalidError(
                f"the version is {request.version}, expected at least 1", field="version"
            )
        view = self._catalog.fleet.view(request.version)
        if view is None:
            raise ModelVersionNotFoundError(
                f"model {self._catalog.model} has no version {request.version}",
                resource=("model_version", f"{self._catalog.model}/{request.version}"),
            )
        return model_pb2.GetModelVersionResponse(version=version_message(self._catalog, view, whole=True))


def version_message(catalog: Catalog, view: VersionView, *, whole: bool) -> model_pb2.ModelVersion:
    """A version as the contract has it; its manifest without the large parts unless `whole`."""
    version = model_pb2.ModelVersion(
        model=catalog.model,
        version=view.number,
        state=view.state,
        state_reason=view.reason,
        labels=catalog.labels_of(view.number),
        state_time=_time(view.since),
        backends=[
            model_pb2.BackendVersion(
                address=there.address,
                state=there.state,
                state_reason=there.reason,
                state_time=_time(there.since),
            )
            for there in view.backends
        ],
    )
    if view.version is not None:
        version.manifest_digest = view.version.digest
        version.manifest.CopyFrom(view.version.manifest if whole else view.version.summary)
    return version


def _time(unix: float) -> timestamp_pb2.Timestamp:
    time = timestamp_pb2.Timestamp()
    time.FromMilliseconds(round(unix * 1000))
    return time


def _token(number: int) -> str:
    return base64.urlsafe_b64encode(f"versions-below:{number}".encode()).decode()


def _read_token(token: str) -> int:
    try:
        text = base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        text = ""
    match = _TOKEN.fullmatch(text)
    if match is None:
        raise PageInvalidError("page_token was not issued by this service", field="page_token")
    return int(match[1])
