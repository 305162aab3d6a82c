# ruff: noqa: ARG002 - gRPC passes the arguments by position
"""The part of ModelService that moves callers from one version to another."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NoReturn

from neurogate.v1 import model_pb2, model_pb2_grpc

from neurogate_gateway.release_errors import ReleaseNotManagedError

from .requests import Context


class ReleaseMethods(model_pb2_grpc.ModelServiceServicer):
    """Release, traffic split, gate and audit record."""

    def WatchModelVersions(  # noqa: N802 - the contract's name
        self, request: model_pb2.WatchModelVersionsRequest, context: Context
    ) -> AsyncIterator[model_pb2.WatchModelVersionsResponse]:
        """The present state, and then every change."""
        _refuse()

    async def GetRelease(  # noqa: N802 - the contract's name
        self, request: model_pb2.GetReleaseRequest, context: Context
    ) -> model_pb2.GetReleaseResponse:
        """Which version each label means."""
        _refuse()

    async def PromoteModelVersion(  # noqa: N802 - the contract's name
        self, request: model_pb2.PromoteModelVersionRequest, context: Context
    ) -> model_pb2.PromoteModelVersionResponse:
        """Makes a version "stable"."""
        _refuse()

    async def RollbackModel(  # noqa: N802 - the contract's name
        self, request: model_pb2.RollbackModelRequest, context: Context
    ) -> model_pb2.RollbackModelResponse:
        """Makes "previous" the "stable" version again."""
        _refuse()

    async def SetTrafficSplit(  # noqa: N802 - the contract's name
        self, request: model_pb2.SetTrafficSplitRequest, context: Context
    ) -> model_pb2.SetTrafficSplitResponse:
        """Sets canary and shadow."""
        _refuse()

    async def EvaluateModelVersion(  # noqa: N802 - the contract's name
        self, request: model_pb2.EvaluateModelVersionRequest, context: Context
    ) -> model_pb2.EvaluateModelVersionResponse:
        """What the gate makes of a version."""
        _refuse()

    async def ListReleaseChanges(  # noqa: N802 - the contract's name
        self, request: model_pb2.ListReleaseChangesRequest, context: Context
    ) -> model_pb2.ListReleaseChangesResponse:
        """The audit record, newest first."""
        _refuse()


def _refuse() -> NoReturn:
    raise ReleaseNotManagedError("this gateway does not manage the release")
