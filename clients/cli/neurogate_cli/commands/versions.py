"""`neurogate versions`: what the gateway knows of its versions, once or as a live view."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Annotated

import typer
from neurogate_client.client import Client
from neurogate_client.results_models import ModelVersion, Release, VersionsEvent, VersionState
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from neurogate_cli.common import (
    DEFAULT_TARGET,
    EXIT_USAGE,
    STATE_STYLES,
    TargetOption,
    TimeoutOption,
    TlsOption,
    cell,
    connected,
    fail,
    stdout,
)
from neurogate_cli.render.json import dumped
from neurogate_cli.render.manifest import detail
from neurogate_cli.render.release import gate_view, guards_table, labels_line, strangers
from neurogate_cli.render.tables import Column, fitting, heading


def versions(
    number: Annotated[
        int | None,
        typer.Argument(metavar="N", min=1, help="Show one version with its manifest.", show_default=False),
    ] = None,
    *,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Stay, and show changes as they happen.")
    ] = False,
    target: TargetOption = DEFAULT_TARGET,
    tls: TlsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON; with --watch one event a line.")] = False,
    timeout: TimeoutOption = 10.0,
) -> None:
    """List the model versions that the gateway knows, or show one."""
    if number is not None and watch:
        fail("--watch shows all versions; leave out the number", EXIT_USAGE)
    console = stdout()
    with connected(target, tls, timeout) as client:
        if watch:
            _watch(console, client, as_json)
            return
        if number is not None:
            version = client.get_model_version(number)
            if as_json:
                console.out(dumped(version), highlight=False)
            else:
                console.print(detail(version))
                if version.gate is not None:
                    console.print(Text())
                    console.print(gate_view(version.gate))
            return
        listed = client.list_model_versions()
        foreign = strangers(client.list_model_servers())
    if as_json:
        console.out(dumped(listed), highlight=False)
        return
    if listed:
        console.print(versions_table(console, listed))
    for line in foreign:
        console.print(line, soft_wrap=True)
    if not listed:
        fail("the gateway knows no version of its model yet; publish one with `neurogate-trainer train`")


def _watch(console: Console, client: Client, as_json: bool) -> None:
    # An answer at once where nobody is there; the watch itself would wait for a gateway to come.
    client.get_release()
    with contextlib.closing(client.watch_model_versions()) as events:
        if as_json or not console.is_terminal:
            for event in events:
                line = dumped(event, indent=None) if as_json else _told(event)
                console.out(line, highlight=False)
            return
        seen: dict[int, ModelVersion] = {}
        release: Release | None = None
        with Live(console=console, auto_refresh=False) as live:
            for event in events:
                if event.version is not None:
                    seen[event.version.version] = event.version
                elif event.release is not None:
                    release = event.release
                listed = [seen[number] for number in sorted(seen, reverse=True)]
                live.update(_page(console, listed, release), refresh=True)


def _page(console: Console, listed: list[ModelVersion], release: Release | None) -> RenderableType:
    parts = [versions_table(console, listed)]
    if release is not None:
        parts = [labels_line(release), Text(), *parts]
        if release.guards:
            parts += [heading("Live guards"), guards_table(release.guards)]
    return Group(*parts, Text("\nCtrl-C ends the view.", "dim"))


def _told(event: VersionsEvent) -> str:
    version, release = event.version, event.release
    if version is not None:
        labels = f" [{', '.join(version.labels)}]" if version.labels else ""
        reason = f": {version.state_reason}" if version.state_reason else ""
        return f"version {version.version} {version.state.value}{labels}{reason}"
    return labels_line(release).plain if release is not None else ""


def versions_table(console: Console, listed: list[ModelVersion]) -> RenderableType:
    """All versions, newest first, with what is wrong with any below."""
    servers = any(len(each.backends) > 1 for each in listed)
    manifests = [each.manifest for each in listed]
    metrics = [each.metrics if each and each.HasField("metrics") else None for each in manifests]
    table = fitting(
        console,
        [
            Column("version", [str(each.version) for each in listed], right=True),
            Column(
                "state", [cell(each.state.value, STATE_STYLES.get(each.state, "yellow")) for each in listed]
            ),
            Column("servers", [_servers(each) for each in listed] if servers else []),
            Column("labels", [cell(", ".join(each.labels), "cyan") for each in listed]),
            Column("gate", [_gate(each) for each in listed] if any(each.gate for each in listed) else []),
            Column(
                "accuracy", [f"{each.accuracy:.1%}" if each else "" for each in metrics], right=True, rank=1
            ),
            Column(
                "macro F1", [f"{each.macro_f1:.3f}" if each else "" for each in metrics], right=True, rank=2
            ),
            Column(
                "published",
                [f"{each.created_at.ToDatetime():%Y-%m-%d}" if each else "" for each in manifests],
                rank=3,
            ),
            Column("manifest", [each.manifest_digest[:12] for each in listed], rank=4),
        ],
    )
    return Group(table, *_reasons(listed))


def _servers(version: ModelVersion) -> Text:
    if not version.backends:
        return Text("-", "dim")
    ready = sum(each.state is VersionState.READY for each in version.backends)
    return cell(f"{ready}/{len(version.backends)}", "green" if ready == len(version.backends) else "yellow")


def _gate(version: ModelVersion) -> Text:
    if version.gate is None:
        return Text("-", "dim")
    return Text("accepted", "green") if version.gate.accepted else Text("refused", "red")


def _reasons(listed: Iterable[ModelVersion]) -> Iterable[Text]:
    for each in listed:
        if each.state_reason:
            yield cell(f"version {each.version}: {each.state_reason}", "red")
        if len(each.backends) > 1:
            for backend in each.backends:
                if backend.state is not each.state or backend.state_reason != each.state_reason:
                    told = f"{backend.state.value} {backend.state_reason}".strip()
                    yield cell(f"version {each.version} at {backend.address}: {told}", "yellow")
        if each.gate is not None and not each.gate.accepted:
            for finding in each.gate.broken:
                yield cell(f"version {each.version}, gate: {finding.message or finding.rule}", "yellow")
