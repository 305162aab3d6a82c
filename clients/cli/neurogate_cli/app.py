"""The command line's parts put together."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from .commands import (
    classify,
    compare,
    demo,
    examples,
    explain,
    health,
    release,
    retrain,
    up,
    upload,
    versions,
)
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
    ("classify", classify.classify, _ASK),
    ("explain", explain.explain, _ASK),
    ("health", health.health, _ASK),
    ("versions", versions.versions, _VERSIONS),
    ("release", release.release, _VERSIONS),
    ("evaluate", compare.evaluate, _VERSIONS),
    ("compare", compare.compare, _VERSIONS),
    ("canary", release.canary, _VERSIONS),
    ("shadow", release.shadow, _VERSIONS),
    ("promote", release.promote, _VERSIONS),
    ("rollback", release.rollback, _VERSIONS),
    ("feedback", examples.feedback, _LEARN),
    ("upload", upload.upload, _LEARN),
    ("retrain", retrain.retrain, _LEARN),
    ("up", up.up, _RUN),
    ("demo", demo.demo, _RUN),
):
    app.command(_name, rich_help_panel=_panel)(_command)
app.add_typer(examples.example_app, name="example", rich_help_panel=_LEARN)
app.add_typer(examples.prediction_app, name="prediction", rich_help_panel=_LEARN)
app.add_typer(retrain.runs_app, name="runs", rich_help_panel=_LEARN)


def run() -> int:
    """Runs the command line on this process's arguments and returns its exit status."""
    try:
        result = app(prog_name="neurogate")
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    return result if isinstance(result, int) else 0
