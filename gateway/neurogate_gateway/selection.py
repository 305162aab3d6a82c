"""What a caller may ask for, and what is said of versions that do not answer."""

from __future__ import annotations

import re
from typing import Protocol

from neurogate.v1 import model_pb2

from .entries import REJECTED, State
from .errors import (
    GatewayError,
    ModelLabelNotFoundError,
    ModelSelectorInvalidError,
    ModelVersionNotFoundError,
    ModelVersionRejectedError,
)
from .routing import LATEST, STABLE, Routing


class _Stands(Protocol):
    """Where a version stands: an entry or a view."""

    @property
    def state(self) -> State: ...
    @property
    def reason(self) -> str: ...


def label_of(model: str, selector: model_pb2.ModelSelector, routing: Routing | None = None) -> str:
    """The label that a selector without a version names.

    Args:
        model: The gateway's.
        selector: What the caller sent.
        routing: Which labels there are beside "latest" and "stable".

    Raises:
        ModelSelectorInvalidError: It is empty.
        ModelLabelNotFoundError: There is no such label.
    """
    if not selector.HasField("label"):
        return STABLE
    if not selector.label:
        raise ModelSelectorInvalidError("the label is empty", field="model.label")
    known = {LATEST, STABLE, *(routing.labels if routing is not None else ())}
    if selector.label not in known:
        raise ModelLabelNotFoundError(
            f"model {model} has no label {selector.label!r}, only {_listed(known)}",
            resource=("label", selector.label),
            field="model.label",
        )
    return selector.label


def check_number(number: int) -> None:
    """Refuses a number that no version can have.

    Raises:
        ModelSelectorInvalidError: It is below 1.
    """
    if number < 1:
        raise ModelSelectorInvalidError(
            f"the version is {number}, expected at least 1", field="model.version"
        )


def not_answering(model: str, number: int, entry: _Stands | None) -> GatewayError:
    """Why a version that is not READY does not answer."""
    resource = ("model_version", f"{model}/{number}")
    if entry is not None and entry.state == REJECTED:
        return ModelVersionRejectedError(
            f"version {number} of model {model} was rejected: {entry.reason}",
            resource=resource,
            metadata={"state_reason": entry.reason},
        )
    state = "unknown" if entry is None else State.Name(entry.state).removeprefix("MODEL_VERSION_STATE_")
    return ModelVersionNotFoundError(
        f"model {model} has no version {number} that is READY; it is {state}", resource=resource
    )


def tidy(text: str) -> str:
    """The first line of the model server's words, without paths: those are its own affair."""
    return re.sub(r"(?:/[\w.@+-]+){2,}/?", "(path)", text.partition("\n")[0])[:300]


def _listed(labels: set[str]) -> str:
    *others, last = (repr(label) for label in sorted(labels))
    return f"{', '.join(others)} and {last}"
