"""Who wants to be told of something."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Generic, ParamSpec

from .logging import log

_P = ParamSpec("_P")


class Signal(Generic[_P]):
    """Functions that are called one after another, in the order in which they came."""

    def __init__(self) -> None:
        self._listeners: list[Callable[_P, None]] = []

    def add(self, told: Callable[_P, None]) -> Callable[[], None]:
        """Takes one in; returns what takes it out again."""
        self._listeners.append(told)
        return lambda: self._listeners.remove(told)

    def tell(self, *args: _P.args, **kwargs: _P.kwargs) -> None:
        """Calls all; they may come and go meanwhile, and one that fails keeps it from nobody else."""
        for told in tuple(self._listeners):
            try:
                told(*args, **kwargs)
            except Exception as defect:  # noqa: BLE001 - who tells is in the middle of something
                log(logging.ERROR, "listener_failed", error=defect)
