"""Exception, and by it the status, of every reason that the contract names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Final

from . import errors, release_errors, training_errors
from .errors import GatewayError

__all__ = ["TABLE"]


def _leaves(module: ModuleType) -> Iterator[type[GatewayError]]:
    """The exceptions that a module defines with a reason of their own."""
    for each in vars(module).values():
        if isinstance(each, type) and issubclass(each, GatewayError) and "reason" in vars(each):
            yield each


TABLE: Final[Mapping[str, type[GatewayError]]] = {
    leaf.reason_name(): leaf
    for module in (errors, release_errors, training_errors)
    for leaf in _leaves(module)
}
