"""`neurogate versions`: what the gateway knows of its versions, once or as a live view."""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer
from neurogate.v1 import model_pb2
from neurogate_client import Client, ModelVersion, Release, enum_name
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from neurogate_cli import common
from neurogate_cli.render.output import heading, print_json, print_line, stdout
from neurogate_cli.render.release import foreign_servers, gate_view, guards_table, labels_line
from neurogate_cli.render.versions import detail, versions_table


def versions(
    number: Annotated[
        int | None,
        typer.Argument(metavar="N", min=1, help="Show one version with its manifest.", show_default=False),
    ] = None,
    *,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Stay, and show changes as they happen.")
    ] = False,
    target: common.Target = common.TARGET,
    tls: common.Tls = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON; with --watch one event a line.")] = False,
    timeout: common.Timeout = 10.0,
) -> None:
    """List the model versions that the gateway knows, or show one."""
    if number is not None and watch:
        common.fail("--watch shows all versions; leave out the number", common.EXIT_USAGE)
    console = stdout()
    with common.connected(target, tls, timeout) as client:
        if watch:
            _watch(console, client, as_json)
            return
        if number is not None:
            version = client.get_model_version(number)
            if as_json:
                print_json(console, version)
                return
            console.print(detail(version))
            if version.HasField("gate"):
                console.print(Text())
                console.print(gate_view(version.gate))
            return
        listed = client.list_model_versions()
        foreign = foreign_servers(client.list_model_servers())
    if as_json:
        print_json(console, listed)
        return
    if listed:
        console.print(versions_table(console, listed))
    for line in foreign:
        print_line(console, line)
    if not listed:
        common.fail(
            "the gateway knows no version of its model yet; publish one with `neurogate-trainer train`"
        )


def _watch(console: Console, client: Client, as_json: bool) -> None:
    # Fails at once without a gateway; the watch itself would wait for one.
    client.get_release()
    with contextlib.closing(client.watch_model_versions()) as events:
        if as_json or not console.is_terminal:
            for event in events:
                if as_json:
                    print_json(console, event, indent=None)
                else:
                    console.out(_line(event), highlight=False)
            return
        seen: dict[int, ModelVersion] = {}
        release: Release | None = None
        with Live(console=console, auto_refresh=False) as live:
            for event in events:
                if event.HasField("version"):
                    seen[event.version.version] = event.version
                else:
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


def _line(event: model_pb2.WatchModelVersionsResponse) -> str:
    if event.HasField("release"):
        return labels_line(event.release).plain
    version = event.version
    labels = f" [{', '.join(version.labels)}]" if version.labels else ""
    reason = f": {version.state_reason}" if version.state_reason else ""
    return f"version {version.version} {enum_name(version, 'state')}{labels}{reason}"
