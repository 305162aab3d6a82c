"""What is counted of every call."""

from __future__ import annotations

from typing import Final

import grpc

from neurogate_gateway.errors import GatewayError
from neurogate_gateway.observability.metrics import Metrics

_PACKAGE: Final = "/neurogate.v1."


_CODES: Final = {code.value[0]: code.name for code in grpc.StatusCode}


class CallMetrics:
    """Told by the interceptor of every call that has ended."""

    def __init__(self, metrics: Metrics) -> None:
        self._calls = metrics.counter(
            "neurogate_requests_total", "Calls that have ended, by method and status.", "method", "code"
        )
        self._seconds = metrics.histogram(
            "neurogate_request_seconds", "Time from a call's message to its end, streams whole.", "method"
        )
        self._refusals = metrics.counter(
            "neurogate_refusals_total", "Calls that ended with an error, by its reason.", "reason"
        )

    def ended(self, method: str, error: GatewayError | None, seconds: float) -> None:
        """One call has ended; `method` is a path that the gateway serves."""
        name = method.removeprefix(_PACKAGE)
        self._calls.labels(name, "OK" if error is None else _CODES[error.code]).inc()
        if error is not None:
            self._refusals.labels(error.reason_name()).inc()
        self._seconds.labels(name).observe(seconds)
