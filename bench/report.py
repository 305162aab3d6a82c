"""Writes docs/performance.md and its pictures from bench/results/*.json; measures nothing."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from neurogate_bench import machine, plots, results, tables
from neurogate_bench.record import BUSY_LIMIT, FOREIGN_LIMIT, LATE_LIMIT_MS, is_disturbed
from neurogate_bench.results import Result
from neurogate_bench.session import RESULTS, read_scenarios
from neurogate_bench.verdicts import verdict

HERE = Path(__file__).resolve().parent
FINDINGS = HERE / "findings.md"
INTRODUCTION = HERE / "introduction.md"
BACKENDS = {
    "embedded": "the embedded model server (not TensorFlow Serving)",
    "tensorflow-serving": "TensorFlow Serving",
    "null": "a model server that answers constants",
    "none": "no model server",
}


def machine_section(found: dict[str, Result]) -> str:
    """What was measured on, once for each machine and commit among the results."""
    lines = ["## Measured on", ""]
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, result in found.items():
        about, source = result["machine"], result["source"]
        commit = source["commit"][:12] + (" with local changes" if source["modified"] else "")
        flags = ", ".join(about["cpu_flags"])
        hardware = f"{about['cpu_model']}{', virtual' if about['virtual'] else ''} ({flags})"
        cores = f"{about['cores_used']} of {about['cores_present']} cores, {about['memory_gib']} GiB"
        versions = ", ".join(f"{package} {version}" for package, version in result["versions"].items())
        key = (hardware, cores, about["system"], versions, commit, result["started_at"][:10])
        groups.setdefault(key, []).append(name)
    for (hardware, cores, system, versions, commit, date), names in groups.items():
        lines += [
            f"- {', '.join(names)}: {date}, commit {commit}. {hardware}, {cores}, {system}. {versions}."
        ]
    return "\n".join([*lines, ""])


def target_section(found: dict[str, Result]) -> str:
    """All promises in one table."""
    lines = ["## Targets", "", "| | Target | Measured | |", "|---|---|---|---|"]
    for result in found.values():
        for entry in result["targets"]:
            unit = f" {entry['unit']}" if entry["unit"] else ""
            sign = {"<=": "at most", ">=": "at least"}[entry["comparison"]]
            value = "n/a" if math.isnan(entry["value"]) else f"{tables.number(entry['value'])}{unit}"
            if entry["spread"]:
                value += f" ({tables.number(entry['spread'][0])} to {tables.number(entry['spread'][1])})"
            lines.append(
                f"| [{result['title']}](#{tables.anchor(result['title'])}): {entry['name']} "
                f"| {sign} {tables.number(entry['limit'])}{unit} | {value} | {verdict(result, entry)} |"
            )
    return "\n".join([*lines, ""])


def disturbance_sentence(result: Result) -> str:
    """What other programs did meanwhile."""
    others = result["checks"].get("other_programs")
    if not others:
        return f"load average at the start {result['load_average_at_start']:.2f}"
    text = f"other programs took {others['mean']:.0%} of the cores on average, {others['worst']:.0%} at worst"
    if niceness := result["checks"].get("niceness"):
        text += f", and went first (niceness {niceness})"
    return f"**disturbed**: {text}" if is_disturbed(result["checks"]) else text


def scenario_section(result: Result, pictures: list[str]) -> str:
    """One scenario: question, conditions, table, picture."""
    most = max((len(figure["runs"]) for figure in result["figures"]), default=0)
    count = result["settings"].get("runs", most)
    runs = f"{count} run{'s' if count > 1 else ''}"
    lines = [f"## {result['title']}", "", result["question"], ""]
    if result["void"]:
        lines += [f"> **Void:** {'; '.join(result['void'])}.", ""]
    backend = BACKENDS[result["backend"]]
    lines += [f"Backend: {backend}. {runs}; {disturbance_sentence(result)}; {checks_sentence(result)}", ""]
    lines += [tables.pivot(result["figures"]), ""]
    lines += [f"{note}\n" for note in result["notes"]]
    lines += [f"![{result['title']}](images/{picture})\n" for picture in pictures]
    if result["commands"]:
        lines += ["<details><summary>Commands</summary>", ""]
        lines += [f"- {name}: `{command}`" for name, command in sorted(result["commands"].items())]
        lines += ["", "</details>", ""]
    return "\n".join(lines)


def checks_sentence(result: Result) -> str:
    """How many answers were looked at and what was wrong with them."""
    checks = result["checks"]
    answers, requests = checks.get("answers", 0), checks.get("requests", 0)
    if not answers:
        return f"{requests} requests." if requests else "no requests."
    problems = (
        "; ".join(f"{name} {count}" for name, count in checks["problems"].items())
        or "none wrong, none failed"
    )
    return f"{answers} answers to {requests} requests checked: {problems}."


def write_report(folder: Path, docs: Path) -> Path:
    """Writes the page and its pictures and returns the page's path."""
    found = results.load_all(folder)
    order = [*read_scenarios()[1], *sorted(found)]
    found = dict(sorted(found.items(), key=lambda entry: order.index(entry[0])))
    limits = {"limit": f"{FOREIGN_LIMIT:.0%}", "busy": f"{BUSY_LIMIT:.0%}", "late": LATE_LIMIT_MS}
    parts = [INTRODUCTION.read_text().format(**limits)]
    if found:
        parts += [machine_section(found), target_section(found)]
        if picture := plots.draw_targets(found, docs / "images"):
            parts.append(f"![All targets](images/{picture})\n")
    else:
        parts.append("There are no results yet: run `make bench`.\n")
    parts += [scenario_section(result, plots.draw(result, docs / "images")) for result in found.values()]
    if FINDINGS.exists():
        parts.append(FINDINGS.read_text())
    docs.mkdir(parents=True, exist_ok=True)
    page = docs / "performance.md"
    page.write_text("\n".join(parts).rstrip() + "\n")
    return page


def publish(result: Result, arguments: argparse.Namespace) -> None:
    """Saves a result where the tool's arguments say, and makes the page anew unless they say not to."""
    print(machine.relative(str(results.save(result, arguments.results))))
    if not arguments.no_report:
        write_report(arguments.results, machine.ROOT / "docs")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder with the JSON files")
    parser.add_argument("--docs", type=Path, default=machine.ROOT / "docs", help="folder to write to")
    arguments = parser.parse_args()
    print(machine.relative(str(write_report(arguments.results, arguments.docs))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
