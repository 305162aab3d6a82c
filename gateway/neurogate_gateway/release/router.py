"""Resolves a caller's selector to a version, and waits for one while versions change.

Without a routing the labels "latest" and "stable" both mean the highest READY version. With one, labels are
what it says, but for "latest"; a share of the callers of "stable" gets "canary", while that is READY.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import random
import time
from collections.abc import Callable, Mapping
from typing import Final

from neurogate.v1 import error_pb2, model_pb2

from neurogate_gateway.backends.pool import BackendPool
from neurogate_gateway.backends.tfserving import VersionUnloadedError
from neurogate_gateway.backends.verification import ServedVersion
from neurogate_gateway.backends.versions import LOADING, PROVING, REJECTED, State, VersionView
from neurogate_gateway.deadline import Deadline
from neurogate_gateway.errors import BackendUnavailableError, GatewayError, VersionLostError

STABLE: Final = "stable"
PREVIOUS: Final = "previous"
CANARY: Final = "canary"
CANDIDATE: Final = "candidate"
SHADOW: Final = "shadow"
LATEST: Final = "latest"
"""Never stored: always the highest READY version."""


@dataclasses.dataclass(frozen=True, slots=True)
class Routing:
    """The labels as they are now.

    Attributes:
        labels: Version by label, without "latest".
        canary_percent: Share of the callers of "stable" that get "canary" instead, 0 to 100.
    """

    labels: Mapping[str, int]
    canary_percent: float = 0.0

    def chosen_label(self, key: str) -> str:
        """The label that a caller of "stable" gets: "canary" for the split's share of keys.

        The same key gets the same side for as long as the share stays, and a growing share only ever moves
        keys towards the canary.
        """
        if CANARY not in self.labels or self.canary_percent <= 0:
            return STABLE
        place = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()) / 2**64
        return CANARY if place * 100 < self.canary_percent else STABLE


class VersionRouter:
    """The versions of one model as callers may choose them."""

    def __init__(
        self,
        pool: BackendPool,
        *,
        model: str,
        swap_wait: float,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.model = model
        self.pool = pool
        self.serving = False
        """Whether calls by default are answered."""
        self.routing: Routing | None = None
        self.on_change = on_change
        self._swap_wait = swap_wait
        self._moved_at = -math.inf
        """`time.monotonic` of the moment when "stable" last became a version that is not READY here yet."""
        pool.looked.add(self._tell_health)

    def set_routing(self, routing: Routing | None) -> None:
        """Sets what labels mean from now on; None makes all of them the highest READY version."""
        self.routing = routing
        number = self._number(STABLE)
        if self.serving and number is not None and self.pool.ready(number) is None:
            # The gateway that promoted it has seen it READY, so it will be READY here in a moment.
            self._moved_at = time.monotonic()
            self.pool.look_again()
        # Calls that wait for a label may find it READY now.
        self.pool.wake()

    def labels_of(self, number: int) -> list[str]:
        """The labels that point to a version, sorted."""
        labels = {LATEST} if number == self.pool.newest else set()
        if self.routing is not None:
            labels.update(label for label, version in self.routing.labels.items() if version == number)
        elif labels:
            labels.add(STABLE)
        return sorted(labels)

    async def resolve(
        self, selector: model_pb2.ModelSelector, deadline: Deadline, key: str = ""
    ) -> tuple[ServedVersion, str]:
        """The version that a selector means, and the label by which it was found ("" for a number).

        While versions change, a label may for a moment mean nothing that is verified; then this waits.

        Args:
            selector: Which version.
            deadline: By when.
            key: What puts a caller on one side of the traffic split; empty for any.

        Raises:
            GatewayError (MODEL_NOT_FOUND, MODEL_LABEL_NOT_FOUND, MODEL_VERSION_NOT_FOUND,
            MODEL_VERSION_REJECTED, MODEL_SELECTOR_INVALID): The selector names nothing that may answer.
            GatewayError (MODEL_NOT_READY), BackendUnavailableError: Nothing may answer now.
            GatewayError (BACKEND_FOREIGN): Nothing of this repository is served.
        """
        self.check_model(selector.name)
        if selector.WhichOneof("selection") == "version":
            return await self._by_number(selector.version, deadline), ""
        asked = _label_of(self.model, selector, self.routing)
        give_up: Deadline | None = None
        while True:
            label = self._split(key) if asked == STABLE and self.routing is not None else asked
            number = self._number(label)
            version = self.pool.snapshot.served.get(number) if number is not None else None
            if version is not None:
                return version, label
            give_up = give_up or deadline.capped(self._swap_wait)
            if not (self._may_soon_be_ready(asked) and await self.pool.changes(give_up)):
                raise self._not_ready(asked)

    async def resolve_stable(self, deadline: Deadline) -> ServedVersion:
        """As `StableResolver`."""
        selector = model_pb2.ModelSelector(label=LATEST)
        if self.routing is not None and STABLE in self.routing.labels:
            selector = model_pb2.ModelSelector(version=self.routing.labels[STABLE])
        version, _ = await self.resolve(selector, deadline)
        return version

    def current(self, version: ServedVersion) -> bool:
        """Whether a version that was chosen earlier may still answer, and is still the same."""
        now = self.pool.ready(version.number)
        return now is version or (now is not None and now.digest == version.digest)

    async def confirm(self, version: ServedVersion, deadline: Deadline) -> None:
        """Waits until a version that was chosen earlier may answer; nearly always at once.

        Raises:
            VersionUnloadedError: It was unloaded or rejected, or another one has its number now.
            VersionLostError: The model server has been away, or the version's new proof has lasted, for too
                long.
        """
        give_up: Deadline | None = None
        while not self.current(version):
            if self.pool.connected and self._state(version.number) not in {LOADING, PROVING}:
                raise VersionUnloadedError("the version is no longer the one that was chosen")
            give_up = give_up or deadline.capped(self._swap_wait)
            if not await self.pool.changes(give_up):
                raise VersionLostError(
                    f"version {version.number} of model {self.model} cannot be reached or is verified again"
                )

    def check_model(self, name: str) -> None:
        """Refuses a model name other than the gateway's; empty is fine.

        Raises:
            GatewayError (MODEL_NOT_FOUND): It is another one.
        """
        if name not in {"", self.model}:
            raise GatewayError(
                error_pb2.ERROR_REASON_MODEL_NOT_FOUND,
                f"no model {name!r} is served here, only {self.model!r}",
                resource=("model", name),
            )

    async def _by_number(self, number: int, deadline: Deadline) -> ServedVersion:
        check_number(number)
        give_up: Deadline | None = None
        while True:
            version = self.pool.snapshot.served.get(number)
            if version is not None:
                return version
            if not self.pool.connected:
                raise self._not_ready(LATEST)
            view = self.pool.view(number)
            if view is None or not view.answered or view.state not in {LOADING, PROVING}:
                raise _not_answering(self.model, number, view)
            # Its model server has been away, or hangs, and it is on the way back.
            give_up = give_up or deadline.capped(self._swap_wait)
            if view.state not in self._soon() or not await self.pool.changes(give_up):
                raise GatewayError(
                    error_pb2.ERROR_REASON_MODEL_NOT_READY,
                    f"version {number} of model {self.model} is not READY now",
                )

    def _split(self, key: str) -> str:
        """The label that a caller of "stable" gets: "canary" for some, while that is READY."""
        routing = self.routing
        if routing is None or routing.labels.get(CANARY) not in self.pool.snapshot.served:
            return STABLE
        # No secret: it spreads callers that send no key.
        return routing.chosen_label(key or str(random.random()))  # noqa: S311

    def _number(self, label: str) -> int | None:
        if self.routing is None or label == LATEST:
            return self.pool.newest
        return self.routing.labels.get(label)

    def _state(self, number: int) -> State | None:
        view = self.pool.view(number)
        return view.state if view is not None else None

    def _may_soon_be_ready(self, label: str) -> bool:
        if self.pool.looking or not self.pool.connected:
            # A model server may stay away for long, and calls that wait for it would fill all slots.
            return self.pool.looking
        if self.routing is None or label == LATEST:
            return any(view.state in self._soon() for view in self.pool.versions())
        number = self._number(label)
        return number is not None and self._state(number) in self._soon()

    def _soon(self) -> set[State]:
        """The states of versions that are worth waiting for."""
        # One that is loading counts only right after another was unloaded: a first version may take
        # long, and an error says more to the caller.
        return {PROVING, LOADING} if self._swapping() else {PROVING}

    def _swapping(self) -> bool:
        return time.monotonic() - max(self.pool.ready_lost_at, self._moved_at) < self._swap_wait

    def _not_ready(self, label: str) -> GatewayError:
        if not self.pool.connected:
            return BackendUnavailableError("the model server cannot be reached")
        if self.pool.foreign and all(
            address in self.pool.foreign for address, up in self.pool.backends.items() if up
        ):
            return GatewayError(
                error_pb2.ERROR_REASON_BACKEND_FOREIGN,
                f"what serves {self.model} here is somebody else's, and is left alone: "
                f"{next(iter(self.pool.foreign.values()))}",
            )
        number = self._number(label)
        if self.routing is None or label == LATEST or number is None:
            return GatewayError(
                error_pb2.ERROR_REASON_MODEL_NOT_READY,
                f"no version of model {self.model} is READY for this call yet",
            )
        view = self.pool.view(number)
        if view is not None and view.state == REJECTED:
            # A retry cannot help.
            return _not_answering(self.model, number, view)
        return GatewayError(
            error_pb2.ERROR_REASON_MODEL_NOT_READY,
            f"version {number} of model {self.model}, which label {label!r} means, is not READY",
        )

    def _tell_health(self) -> None:
        number = self._number(STABLE)
        ready = number is not None and self.pool.ready(number) is not None
        # While versions change, calls wait for the next version instead of failing, so it is SERVING.
        waiting = self.serving and self._swapping() and self._may_soon_be_ready(STABLE)
        serving = self.pool.connected and (ready or waiting)
        if serving != self.serving:
            self.serving = serving
            self.on_change()


def _label_of(model: str, selector: model_pb2.ModelSelector, routing: Routing | None = None) -> str:
    """The label that a selector without a version names.

    Args:
        model: The gateway's.
        selector: What the caller sent.
        routing: Which labels there are beside "latest" and "stable".

    Raises:
        GatewayError (MODEL_SELECTOR_INVALID): It is empty.
        GatewayError (MODEL_LABEL_NOT_FOUND): There is no such label.
    """
    if not selector.HasField("label"):
        return STABLE
    if not selector.label:
        raise GatewayError(
            error_pb2.ERROR_REASON_MODEL_SELECTOR_INVALID, "the label is empty", field="model.label"
        )
    known = {LATEST, STABLE, *(routing.labels if routing is not None else ())}
    if selector.label not in known:
        raise GatewayError(
            error_pb2.ERROR_REASON_MODEL_LABEL_NOT_FOUND,
            f"model {model} has no label {selector.label!r}, only {_listed(known)}",
            resource=("label", selector.label),
            field="model.label",
        )
    return selector.label


def check_number(number: int, *, field: str = "model.version") -> None:
    """Refuses a number that no version can have.

    Raises:
        GatewayError (MODEL_SELECTOR_INVALID): It is below 1.
    """
    if number < 1:
        raise GatewayError(
            error_pb2.ERROR_REASON_MODEL_SELECTOR_INVALID,
            f"the version is {number}, expected at least 1",
            field=field,
        )


def _not_answering(model: str, number: int, view: VersionView | None) -> GatewayError:
    """Why a version that is not READY does not answer."""
    resource = ("model_version", f"{model}/{number}")
    if view is not None and view.state == REJECTED:
        return GatewayError(
            error_pb2.ERROR_REASON_MODEL_VERSION_REJECTED,
            f"version {number} of model {model} was rejected: {view.reason}",
            resource=resource,
            metadata={"state_reason": view.reason},
        )
    state = "unknown" if view is None else State.Name(view.state).removeprefix("MODEL_VERSION_STATE_")
    return GatewayError(
        error_pb2.ERROR_REASON_MODEL_VERSION_NOT_FOUND,
        f"model {model} has no version {number} that is READY; it is {state}",
        resource=resource,
    )


def _listed(labels: set[str]) -> str:
    *others, last = (repr(label) for label in sorted(labels))
    return f"{', '.join(others)} and {last}"
