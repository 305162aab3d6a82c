"""The figures of a run folder on the report's page."""

from __future__ import annotations

from .html import Html, picture
from .run import Run


def shown(run: Run, name: str, alt: str) -> Html | None:
    """A figure of the run by its name without ".png"; a missing or damaged one is noted and left out."""
    path = run.figure(name)
    if path is None:
        run.missing_figures.append(f"{name}.png")
        return None
    try:
        return picture(path, alt)
    except OSError as error:
        run.gaps.append(f"The figure {name}.png cannot be shown: {error}.")
        return None


def all_shown(run: Run, prefix: str, alt: str) -> list[Html | None]:
    """All figures whose names begin with `prefix`, described by `alt` and the rest of the name."""
    return [shown(run, path.stem, f"{alt} {path.stem.removeprefix(prefix)}") for path in run.figures(prefix)]
