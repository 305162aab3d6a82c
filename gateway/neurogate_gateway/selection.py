"""What a caller may ask for, and what is said of versions that do not answer."""

from __future__ import annotations

import re
from typing import Final

from neurogate.v1 import model_pb2

from .entries import REJECTED, Entry, State
from .errors import (
    GatewayError,
    ModelLabelNotFoundError,
    ModelSelectorInvalidError,
    ModelVersionNotFoundError,
    ModelVersionRejectedError,
)

LATEST: Final = "latest"
STABLE: Final = "stable"


def label_of(model: str, selector: model_pb2.ModelSelector) -> str:
    """The label that a selector without a version names.

    Raises:
        ModelSelectorInvalidError: It is empty.
        ModelLabelNotFoundError: There is no such label.
    """
    if not selector.HasField("label"):
        return STABLE
    if not selector.label:
        raise ModelSelectorInvalidError("the label is empty", field="model.label")
    if selector.label not in {LATEST, STABLE}:
        raise ModelLabelNotFoundError(
            f"model {model} has no label {selector.label!r}, only {LATEST!r} and {STABLE!r}",
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


def not_answering(model: str, number: int, entry: Entry | None) -> GatewayError:
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
