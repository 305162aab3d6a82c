"""Targets, credentials and channel settings that both flavours of the client share."""

from __future__ import annotations

import ipaddress
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
from neurogate.v1 import classification_pb2, model_pb2, training_pb2

Tls = bool | grpc.ChannelCredentials | None

DEFAULT_TIMEOUT = 30.0
"""Seconds that a unary call may take, where nothing else is said."""

DEFAULT_IDLE_TIMEOUT = 60.0
"""Seconds that a stream may wait for an answer while images are outstanding."""

DEFAULT_EVALUATION_TIMEOUT = 600.0
"""Seconds that an evaluation on all sealed images may take."""

KEEPALIVE_SECONDS = 30
"""Time between pings on a busy connection; the gateway tolerates 10 s."""

_SCHEME = re.compile(r"(dns|ipv4|ipv6|unix|unix-abstract|vsock|xds|google-c2p|passthrough):")
_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^:/\[\]@\s]+):(?P<port>[0-9]{1,5})")

# Their second attempt could meet what the first has ended. Other changes carry a request_id, or set what is
# set already, so that they happen once.
_NOT_RETRIED = frozenset({"CancelRetraining", "DeleteExample", "DeletePrediction"})

# Streams are left out: what was answered before the connection broke would be classified twice, and watches
# and uploads resume by themselves. So is the health check, whose question is how things stand at this moment.
_RETRIED = [
    {"service": service.full_name, "method": method.name}
    for file in (classification_pb2.DESCRIPTOR, model_pb2.DESCRIPTOR, training_pb2.DESCRIPTOR)
    for service in file.services_by_name.values()
    for method in service.methods
    if not method.client_streaming and not method.server_streaming and method.name not in _NOT_RETRIED
]

SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": _RETRIED,
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.2s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2.5,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}
"""gRPC service config: all resolved addresses in turn, and up to 4 attempts, for UNAVAILABLE only."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where the gateway is."""

    given: str
    uri: str
    local: bool

    @classmethod
    def parse(cls, text: str) -> Target:
        """Reads "HOST:PORT", resolved by DNS with all its addresses used, or any gRPC target URI.

        Raises:
            ValueError: anything else, with what would be right.
        """
        if _SCHEME.match(text):
            name = text.partition(":")[2].rpartition("/")[2]
            local = text.startswith("unix") or _is_loopback(_host(name))
            return cls(text, text, local)
        match = _HOST_PORT.fullmatch(text)
        if match is None or not 0 < int(match["port"]) < 65536:
            raise ValueError(f"target {text!r} is not HOST:PORT, e.g. 'localhost:50051' (without http://)")
        return cls(text, f"dns:///{text}", _is_loopback(match["host"]))


def _host(authority: str) -> str:
    return authority.rpartition(":")[0] or authority


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return False


def credentials(target: Target, tls: Tls) -> grpc.ChannelCredentials | None:
    """Credentials of the channel; None for a plain connection.

    Raises:
        ValueError: the gateway is not on this machine and `tls` is unset.
    """
    if isinstance(tls, grpc.ChannelCredentials):
        return tls
    if tls is None and not target.local:
        raise ValueError(
            f"{target.given} is not on this machine: say tls=True for an encrypted connection, "
            "or tls=False for a plain one (a private network, a mesh that encrypts by itself)"
        )
    return grpc.ssl_channel_credentials() if tls else None


def options(target: Target, max_image_bytes: int) -> list[tuple[str, str | int]]:
    """Settings of the channel."""
    import importlib.metadata  # noqa: PLC0415 - a tenth of what importing this package costs

    message_bytes = max_message_bytes(max_image_bytes)
    settings: list[tuple[str, str | int]] = [
        ("grpc.primary_user_agent", f"neurogate-client/{importlib.metadata.version('neurogate')}"),
        ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
        ("grpc.enable_retries", 1),
        # gRPC gives up retrying a call whose bytes do not fit here; its own default is 256 KiB.
        ("grpc.per_rpc_retry_buffer_size", message_bytes),
        ("grpc.max_send_message_length", message_bytes),
        # What comes has little to do with the size of an image: pictures, manifests, whole lists.
        ("grpc.max_receive_message_length", -1),
        ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
        # A gateway that restarts is back within a second; the default waits a second and then longer.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5_000),
    ]
    if target.local:
        # A proxy for the outside world must not be asked for this machine.
        settings.append(("grpc.enable_http_proxy", 0))
    return settings


def open_channel(
    target: Target, credentials: grpc.ChannelCredentials | None, options: Sequence[tuple[str, str | int]]
) -> grpc.Channel:
    """A channel for threads."""
    if credentials is None:
        return grpc.insecure_channel(target.uri, options=options)
    return grpc.secure_channel(target.uri, credentials, options=options)


def max_message_bytes(max_image_bytes: int) -> int:
    """Largest message that is sent: what the gateway accepts for the same image limit."""
    return 2 * max_image_bytes + 2**20


def check_settings(timeout: float, max_image_bytes: int) -> None:
    """Refuses settings that no call could work with.

    Raises:
        ValueError: naming the setting.
    """
    check_timeout("timeout", timeout)
    if not 0 < max_image_bytes <= 2**30:
        raise ValueError(f"max_image_bytes is {max_image_bytes:,}; it must be 1 to {2**30:,}")


def check_timeout(name: str, seconds: float) -> None:
    """Refuses a timeout that is not above 0; `math.inf` means none."""
    if not seconds > 0:
        raise ValueError(f"{name} is {seconds}; it must be above 0 seconds (math.inf for none)")


def deadline(timeout: float | None, default: float) -> float | None:
    """What gRPC takes as timeout: None for no limit."""
    chosen = default if timeout is None else timeout
    check_timeout("timeout", chosen)
    return None if math.isinf(chosen) else chosen
