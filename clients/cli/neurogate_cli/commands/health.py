"""`neurogate health`: whether the gateway takes work."""

from __future__ import annotations

import contextlib

import typer
from neurogate_client.errors import NeurogateError
from neurogate_client.results import HealthStatus
from rich.text import Text

from neurogate_cli.common import (
    DEFAULT_TARGET,
    EXIT_FAILED,
    TargetOption,
    TimeoutOption,
    TlsOption,
    connected,
    stdout,
)
from neurogate_cli.render.release import strangers

MODEL = "neurogate.v1.ModelService"
SERVICES = ("", "neurogate.v1.ClassificationService", MODEL, "neurogate.v1.TrainingService")


def health(
    target: TargetOption = DEFAULT_TARGET, tls: TlsOption = None, timeout: TimeoutOption = 5.0
) -> None:
    """Tell whether the gateway takes work: exit status 0 if so, 1 if not, 3 if it cannot be asked."""
    console = stdout()
    with connected(target, tls, timeout) as client:
        states = [client.health(each) for each in SERVICES]
        foreign: list[Text] = []
        # One that ends refuses everything else.
        with contextlib.suppress(NeurogateError):
            if states[SERVICES.index(MODEL)].serving:
                foreign = strangers(client.list_model_servers())
    for state in states:
        style = "green" if state.serving else "red"
        console.print(
            Text.assemble((f"{state.status.value:15}", style), state.service or f"gateway at {target}")
        )
    for line in foreign:
        console.print(line, soft_wrap=True)
    if states[0].status is not HealthStatus.SERVING:
        raise typer.Exit(EXIT_FAILED)
