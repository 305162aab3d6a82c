"""What the release offers to retrainings: the version that is "stable", and the way to become it."""

from __future__ import annotations

import dataclasses
from typing import Protocol

from neurogate.v1 import model_pb2
from neurogate_core.release_store import Changed

from neurogate_gateway.backends.verification import ServedVersion
from neurogate_gateway.deadline import Deadline


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ChangeRequest:
    """Who asks for a change of the release, and how.

    Attributes:
        actor: For the audit record.
        etag: Of the release that was seen; empty for whatever is there.
        request_id: A repeat gets the first answer; empty for none.
        reason: For the audit record.
    """

    actor: str
    etag: str = ""
    request_id: str = ""
    reason: str = ""


class StableResolver(Protocol):
    """Knows the version that training is measured by."""

    async def resolve_stable(self, deadline: Deadline) -> ServedVersion:
        """The version that "stable" means now, never a canary.

        Raises:
            GatewayError: There is none, or it may not answer now.
        """


class VersionPromoter(Protocol):
    """Judges the version that a retraining has published, and makes it "stable"."""

    def check_policy(self, text: str, version: ServedVersion, *, field: str) -> None:
        """Refuses a retraining's own gate policy that cannot be used.

        Args:
            text: TOML; see `policy.parse_extra_policy`.
            version: One whose classes the retraining keeps.
            field: Where the request has it, for the error.

        Raises:
            GatewayError (GATE_POLICY_INVALID): The message says why.
        """

    async def until_ready(self, version: int, *, seconds: float) -> None:
        """Waits until a published version is READY.

        Raises:
            GatewayError (MODEL_VERSION_REJECTED): It was rejected; the message says why.
            DeadlineTooShortError: It takes longer than that.
        """

    async def evaluate(self, version: int, extra_policy: str = "") -> model_pb2.GateReport:
        """What the gate makes of a READY version.

        Args:
            version: Which.
            extra_policy: A retraining's own policy, asked beside the gateway's; empty for none.

        Raises:
            EvaluationImpossibleError: There are no evaluation images, or none that fit; or the extra policy
                cannot be used.
            GatewayError: It is not READY, or the model servers cannot answer.
        """

    async def promote(
        self, version: int, request: ChangeRequest, *, force: bool = False, extra_policy: str = ""
    ) -> Changed:
        """Makes a READY version "stable".

        Args:
            version: Which.
            request: Who asks.
            force: Whether the gate is overruled.
            extra_policy: As for `evaluate`.

        Raises:
            GateRefusedError: The gate refuses it.
            EtagMismatchError: The release is another one by now.
            GatewayError: It is not READY, or the release cannot be changed.
        """
