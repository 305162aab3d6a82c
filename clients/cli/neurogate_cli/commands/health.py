"""`neurogate health`: whether the gateway takes work."""

from __future__ import annotations

import contextlib

import typer
from neurogate_client.errors import NeurogateError
from rich.text import Text

from neurogate_cli import common
from neurogate_cli.render.output import print_line, stdout
from neurogate_cli.render.release import foreign_servers

MODEL = "neurogate.v1.ModelService"
SERVICES = ("", "neurogate.v1.ClassificationService", MODEL, "neurogate.v1.TrainingService")


def health(
    target: common.Target = common.TARGET, tls: common.Tls = None, timeout: common.Timeout = 5.0
) -> None:
    """Tell whether the gateway takes work: exit status 0 if so, 1 if not, 3 if it cannot be asked."""
    console = stdout()
    with common.connected(target, tls, timeout) as client:
        states = [client.health(each) for each in SERVICES]
        foreign: list[Text] = []
        # One that ends refuses everything else.
        with contextlib.suppress(NeurogateError):
            if states[SERVICES.index(MODEL)].serving:
                foreign = foreign_servers(client.list_model_servers())
    for state in states:
        style = "green" if state.serving else "red"
        console.print(
            Text.assemble((f"{state.status.value:15}", style), state.service or f"gateway at {target}")
        )
    for line in foreign:
        print_line(console, line)
    if not states[0].serving:
        raise typer.Exit(common.EXIT_FAILED)
