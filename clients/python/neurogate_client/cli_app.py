"""The command line's parts put together: `neurogate classify | explain | versions | health | up | demo`."""

from __future__ import annotations

import typer

from neurogate_client import cli_classify, cli_demo, cli_explain, cli_models, cli_up
from neurogate_client.cli_common import EXIT_INTERRUPTED

app = typer.Typer(
    name="neurogate",
    help="Classifies brain MRI slices through a Neurogate gateway. Research software, not a medical device.",
    epilog="Exit status: 0 done; 1 something has no answer or failed; 2 wrong use; 3 no gateway to ask.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("classify")(cli_classify.classify)
app.command("explain")(cli_explain.explain)
app.command("versions")(cli_models.versions)
app.command("health")(cli_models.health)
app.command("up")(cli_up.up)
app.command("demo")(cli_demo.demo)


def run() -> int:
    """Runs the command line on this process's arguments and returns its exit status."""
    try:
        result = app(prog_name="neurogate")
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    return result if isinstance(result, int) else 0
