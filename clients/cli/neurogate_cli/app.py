"""The command line's parts put together."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from .commands import classify as cli_classify
from .commands import compare as cli_compare
from .commands import demo as cli_demo
from .commands import examples as cli_examples
from .commands import explain as cli_explain
from .commands import health as cli_health
from .commands import release as cli_release
from .commands import retrain as cli_retrain
from .commands import up as cli_up
from .commands import upload as cli_upload
from .commands import versions as cli_versions
from .common import EXIT_INTERRUPTED

app = typer.Typer(
    name="neurogate",
    epilog="Exit status: 0 done; 1 something has no answer or failed; 2 wrong use; 3 no gateway to ask.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"neurogate {version('neurogate')}")
        raise typer.Exit


@app.callback()
def options(
    *,
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it and exit.")
    ] = False,
) -> None:
    """Classifies brain MRI slices through a Neurogate gateway. Research software, not a medical device."""


_ASK, _VERSIONS, _LEARN, _RUN = "Ask", "Versions and release", "Learn from new images", "Run it here"
for _name, _command, _panel in (
    ("classify", cli_classify.classify, _ASK),
    ("explain", cli_explain.explain, _ASK),
    ("health", cli_health.health, _ASK),
    ("versions", cli_versions.versions, _VERSIONS),
    ("release", cli_release.release, _VERSIONS),
    ("evaluate", cli_compare.evaluate, _VERSIONS),
    ("compare", cli_compare.compare, _VERSIONS),
    ("canary", cli_release.canary, _VERSIONS),
    ("shadow", cli_release.shadow, _VERSIONS),
    ("promote", cli_release.promote, _VERSIONS),
    ("rollback", cli_release.rollback, _VERSIONS),
    ("feedback", cli_upload.feedback, _LEARN),
    ("upload", cli_upload.upload, _LEARN),
    ("retrain", cli_retrain.retrain, _LEARN),
    ("up", cli_up.up, _RUN),
    ("demo", cli_demo.demo, _RUN),
):
    app.command(_name, rich_help_panel=_panel)(_command)
app.add_typer(cli_examples.example_app, name="example", rich_help_panel=_LEARN)
app.add_typer(cli_examples.prediction_app, name="prediction", rich_help_panel=_LEARN)
app.add_typer(cli_retrain.runs_app, name="runs", rich_help_panel=_LEARN)


def run() -> int:
    """Runs the command line on this process's arguments and returns its exit status."""
    try:
        result = app(prog_name="neurogate")
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    return result if isinstance(result, int) else 0
