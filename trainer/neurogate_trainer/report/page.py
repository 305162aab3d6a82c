"""`report.html`: one self-contained page about a training run, to read, to print and to send to a colleague.

It is written from what lies in the run folder. Nothing on it comes from elsewhere: images are data URIs,
there is no script, and a content security policy forbids the browser to fetch anything.
"""

from __future__ import annotations

from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

from neurogate_core.files import replace_file

from .html import Html, join, tag
from .run import Run, read_run
from .sections import SECTIONS, key_numbers
from .words import dataset_name, distrust, findings, is_phantom, warnings

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def write_report(run_dir: Path) -> Path:
    """Write report.html into the run folder and return its path; an older one is replaced in one step.

    A run that lacks files or figures still gets a page, which says what is missing.

    Raises:
        FileNotFoundError: There is no such folder.
        OSError: The page cannot be written.
    """
    run = read_run(run_dir)
    path = run_dir / "report.html"
    replace_file(path, _page(run).encode())
    return path


def _page(run: Run) -> str:
    title = _title(run)
    # Sections are made first, since what they cannot show becomes a warning on top.
    sections = [(key, heading, content) for key, heading, make in SECTIONS if (content := make(run))]
    links = [("summary", "Summary"), *((key, heading) for key, heading, _ in sections)]
    body = join(
        tag(
            "header",
            tag("p", "Neurogate training report", class_="kind"),
            tag("h1", title),
            tag("p", _subtitle(run), class_="lead"),
            _notices(run),
            tag("nav", [tag("a", text, href=f"#{key}") for key, text in links], aria_label="Sections"),
        ),
        tag(
            "main",
            _summary(run),
            [tag("section", tag("h2", heading), content, id=key) for key, heading, content in sections],
        ),
        tag("footer", tag("p", _footer())),
    )
    style = resources.files("neurogate_trainer.report").joinpath("report.css").read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("title", f"{title} · training report"),
        tag("style", Html(style)),
    )
    return "<!doctype html>\n" + tag("html", head, tag("body", body), lang="en") + "\n"


def _title(run: Run) -> str:
    published, manifest = run.record("published"), run.manifest
    name = published.get("model") or (manifest.model_name if manifest is not None else "")
    version = published.get("version") or (manifest.version if manifest is not None else 0)
    if not name:
        return f"Run {run.folder.resolve().name}"
    return f"{name}, version {version}" if version else f"{name}, not published"


def _subtitle(run: Run) -> str:
    parts = []
    if run.manifest is not None:
        if run.manifest.lineage.run_id:
            parts.append(f"run {run.manifest.lineage.run_id}")
        if run.manifest.HasField("created_at"):
            parts.append(f"published {run.manifest.created_at.ToDatetime(UTC):%d %B %Y, %H:%M} UTC")
    if dataset_name(run):
        parts.append(f"data set {dataset_name(run)}")
    return " · ".join(parts)


def _notices(run: Run) -> Html:
    research = (
        "This model is for research and teaching. It must not be used for diagnosis, treatment or any other "
        "decision about a patient."
    )
    phantom = (
        "It was trained and tested on computer-made images with synthetic lesions. How well it does on them "
        "teaches nothing about patients and says nothing about real images."
    )
    return join(
        tag("div", tag("p", tag("strong", "Not a medical device. "), research), class_="notice"),
        tag("div", tag("p", tag("strong", "Phantom data. "), phantom), class_="notice alarm")
        if is_phantom(run)
        else None,
    )


def _summary(run: Run) -> Html:
    concerns = warnings(run)
    return tag(
        "section",
        tag("h2", "Summary"),
        key_numbers(run),
        [tag("p", line) for line in findings(run)],
        tag("h3", "Where not to trust it"),
        tag("ul", [tag("li", line) for line in distrust(run)]),
        [tag("h3", "Warnings"), tag("ul", [tag("li", line) for line in concerns])] if concerns else None,
        id="summary",
    )


def _footer() -> str:
    return (
        f"Written by Neurogate on {datetime.now(UTC):%d %B %Y at %H:%M} UTC from the files of the run folder."
    )
