"""The command `neurogate-trainer`; what it does lives in `cli`, which needs the extra `trainer`."""

from __future__ import annotations

from neurogate_core.command import needs_extra


@needs_extra("neurogate-trainer", "trainer")
def main() -> None:
    """Entry point of the command."""
    from .cli import main as run  # noqa: PLC0415 - the base install has no typer

    run()
