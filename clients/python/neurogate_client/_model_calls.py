"""ModelService's calls, described for both clients."""

# Timeouts become deadlines of calls, which the gateway has to see.

from __future__ import annotations

import uuid

from neurogate.v1 import model_pb2 as pb

from . import _channel
from . import _wire_models as _wire
from ._steps import Ask, Connection, Emit, Next, Open, Pause, Reconnecting, Steps, Watch, unary, watching
from .errors import InvalidOptionError, UnavailableError
from .results_models import (
    ChangedRelease,
    GateReport,
    ModelServer,
    ModelVersion,
    Release,
    ReleaseChange,
    VersionsEvent,
)

_PAGE = 100


class ModelCalls(Connection):
    """Reads the catalog of versions, and moves callers from one version to another."""

    @unary
    def list_model_versions(
        self, *, model: str = "", timeout: float | None = None
    ) -> Steps[list[ModelVersion]]:
        """All versions that the gateway knows, newest first. `timeout` is per page of 50."""
        request = pb.ListModelVersionsRequest(model=model)
        versions: list[ModelVersion] = []
        while True:
            response: pb.ListModelVersionsResponse = yield Ask(
                lambda on: on.models.ListModelVersions, request, timeout
            )
            versions.extend(_wire.model_version(each) for each in response.versions)
            if not response.next_page_token:
                return versions
            request.page_token = response.next_page_token

    @unary
    def list_model_servers(
        self, *, model: str = "", timeout: float | None = None
    ) -> Steps[list[ModelServer]]:
        """All model servers that the gateway knows, and which of them are somebody else's."""
        request = pb.ListModelVersionsRequest(model=model, page_size=1)
        response: pb.ListModelVersionsResponse = yield Ask(
            lambda on: on.models.ListModelVersions, request, timeout
        )
        return [
            ModelServer(each.address, each.connected, each.foreign_reason) for each in response.model_servers
        ]

    @unary
    def get_model_version(
        self, version: int, *, model: str = "", timeout: float | None = None
    ) -> Steps[ModelVersion]:
        """One version with its whole manifest."""
        request = pb.GetModelVersionRequest(model=model, version=version)
        response: pb.GetModelVersionResponse = yield Ask(
            lambda on: on.models.GetModelVersion, request, timeout
        )
        return _wire.model_version(response.version)

    @unary
    def get_release(self, *, model: str = "", timeout: float | None = None) -> Steps[Release]:
        """Which version each label means, how traffic is split, and what shadow and guards have seen."""
        request = pb.GetReleaseRequest(model=model)
        response: pb.GetReleaseResponse = yield Ask(lambda on: on.models.GetRelease, request, timeout)
        return _wire.release(response.release)

    @unary
    def promote(
        self,
        version: int,
        *,
        model: str = "",
        etag: str = "",
        request_id: str = "",
        reason: str = "",
        force: bool = False,
        timeout: float | None = None,
    ) -> Steps[ChangedRelease]:
        """Makes a READY version "stable"; the one before becomes "previous" and stays loaded.

        Args:
            version: number of the version.
            model: model name, where a gateway has another than its own.
            etag: `Release.etag` as last seen. When the release has changed since, nothing is done and
                `ReleaseChangedError` is raised. Empty: whatever is there.
            request_id: identifier of this change, up to 128 printable ASCII characters; a repeat gets the
                first answer. Empty: the client makes one, so that its own retries change nothing twice.
            reason: why, for the audit record; up to 512 characters.
            force: promote although the gate refuses; is recorded.
            timeout: seconds for this call, in place of the client's.

        Raises:
            GateRefusedError: the gate refuses the version, and nobody said `force`.
        """
        request = pb.PromoteModelVersionRequest(
            model=model,
            version=version,
            etag=etag,
            request_id=request_id or new_request_id(),
            reason=reason,
            force=force,
        )
        return _wire.changed((yield Ask(lambda on: on.models.PromoteModelVersion, request, timeout)))

    @unary
    def rollback(
        self,
        *,
        model: str = "",
        etag: str = "",
        request_id: str = "",
        reason: str = "",
        timeout: float | None = None,
    ) -> Steps[ChangedRelease]:
        """Makes "previous" the "stable" version again; the two change places. Arguments as in `promote`."""
        request = pb.RollbackModelRequest(
            model=model, etag=etag, request_id=request_id or new_request_id(), reason=reason
        )
        return _wire.changed((yield Ask(lambda on: on.models.RollbackModel, request, timeout)))

    @unary
    def set_traffic_split(
        self,
        *,
        canary_version: int = 0,
        canary_percent: float = 0.0,
        shadow_version: int = 0,
        model: str = "",
        etag: str = "",
        request_id: str = "",
        reason: str = "",
        timeout: float | None = None,
    ) -> Steps[ChangedRelease]:
        """Sets the whole split as it shall be: without arguments, no canary and no shadow.

        Args:
            canary_version: version that gets a share of the callers of "stable"; 0 for none.
            canary_percent: its share in percent, above 0 to 100; 0 without a canary.
            shadow_version: version that gets copies of the traffic; 0 for none.
            model: model name, where a gateway has another than its own.
            etag: as in `promote`.
            request_id: as in `promote`.
            reason: as in `promote`.
            timeout: seconds for this call, in place of the client's.
        """
        request = pb.SetTrafficSplitRequest(
            model=model,
            etag=etag,
            request_id=request_id or new_request_id(),
            reason=reason,
            canary_version=canary_version,
            canary_percent=canary_percent,
            shadow_version=shadow_version,
        )
        return _wire.changed((yield Ask(lambda on: on.models.SetTrafficSplit, request, timeout)))

    @unary
    def evaluate_model_version(
        self, version: int, *, model: str = "", timeout: float = _channel.DEFAULT_EVALUATION_TIMEOUT
    ) -> Steps[GateReport]:
        """Measures a version and "stable" on the sealed images, and says what the gate makes of it.

        It goes through the gateway's own transform and the served versions, takes as long as that many
        images take, and changes nothing.
        """
        request = pb.EvaluateModelVersionRequest(model=model, version=version)
        response: pb.EvaluateModelVersionResponse = yield Ask(
            lambda on: on.models.EvaluateModelVersion, request, timeout
        )
        return _wire.gate_report(response.report)

    @unary
    def list_release_changes(
        self, *, limit: int = 50, model: str = "", timeout: float | None = None
    ) -> Steps[list[ReleaseChange]]:
        """The last changes of the release, newest first, at most `limit`: who, what, when and why."""
        request = pb.ListReleaseChangesRequest(model=model)
        changes: list[ReleaseChange] = []
        while len(changes) < limit:
            request.page_size = min(limit - len(changes), _PAGE)
            response: pb.ListReleaseChangesResponse = yield Ask(
                lambda on: on.models.ListReleaseChanges, request, timeout
            )
            changes.extend(_wire.release_change(each) for each in response.changes)
            request.page_token = response.next_page_token
            if not response.next_page_token:
                break
        return changes[:limit]

    @watching
    def watch_model_versions(
        self,
        *,
        model: str = "",
        patience: float = _channel.DEFAULT_IDLE_TIMEOUT,
        timeout: float = float("inf"),
    ) -> Watch[VersionsEvent]:
        """The present state (every version, then the release), and then every change as it happens.

        A gateway that goes away is waited for, and the watch goes on behind what was seen. Where the gateway
        does not remember that, the present state comes again (`VersionsEvent.snapshot`).

        Args:
            model: model name, where a gateway has another than its own.
            patience: seconds that the gateway may be away before its `UnavailableError` is raised.
            timeout: seconds for the whole watch, after which it ends with `DeadlineExceededError`.
        """
        until = _channel.Until(timeout)
        retry = Reconnecting(patience)
        token = ""
        while True:
            try:
                request = pb.WatchModelVersionsRequest(model=model, resume_token=token)
                yield Open(lambda on: on.models.WatchModelVersions, request, until.left())
                while True:
                    response: pb.WatchModelVersionsResponse | None = yield Next()
                    if response is None:
                        return
                    retry.worked()
                    token = response.resume_token
                    if (event := _wire.versions_event(response)) is not None:
                        yield Emit(event)
            except UnavailableError as error:
                yield Pause(retry.delay(error))
            except InvalidOptionError as error:
                # Another gateway behind the same name, or this one begun anew, did not issue it.
                if not token or error.reason != "RESUME_TOKEN_INVALID":
                    raise
                token = ""


def new_request_id() -> str:
    """An identifier that no other call has."""
    return uuid.uuid4().hex
