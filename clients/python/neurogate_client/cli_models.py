"""`neurogate versions` and `neurogate health`: what the gateway knows and how it is."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict
from neurogate.v1 import manifest_pb2
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from neurogate_client.cli_common import (
    DEFAULT_TARGET,
    EXIT_FAILED,
    STATE_STYLES,
    TargetOption,
    TimeoutOption,
    TlsOption,
    cell,
    connected,
    fail,
    stdout,
)
from neurogate_client.results import HealthStatus
from neurogate_client.results_models import ModelVersion

SERVICES = ("", "neurogate.v1.ClassificationService", "neurogate.v1.ModelService")


def versions(
    number: Annotated[
        int | None,
        typer.Argument(metavar="N", min=1, help="Show one version with its manifest.", show_default=False),
    ] = None,
    target: TargetOption = DEFAULT_TARGET,
    tls: TlsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    timeout: TimeoutOption = 10.0,
) -> None:
    """List the model versions that the gateway knows, or show one."""
    console = stdout()
    with connected(target, tls, timeout) as client:
        if number is not None:
            version = client.get_model_version(number)
            if as_json:
                console.out(json.dumps(_document(version), indent=2), highlight=False)
            else:
                console.print(_detail(version))
            return
        listed = client.list_model_versions()
    if as_json:
        console.out(json.dumps([_document(each) for each in listed], indent=2), highlight=False)
    elif not listed:
        fail("the gateway knows no version of its model yet; publish one with `neurogate-trainer train`")
    else:
        console.print(_table(listed))


def health(
    target: TargetOption = DEFAULT_TARGET, tls: TlsOption = None, timeout: TimeoutOption = 5.0
) -> None:
    """Tell whether the gateway takes work: exit status 0 if so, 1 if not, 3 if it cannot be asked."""
    console = stdout()
    with connected(target, tls, timeout) as client:
        states = [client.health(each) for each in SERVICES]
    for state in states:
        style = "green" if state.serving else "red"
        console.print(
            Text.assemble((f"{state.status.value:15}", style), state.service or f"gateway at {target}")
        )
    if states[0].status is not HealthStatus.SERVING:
        raise typer.Exit(EXIT_FAILED)


def _document(version: ModelVersion) -> dict[str, Any]:
    manifest = None
    if version.manifest is not None:
        manifest = MessageToDict(version.manifest, preserving_proto_field_name=True)
        for golden in manifest.get("goldens", ()):
            # Encoded pictures are of no use in JSON for people and scripts; their digests stay.
            golden.pop("image", None)
    return {
        "model": version.model,
        "version": version.version,
        "state": version.state.value,
        "state_reason": version.state_reason,
        "state_time": version.state_time.isoformat() if version.state_time else None,
        "labels": list(version.labels),
        "manifest_digest": version.manifest_digest,
        "manifest": manifest,
    }


def _table(listed: list[ModelVersion]) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("version", "state", "labels", "accuracy", "macro F1", "published", "manifest"):
        table.add_column(
            name, justify="right" if name in {"version", "accuracy", "macro F1"} else "left", no_wrap=True
        )
    for each in listed:
        manifest = each.manifest
        measured = manifest is not None and manifest.HasField("metrics")
        table.add_row(
            str(each.version),
            cell(each.state.value, STATE_STYLES.get(each.state, "yellow")),
            cell(", ".join(each.labels), "cyan"),
            f"{manifest.metrics.accuracy:.1%}" if manifest and measured else "",
            f"{manifest.metrics.macro_f1:.3f}" if manifest and measured else "",
            f"{manifest.created_at.ToDatetime():%Y-%m-%d}" if manifest else "",
            each.manifest_digest[:12],
        )
    reasons = [
        cell(f"version {each.version}: {each.state_reason}", "red") for each in listed if each.state_reason
    ]
    return Group(table, *reasons)


def _detail(version: ModelVersion) -> RenderableType:
    facts = _facts(
        ("model", version.model),
        ("version", str(version.version)),
        ("state", f"{version.state.value} {version.state_reason}".strip()),
        ("labels", ", ".join(version.labels) or "none"),
        ("manifest", version.manifest_digest),
    )
    if version.manifest is None:
        return Group(facts, Text("\nThe manifest has not been read yet.", style="dim"))
    manifest = version.manifest
    parts: list[RenderableType] = [facts, *_quality(manifest), *_decisions(manifest), *_origin(manifest)]
    if manifest.notice:
        parts += [Text(), cell(manifest.notice, "italic")]
    return Group(*parts)


def _quality(manifest: manifest_pb2.ModelManifest) -> list[RenderableType]:
    metrics = manifest.metrics
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("class", "images", "precision", "recall", "F1", "ROC-AUC"):
        table.add_column(name, justify="left" if name == "class" else "right")
    names = {each.id: each.display_name for each in manifest.classes}
    for each in metrics.per_class:
        table.add_row(
            cell(names.get(each.class_id, each.class_id)),
            str(each.support),
            *(f"{value:.3f}" for value in (each.precision, each.recall, each.f1, each.roc_auc)),
        )
    return [
        _heading(f"Quality on {metrics.support} held-out images"),
        _facts(
            (
                "accuracy",
                interval(metrics),
            ),
            ("macro F1", f"{metrics.macro_f1:.3f}"),
            ("macro ROC-AUC", f"{metrics.macro_roc_auc:.3f}"),
            ("calibration error", f"{metrics.ece:.3f}"),
            ("out-of-distribution AUROC", f"{metrics.ood_auroc:.3f}"),
        ),
        table,
    ]


def _decisions(manifest: manifest_pb2.ModelManifest) -> list[RenderableType]:
    limits, spec = manifest.thresholds, manifest.transform
    method = limits.ood_method or "the score"
    outside = (
        f"{method} above {limits.out_of_distribution_above:.4g}"
        if limits.HasField("out_of_distribution_above")
        else "never"
    )
    return [
        _heading("Decisions"),
        _facts(
            (
                "ABSTAIN",
                f"probability below {limits.abstain_below:.3f} (target risk {limits.target_risk:.1%})",
            ),
            ("OUT_OF_DISTRIBUTION", outside),
            ("temperature", f"{manifest.calibration.temperature:.3f}"),
            (
                "input",
                f"{spec.width} x {spec.height}; {', '.join(spec.formats)}; transform {spec.revision}",
            ),
        ),
    ]


def _origin(manifest: manifest_pb2.ModelManifest) -> list[RenderableType]:
    line = manifest.lineage
    parent = (
        [("warm start from", f"version {line.parent_version}")] if line.HasField("parent_version") else []
    )
    return [
        _heading("Origin"),
        _facts(
            ("published", f"{manifest.created_at.ToDatetime():%Y-%m-%d %H:%M:%S} UTC"),
            ("run", line.run_id),
            ("data set", f"{line.dataset} {line.dataset_digest[:12]}".strip()),
            (
                "images",
                f"{line.splits.train} training, {line.splits.validation} validation, {line.splits.test} test",
            ),
            ("initial weights", f"{line.base_weights} {line.base_weights_digest[:12]}".strip()),
            *parent,
            ("source commit", line.source_commit or "unknown"),
            ("packages", ", ".join(f"{name} {number}" for name, number in sorted(line.packages.items()))),
            (
                "settings",
                ", ".join(f"{name}={value}" for name, value in sorted(line.hyperparameters.items())),
            ),
        ),
    ]


def interval(metrics: manifest_pb2.EvaluationMetrics) -> str:
    """An accuracy with its interval, for people."""
    low, high = metrics.accuracy_ci_low, metrics.accuracy_ci_high
    return f"{metrics.accuracy:.1%} (95 % interval {low:.1%} to {high:.1%})"


def _heading(text: str) -> Text:
    return Text(f"\n{text}", style="bold")


def _facts(*facts: tuple[str, str]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(name, cell(value))
    return table
