"""The report's part on whether the explanations point at the lesion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neurogate_core.evidence import LIMITS

from neurogate_trainer.evaluation.localisation_summary import SCORES
from neurogate_trainer.evaluation.metrics import Json

from ._figures import shown
from .html import Child, Html, join, table, tag
from .run import Run
from .words import count, interval, map_warning, percent

_PLACES = {
    "brightest_spot": "the brightest spot",
    "head_centre": "the centre of the head",
    "centre": "the centre of the picture",
}


def localisation(run: Run) -> Html | None:
    """How often the maps point at the lesion, beside what points there without a model, with examples."""
    measured = run.record("metrics").get("localisation")
    if not measured:
        return None
    lesions, deletion = measured["lesions"], measured["deletion"]
    warned = map_warning(run.record("metrics"))
    return join(
        tag("h3", "Does the evidence lie where the lesion is?"),
        tag("p", tag("strong", warned)) if warned else None,
        _pointing(run, lesions) if lesions else tag("p", _UNKNOWN),
        _deletion(deletion),
        tag("p", LIMITS),
    )


_UNKNOWN = (
    "No test image has a mask of its lesion, so nothing is known about where the maps point; "
    "see the data documentation for how to add masks."
)


def _pointing(run: Run, lesions: Json) -> Html:
    control = lesions["control"]
    rows = [
        *([row["class_id"], f"{row['images']:,}", *_cells(row)] for row in lesions["per_class"]),
        ["All", f"{lesions['images']:,}", *_cells(lesions)],
        *(
            [[f"All, the map of {control['class_id']}", f"{lesions['images']:,}", *_cells(control)]]
            if control
            else []
        ),
        *(
            [f"Always {name}", f"{lesions['images']:,}", _share(lesions["baselines"][key]), None, None]
            for key, name in _PLACES.items()
        ),
    ]
    text = (
        f"Measured on the right answers to {count(lesions['images'], 'image')} of the {lesions['of']:,} test "
        "images whose lesion is known, by the map of the class that was named. It points at the lesion where "
        "its maximum lies within the lesion grown by 5% of the picture's side. The last lines say how often "
        "the lesion is hit without a model."
    )
    about_class = (
        f" The map of {control['class_id']}, which has no lesion, should point there far less: what it hits "
        "is conspicuous."
        if control
        else ""
    )
    return join(
        tag("p", text, about_class),
        table(
            [
                "Images of",
                "Right answers",
                "Points at the lesion",
                "Within the lesion",
                "Share of the map in it",
            ],
            rows,
        ),
        shown(run, "localisation", "Maps that point at the lesion, and maps that point elsewhere")
        if lesions["images"]
        else None,
    )


def _deletion(deletion: Json) -> Html:
    rows = [
        *(
            [row["class_id"], f"{row['images']:,}", _share(row["changed"]), _share(row["random_disc"])]
            for row in deletion["per_class"]
        ),
        [
            "All that were measured",
            f"{deletion['images']:,}",
            _share(deletion["changed"]),
            _share(deletion["random_disc"]),
        ],
    ]
    text = (
        "Do the answers rest on what the maps show? The strongest 5% of the map are blurred away; where "
        "the answer then changes, it rested on them. As large a disc at a random place of the head tells how "
        "much any blur changes."
    )
    return join(
        tag("p", text),
        table(["Images of", "Right answers", "Answer changes", "With a random disc"], rows),
    )


def _cells(row: Json) -> list[Child]:
    return [_share(row[name]) for name in SCORES]


def _share(estimate: Mapping[str, Any]) -> Child:
    if estimate["value"] is None:
        return "unknown"
    ends = interval(estimate)
    return join(percent(estimate["value"]), tag("small", ends) if ends else None)
