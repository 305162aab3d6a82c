"""Expects that the gateway refuses."""

from __future__ import annotations

import re

import pytest
from neurogate_gateway.errors import GatewayError


def refused(reason: str, *, match: str | re.Pattern[str] | None = None) -> pytest.RaisesExc[GatewayError]:
    """As `pytest.raises`, for a `GatewayError` with this reason."""
    return pytest.raises(GatewayError, match=match, check=lambda error: error.reason_name() == reason)
