"""Writes docs/performance.md and its pictures from bench/results/*.json; measures nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from neurogate_bench import machine, plots, results
from neurogate_bench.context import read_scenarios
from neurogate_bench.record import BUSY_LIMIT, LATE_LIMIT_MS
from neurogate_bench.results import FOREIGN_LIMIT, MISSED, UNDECIDED, Result, Target, is_disturbed, outcome
from neurogate_bench.stats import Figure

RESULTS = machine.ROOT / "bench" / "results"
HERE = Path(__file__).resolve().parent
BACKENDS = {
    "embedded": "the embedded model server (not TensorFlow Serving)",
    "tensorflow-serving": "TensorFlow Serving",
    "null": "a model server that answers constants",
    "none": "no model server",
}


def write_report(folder: Path, docs: Path) -> Path:
    """Writes the page and its pictures and returns the page's path."""
    found = results.load_all(folder)
    order = [*read_scenarios()[1], *sorted(found)]
    found = dict(sorted(found.items(), key=lambda entry: order.index(entry[0])))
    limits = {"limit": f"{FOREIGN_LIMIT:.0%}", "busy": f"{BUSY_LIMIT:.0%}", "late": LATE_LIMIT_MS}
    parts = [(HERE / "introduction.md").read_text().format(**limits)]
    if found:
        parts += [machine_section(found), target_section(found)]
        if picture := plots.draw_targets(found, docs / "images"):
            parts.append(f"![All targets](images/{picture})\n")
    else:
        parts.append("There are no results yet: run `make bench`.\n")
    parts += [scenario_section(result, plots.draw(result, docs / "images")) for result in found.values()]
    parts += [command_section(found), (HERE / "findings.md").read_text()]
    docs.mkdir(parents=True, exist_ok=True)
    page = docs / "performance.md"
    page.write_text("\n".join(parts).rstrip() + "\n")
    return page


def machine_section(found: dict[str, Result]) -> str:
    """What was measured on: what all results share, and what each date has of its own."""
    lines = ["## Measured on", ""]
    groups: dict[tuple[str, str], list[str]] = {}
    for name, result in found.items():
        about, source = result["machine"], result["source"]
        commit = source["commit"][:12] + (" with local changes" if source["modified"] else "")
        hardware = (
            f"{about['cpu_model']}{', virtual' if about['virtual'] else ''} ({', '.join(about['cpu_flags'])})"
        )
        cores = f"{about['cores_used']} of {about['cores_present']} cores, {about['memory_gib']} GiB"
        versions = ", ".join(f"{package} {version}" for package, version in result["versions"].items())
        where = f"{hardware}, {cores}, {about['system']}. {versions}."
        groups.setdefault((where, f"{result['started_at'][:10]}, commit {commit}"), []).append(name)
    for where in dict.fromkeys(where for where, _ in groups):
        lines += [where, ""]
        lines += [f"- {when}: {', '.join(names)}" for (at, when), names in groups.items() if at == where]
        lines.append("")
    return "\n".join(lines)


def target_section(found: dict[str, Result]) -> str:
    """All promises in one table."""
    lines = ["## Targets", "", "| | | Target | Measured | |", "|---|---|---|---|---|"]
    for result in found.values():
        # As Markdown renderers name a heading.
        anchor = re.sub(r"[^\w\- ]", "", result["title"].lower()).replace(" ", "-")
        title = f"[{result['title']}](#{anchor})"
        for entry in result["targets"]:
            unit = f" {entry['unit']}" if entry["unit"] else ""
            sign = {"<=": "at most", ">=": "at least"}[entry["comparison"]]
            value = "n/a" if math.isnan(entry["value"]) else f"{number(entry['value'])}{unit}"
            if entry["spread"]:
                value += f" ({number(entry['spread'][0])} to {number(entry['spread'][1])})"
            lines.append(
                f"| {title} | {entry['name']} "
                f"| {sign} {number(entry['limit'])}{unit} | {value} | {verdict(result, entry)} |"
            )
            title = ""
    return "\n".join([*lines, ""])


def verdict(result: Result, entry: Target) -> str:
    """What became of a promise in words, with the distance of what was missed."""
    word = outcome(result, entry)
    if entry["limit"]:
        distance = f"missed by {number(100 * abs(entry['value'] / entry['limit'] - 1))} %"
    else:
        distance = f"missed by {number(abs(entry['value']))}"
    if word == MISSED:
        return f"**missed**{distance.removeprefix('missed')}"
    if word == UNDECIDED:
        return f"undecided: disturbed; {'met' if entry['met'] else distance}"
    return word


def scenario_section(result: Result, picture: str | None) -> str:
    """One scenario: question, conditions, table, picture."""
    most = max((len(figure["runs"]) for figure in result["figures"]), default=0)
    count = result["settings"].get("runs", most)
    runs = f"{count} run{'s' if count > 1 else ''}"
    lines = [f"## {result['title']}", "", result["question"], ""]
    if result["void"]:
        lines += [f"> **Void:** {'; '.join(result['void'])}.", ""]
    backend = BACKENDS[result["backend"]]
    lines += [f"Backend: {backend}. {runs}; {disturbance_sentence(result)}; {checks_sentence(result)}", ""]
    lines += [pivot(result["figures"]), ""]
    lines += [f"{note}\n" for note in result["notes"]]
    if picture:
        lines += [f"![{result['title']}](images/{picture})", ""]
    return "\n".join(lines)


def disturbance_sentence(result: Result) -> str:
    """What other programs did meanwhile."""
    others = result["checks"]["other_programs"]
    text = f"other programs took {others['mean']:.0%} of the cores, {others['worst']:.0%} at worst"
    if niceness := result["checks"].get("niceness"):
        text += f", and went first (niceness {niceness})"
    return f"**disturbed**: {text}" if is_disturbed(result["checks"]) else text


def checks_sentence(result: Result) -> str:
    """How many answers were looked at and what was wrong with them."""
    checks = result["checks"]
    answers, requests = checks.get("answers", 0), checks.get("requests", 0)
    if not answers:
        return f"{requests} requests." if requests else "no requests."
    problems = "; ".join(f"{name} {count}" for name, count in checks["problems"].items())
    return f"{answers:,} answers checked, {problems or 'none wrong, none failed'}."


def command_section(found: dict[str, Result]) -> str:
    """Every server's flags, once; ports and folders of prepared networks are chance."""
    commands: dict[str, str] = {}
    for result in found.values():
        for name, command in result["commands"].items():
            chosen = r"(?<=127\.0\.0\.1:)\d+|(?<=--port=)\d+|(?<=build/bench/models/)[0-9a-f]{16}"
            # Without the flags, which some servers' names repeat.
            commands.setdefault(re.sub(chosen, "…", command), name.partition(" --")[0])
    if not commands:
        return ""
    lines = [f"- {name}: `{command}`" for command, name in commands.items()]
    return "\n".join(
        [
            "## Commands",
            "",
            "The servers' flags; `…` stands for what is chosen anew in each run.",
            "",
            *lines,
            "",
        ]
    )


def number(value: float) -> str:
    """Three significant digits, and all digits of what is a count."""
    if math.isnan(value):
        return "n/a"
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def cell(figure: Figure) -> str:
    """The median, with the extremes where several runs differ."""
    if len(figure["runs"]) < 2 or figure["min"] == figure["max"]:
        return number(figure["median"])
    return f"{number(figure['median'])} ({number(figure['min'])} to {number(figure['max'])})"


def pivot(figures: Sequence[Figure]) -> str:
    """A row per series and a column per metric; with a single series a row per metric, which reads better.

    Series that share no metric with the first get a table of their own.
    """
    blocks: list[tuple[list[str], list[str]]] = []
    metrics_of: dict[str, list[str]] = {}
    for figure in figures:
        metrics_of.setdefault(figure["series"], []).append(figure["metric"])
    for series, metrics in metrics_of.items():
        for names, columns in blocks:
            if set(metrics) & set(columns):
                names.append(series)
                columns.extend(metric for metric in metrics if metric not in columns)
                break
        else:
            blocks.append(([series], list(metrics)))
    known = {(figure["series"], figure["metric"]): figure for figure in figures}
    return "\n\n".join(_block(known, names, columns) for names, columns in blocks)


def _block(known: dict[tuple[str, str], Figure], names: list[str], columns: list[str]) -> str:
    if len(names) == 1 and len(columns) > 1:
        lines = [f"| {names[0]} | |", "|---|---|"]
        for metric in columns:
            figure = known[names[0], metric]
            lines.append(f"| {metric} | {cell(figure)} {figure['unit']}".rstrip() + " |")
        return "\n".join(lines)
    units = {metric: figure["unit"] for (_, metric), figure in known.items()}
    heads = [f"{metric}, {units[metric]}" if units[metric] else metric for metric in columns]
    lines = [f"| | {' | '.join(heads)} |", f"|---|{'---|' * len(columns)}"]
    for name in names:
        cells = [cell(known[name, metric]) if (name, metric) in known else "" for metric in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(machine.relative(str(write_report(RESULTS, machine.ROOT / "docs"))))
