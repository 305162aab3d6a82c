"""Model versions for people: all of them in a table, and one with what its manifest says."""

from __future__ import annotations

from collections.abc import Iterable

from neurogate.v1 import manifest_pb2
from neurogate_client import ModelVersion, enum_name
from rich.console import Console, Group, RenderableType
from rich.text import Text

from .output import Column, cell, facts, fitting, heading, interval, moment, plain

STATE_STYLES = {"READY": "green", "REJECTED": "red", "RETIRED": "dim"}


def versions_table(console: Console, listed: list[ModelVersion]) -> RenderableType:
    """All versions, newest first, with what is wrong with any below."""
    states = [enum_name(each, "state") for each in listed]
    servers = any(len(each.backends) > 1 for each in listed)
    gates = any(each.HasField("gate") for each in listed)
    manifests = [each.manifest for each in listed]
    metrics = [each.metrics if each.HasField("metrics") else None for each in manifests]
    accuracies = [f"{each.accuracy:.1%}" if each else "" for each in metrics]
    columns = [
        Column("version", [str(each.version) for each in listed], right=True),
        Column("state", [cell(state, STATE_STYLES.get(state, "yellow")) for state in states]),
        Column("servers", [_servers(each) for each in listed] if servers else []),
        Column("labels", [cell(", ".join(each.labels), "cyan") for each in listed]),
        Column("gate", [_gate(each) for each in listed] if gates else []),
        Column("accuracy", accuracies, right=True, rank=1),
        Column("macro F1", [f"{each.macro_f1:.3f}" if each else "" for each in metrics], right=True, rank=2),
        Column("published", [moment(each.created_at, "%Y-%m-%d") for each in manifests], rank=3),
        Column("manifest", [each.manifest_digest[:12] for each in listed], rank=4),
    ]
    return Group(fitting(console, columns), *_reasons(listed))


def _servers(version: ModelVersion) -> Text:
    if not version.backends:
        return Text("-", "dim")
    ready = sum(enum_name(each, "state") == "READY" for each in version.backends)
    return cell(f"{ready}/{len(version.backends)}", "green" if ready == len(version.backends) else "yellow")


def _gate(version: ModelVersion) -> Text:
    if not version.HasField("gate"):
        return Text("-", "dim")
    return Text("accepted", "green") if version.gate.accepted else Text("refused", "red")


def _reasons(listed: Iterable[ModelVersion]) -> Iterable[Text]:
    for each in listed:
        if each.state_reason:
            yield cell(f"version {each.version}: {each.state_reason}", "red")
        if len(each.backends) > 1:
            for at in each.backends:
                if (at.state, at.state_reason) != (each.state, each.state_reason):
                    state = f"{enum_name(at, 'state')} {at.state_reason}".strip()
                    yield cell(f"version {each.version} at {at.address}: {state}", "yellow")
        if each.HasField("gate") and not each.gate.accepted:
            for finding in each.gate.findings:
                if not finding.passed:
                    yield cell(f"version {each.version}, gate: {finding.message or finding.rule}", "yellow")


def detail(version: ModelVersion) -> RenderableType:
    """A version with its manifest."""
    state = enum_name(version, "state")
    known = facts(
        ("model", version.model),
        ("version", str(version.version)),
        ("state", f"{state} {version.state_reason}".strip()),
        ("labels", ", ".join(version.labels) or "none"),
        ("manifest", version.manifest_digest),
    )
    if not version.HasField("manifest"):
        unread = "The manifest has not been read yet."
        missing = "No manifest of it could be read." if state == "REJECTED" else unread
        return Group(known, Text(f"\n{missing}", style="dim"))
    manifest = version.manifest
    parts: list[RenderableType] = [
        known,
        *_quality(manifest),
        *_evidence(manifest),
        *_decisions(manifest),
        *_origin(manifest),
    ]
    if manifest.notice:
        parts += [Text(), cell(manifest.notice, "italic")]
    return Group(*parts)


def _quality(manifest: manifest_pb2.ModelManifest) -> list[RenderableType]:
    metrics = manifest.metrics
    figures = ("images", "precision", "recall", "F1", "ROC-AUC")
    table = plain("class", *figures, right=set(figures))
    names = {each.id: each.display_name for each in manifest.classes}
    for each in metrics.per_class:
        table.add_row(
            cell(names.get(each.class_id, each.class_id)),
            str(each.support),
            *(f"{value:.3f}" for value in (each.precision, each.recall, each.f1, each.roc_auc)),
        )
    return [
        heading(f"Quality on {metrics.support} held-out images"),
        facts(
            ("accuracy", interval(metrics)),
            ("macro F1", f"{metrics.macro_f1:.3f}"),
            ("macro ROC-AUC", f"{metrics.macro_roc_auc:.3f}"),
            ("calibration error", f"{metrics.ece:.3f}"),
            ("out-of-distribution AUROC", f"{metrics.ood_auroc:.3f}"),
        ),
        table,
    ]


def _evidence(manifest: manifest_pb2.ModelManifest) -> list[RenderableType]:
    """Whether the explanations point at the lesion; nothing for a version that was not measured."""
    if not manifest.HasField("localisation"):
        return []
    found = manifest.localisation
    rows = []
    if found.HasField("pointing"):
        places = {
            "brightest spot": found.brightest_spot,
            "head's centre": found.head_centre,
            "centre": found.centre,
        }
        rows = [
            ("points at the lesion", f"{_share(found.pointing)} of {found.support} right answers"),
            ("within the lesion", _share(found.strict)),
            ("share of the map in it", _share(found.energy)),
            ("without a model", ", ".join(f"{name} {each.value:.1%}" for name, each in places.items())),
        ]
        if found.HasField("control"):
            rows.append((f"map of {found.control_class_id}", f"points at it in {_share(found.control)}"))
    changes = f"{_share(found.deletion)} of {found.deletion_support} right answers change"
    rows.append(("strongest 5 % blurred", f"{changes}; random disc {found.random_disc.value:.1%}"))
    parts: list[RenderableType] = [heading("Evidence"), facts(*rows)]
    if found.HasField("pointing") and not found.pointing.value >= found.brightest_spot.value:
        parts.append(Text("It points worse than the brightest spot: do not rely on its maps.", "yellow"))
    return parts


def _share(estimate: manifest_pb2.Estimate) -> str:
    ends = f" ({estimate.low:.1%} to {estimate.high:.1%})" if estimate.HasField("low") else ""
    return f"{estimate.value:.1%}{ends}"


def _decisions(manifest: manifest_pb2.ModelManifest) -> list[RenderableType]:
    limits, spec = manifest.thresholds, manifest.transform
    method = limits.ood_method or "the score"
    outside = (
        f"{method} above {limits.out_of_distribution_above:.4g}"
        if limits.HasField("out_of_distribution_above")
        else "never"
    )
    return [
        heading("Decisions"),
        facts(
            (
                "ABSTAIN",
                f"probability below {limits.abstain_below:.3f} (target risk {limits.target_risk:.1%})",
            ),
            ("OUT_OF_DISTRIBUTION", outside),
            ("temperature", f"{manifest.calibration.temperature:.3f}"),
            ("input", f"{spec.width} x {spec.height}; {', '.join(spec.formats)}; transform {spec.revision}"),
        ),
    ]


def _origin(manifest: manifest_pb2.ModelManifest) -> list[RenderableType]:
    line = manifest.lineage
    parent = (
        [("warm start from", f"version {line.parent_version}")] if line.HasField("parent_version") else []
    )
    # As TOML, where every line break counts; here it is one line of facts.
    lines = [text.strip() for text in line.gate_policy.splitlines() if text.strip()]
    own_policy = [("own gate policy", "; ".join(lines))] if lines else []
    return [
        heading("Origin"),
        facts(
            ("published", f"{moment(manifest.created_at)} UTC"),
            ("run", line.run_id),
            ("data set", f"{line.dataset} {line.dataset_digest[:12]}".strip()),
            (
                "images",
                f"{line.splits.train} training, {line.splits.validation} validation, {line.splits.test} test",
            ),
            ("initial weights", f"{line.base_weights} {line.base_weights_digest[:12]}".strip()),
            *parent,
            *own_policy,
            ("source commit", line.source_commit or "unknown"),
            ("packages", ", ".join(f"{name} {number}" for name, number in sorted(line.packages.items()))),
            (
                "settings",
                ", ".join(f"{name}={value}" for name, value in sorted(line.hyperparameters.items())),
            ),
        ),
    ]
