from __future__ import annotations

from pathlib import Path

from grpc import StatusCode
from neurogate_client import Client
from neurogate_client.processes import Supervisor
from neurogate_client.servers import Servers
from neurogate_testing.fake_gateway import FakeGateway, status, version


def test_the_version_that_answers_is_announced_and_no_other(gateway: FakeGateway) -> None:
    gateway.script.versions = [
        version(3, state="REJECTED"),
        version(2, labels=("latest", "stable")),
        version(1),
    ]
    gateway.script.failures = [status(StatusCode.INTERNAL, "INTERNAL", "once")]
    servers = Servers(repository=Path(), model="brain_tumor", port=1, model_server_port=2)
    with Client(gateway.address) as client, Supervisor() as supervisor:
        assert servers.wait_until_ready(supervisor, client) == 2
    assert len(gateway.script.calls) == 2
