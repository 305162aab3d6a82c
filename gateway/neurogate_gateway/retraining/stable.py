"""The version that training is measured by: "stable" itself, never a canary."""

from __future__ import annotations

from neurogate.v1 import model_pb2

from neurogate_gateway.backends.verification import ServedVersion
from neurogate_gateway.deadline import Deadline
from neurogate_gateway.release.router import VersionRouter
from neurogate_gateway.release.traffic_split import LATEST, STABLE


async def stable_version(router: VersionRouter, deadline: Deadline) -> ServedVersion:
    """The version that "stable" means now.

    Raises:
        GatewayError: There is none, or it may not answer now.
    """
    routing = router.routing
    selector = model_pb2.ModelSelector(label=LATEST)
    if routing is not None and STABLE in routing.labels:
        selector = model_pb2.ModelSelector(version=routing.labels[STABLE])
    version, _ = await router.resolve(selector, deadline)
    return version


def known_classes(version: ServedVersion) -> list[str]:
    """Identifiers of the version's classes, in their order."""
    return [identifier for identifier, _ in version.classes]
