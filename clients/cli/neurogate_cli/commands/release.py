"""`neurogate release | promote | rollback | canary | shadow`: which version callers get."""

from __future__ import annotations

from typing import Annotated

import typer
from neurogate_client.errors import GateRefusedError
from neurogate_client.results_models import ChangedRelease, Release
from rich.console import Console
from rich.text import Text

from neurogate_cli.common import (
    DEFAULT_TARGET,
    EXIT_FAILED,
    EXIT_USAGE,
    TargetOption,
    TimeoutOption,
    TlsOption,
    cell,
    connected,
    fail,
    own_name,
    stderr,
    stdout,
)
from neurogate_cli.render.json import dumped
from neurogate_cli.render.release import gate_view, labels_line, release_view, shadow_view

OFF = "off"

ReasonOption = Annotated[
    str, typer.Option("--reason", "-m", metavar="TEXT", help="Why, for the audit record.", show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="As JSON.")]


def release(
    *,
    changes: Annotated[
        int, typer.Option("--changes", min=0, max=1000, metavar="N", help="How many past changes to show.")
    ] = 5,
    target: TargetOption = DEFAULT_TARGET,
    tls: TlsOption = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Show which version each label means, split, guards, shadow, and the last changes."""
    console = stdout()
    with connected(target, tls, timeout) as client:
        now = client.get_release()
        past = client.list_release_changes(limit=changes) if changes else []
    if as_json:
        console.out(dumped({"release": now, "changes": past}), highlight=False)
    else:
        console.print(release_view(console, now, past))


def promote(
    version: Annotated[int, typer.Argument(metavar="VERSION", min=1, help="Version to make stable.")],
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Although the gate refuses; wants --reason.")
    ] = False,
    reason: ReasonOption = "",
    target: TargetOption = DEFAULT_TARGET,
    tls: TlsOption = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 600.0,
) -> None:
    """Make a version stable, if the gate accepts it, and show what the gate found."""
    if force and not reason:
        fail("--force wants a --reason; both go into the audit record", EXIT_USAGE)
    console = stdout()
    with connected(target, tls, timeout) as client:
        try:
            done = client.promote(version, reason=reason, force=force)
        except GateRefusedError as error:
            report = None if as_json else client.get_model_version(version).gate
            if report is not None and report.accepted:
                # Of another judgement: it does not say what was refused.
                report = None
            if report is not None:
                console.print(gate_view(report))
            # The message has the findings too.
            refusal = error.message if report is None else f"the gate refuses version {version}"
            fail(f"{refusal}\n--force with a --reason overrules it.")
    if as_json:
        console.out(dumped(done), highlight=False)
        return
    if done.change is not None and done.change.gate is not None:
        console.print(gate_view(done.change.gate))
        console.print()
    _tell(console, done)
    if done.change is not None and "previous" in done.release.labels:
        console.print(f"`{own_name()} rollback` goes back.", style="dim", markup=False)


def rollback(
    *,
    reason: ReasonOption = "",
    target: TargetOption = DEFAULT_TARGET,
    tls: TlsOption = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 30.0,
) -> None:
    """Make the previous version stable again, at once."""
    console = stdout()
    with connected(target, tls, timeout) as client:
        # Of the release as it is now: of two at the same moment, the second must not undo the first.
        done = client.rollback(reason=reason, etag=client.get_release().etag)
    if as_json:
        console.out(dumped(done), highlight=False)
    else:
        _tell(console, done)


def canary(
    share: Annotated[str, typer.Argument(metavar="SHARE|off", help="E.g. 10%, or off.")],
    version: Annotated[
        int | None,
        typer.Argument(
            metavar="VERSION", min=1, help="By default the canary, else the candidate.", show_default=False
        ),
    ] = None,
    *,
    reason: ReasonOption = "",
    target: TargetOption = DEFAULT_TARGET,
    tls: TlsOption = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 30.0,
) -> None:
    """Give a share of stable's callers another version, or none any more; the shadow stays as it is."""
    percent = _percent(share)
    if percent is None and version is not None:
        fail("`canary off` takes no version", EXIT_USAGE)
    console = stdout()
    with connected(target, tls, timeout) as client:
        now = client.get_release()
        chosen = 0 if percent is None else version or _candidate(now, share)
        done = client.set_traffic_split(
            canary_version=chosen,
            canary_percent=percent or 0.0,
            shadow_version=now.labels.get("shadow", 0),
            etag=now.etag,
            reason=reason,
        )
    if as_json:
        console.out(dumped(done), highlight=False)
    else:
        _tell(console, done)


def shadow(
    version: Annotated[
        str,
        typer.Argument(metavar="[VERSION|off]", help="Nothing shows what it has seen.", show_default=False),
    ] = "",
    *,
    reason: ReasonOption = "",
    target: TargetOption = DEFAULT_TARGET,
    tls: TlsOption = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 30.0,
) -> None:
    """Send copies of the traffic to a version and compare; without a version, show how often both agree."""
    if version not in {"", OFF} and not (version.isascii() and version.isdigit() and int(version) > 0):
        fail(f"{version!r} is neither a version number nor {OFF}", EXIT_USAGE)
    console = stdout()
    with connected(target, tls, timeout) as client:
        now = client.get_release()
        if not version:
            if as_json:
                console.out(dumped(now.shadow), highlight=False)
            elif now.shadow is None:
                stderr().print(f"no shadow; `{own_name()} shadow VERSION` sets one", markup=False)
                raise typer.Exit(EXIT_FAILED)
            else:
                console.print(shadow_view(now.shadow))
            return
        done = client.set_traffic_split(
            canary_version=now.labels.get("canary", 0),
            canary_percent=now.canary_percent if "canary" in now.labels else 0.0,
            shadow_version=0 if version == OFF else int(version),
            etag=now.etag,
            reason=reason,
        )
    if as_json:
        console.out(dumped(done), highlight=False)
        return
    if version == OFF and now.shadow is not None:
        # What it has seen goes with it.
        console.print(shadow_view(now.shadow))
        console.print()
    _tell(console, done)
    if version != OFF:
        console.print(f"`{own_name()} shadow` shows how often both agree.", style="dim", markup=False)


def _percent(share: str) -> float | None:
    if share == OFF:
        return None
    try:
        percent = float(share.removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not 0 < percent <= 100:
        fail(f"{share!r} is neither a share above 0 to 100% nor {OFF}", EXIT_USAGE)
    return percent


def _candidate(now: Release, share: str) -> int:
    """The version that a canary means where nobody named one; never one that callers were taken from."""
    found = now.labels.get("canary") or now.labels.get("candidate")
    if found is None:
        fail(f"there is no candidate; name the version, as in `{own_name()} canary {share} VERSION`")
    return found


def _tell(console: Console, done: ChangedRelease) -> None:
    change = done.change
    if change is None:
        console.print("nothing to do: it is so already", style="bold")
        console.print(labels_line(done.release), soft_wrap=True)
        return
    moved = [
        f"{name} {change.labels_before.get(name, '-')} → {change.labels_after.get(name, '-')}"
        for name in ("stable", "previous", "canary", "shadow")
        if change.labels_before.get(name) != change.labels_after.get(name)
    ]
    what = cell(change.action.value.replace("_", " ").lower(), "bold")
    text = Text.assemble(what, ": ", cell(", ".join(moved) or "no label moved"))
    if change.forced:
        text.append("  forced", "yellow")
    console.print(text, soft_wrap=True)
    console.print(labels_line(done.release), soft_wrap=True)
