"""Exception, and by it the status, of every reason that the contract names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

# Imported for their leaves.
from . import release_errors as _release
from . import training_errors as _training
from .errors import GatewayError

__all__ = ["TABLE"]


def _leaves(branch: type[GatewayError]) -> Iterator[type[GatewayError]]:
    if "reason" in vars(branch):
        yield branch
    for child in branch.__subclasses__():
        yield from _leaves(child)


_ = (_release, _training)

TABLE: Final[Mapping[str, type[GatewayError]]] = {leaf.reason_name(): leaf for leaf in _leaves(GatewayError)}
