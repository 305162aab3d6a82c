"""The gRPC server: its limits, its services, its port."""

from __future__ import annotations

from typing import Final

import grpc.aio
from grpc_channelz.v1 import channelz
from grpc_health.v1 import health_pb2_grpc
from neurogate.v1 import classification_pb2_grpc, model_pb2_grpc, training_pb2_grpc

from neurogate_gateway.settings import PortUnavailableError, Settings

from .classification import ClassificationServicer
from .health import CLASSIFICATION, MODEL, TRAINING, HealthServicer
from .interceptor import CallInterceptor
from .model import ModelServicer
from .reflection import enable_reflection

CLIENT_PING_SECONDS: Final = 30
"""How often a client may ping an idle connection. The server tolerates three times as many, so that timers
that run apart never count as abuse."""

_OPTIONS: Final = (
    # Two gateways on one port are a mistake, which binding then reports.
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", CLIENT_PING_SECONDS * 1000 // 3),
    ("grpc.keepalive_permit_without_calls", 1),
    # Finds clients that vanished without a word, whose streams would be held for ever.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Clients reconnect now and then, and so find gateways that were added behind a name. Calls that run then
    # keep the old connection for as long as they last, since gRPC's own grace has no end: a stream that is in
    # use is not to be cut, one that is not is ended as idle, and a vanished client is found by the pings.
    ("grpc.max_connection_age_ms", 30 * 60_000),
    ("grpc.max_concurrent_streams", 1024),
)


def build_server(
    settings: Settings,
    interceptor: CallInterceptor,
    classification: ClassificationServicer,
    model: ModelServicer,
    training: training_pb2_grpc.TrainingServiceServicer,
    *,
    health: HealthServicer,
) -> tuple[grpc.aio.Server, int]:
    """A server that has its port but does not take calls yet.

    Returns:
        The server and the port that it has.

    Raises:
        PortUnavailableError: The port is taken, or the host is not this machine's.
    """
    options = [
        *_OPTIONS,
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", -1),
    ]
    server = grpc.aio.server(interceptors=[interceptor], options=options)
    classification_pb2_grpc.add_ClassificationServiceServicer_to_server(classification, server)
    model_pb2_grpc.add_ModelServiceServicer_to_server(model, server)
    training_pb2_grpc.add_TrainingServiceServicer_to_server(training, server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    names = [CLASSIFICATION, MODEL, TRAINING, "grpc.health.v1.Health"]
    if settings.channelz:
        channelz.add_channelz_servicer(server)
        names.append("grpc.channelz.v1.Channelz")
    enable_reflection(server, names)
    try:
        return server, server.add_insecure_port(settings.listen)
    except RuntimeError:
        raise PortUnavailableError(
            f"cannot listen on {settings.listen}: the port is taken or the address is not this machine's"
        ) from None
