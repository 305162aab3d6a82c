"""`neurogate release | promote | rollback | canary | shadow`: which version callers get."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer
from neurogate.v1 import model_pb2
from neurogate_client import Release, enum_name
from neurogate_client.errors import GateRefusedError
from rich.console import Console
from rich.text import Text

from neurogate_cli import common
from neurogate_cli.render.output import cell, own_name, print_json, print_line, stderr, stdout
from neurogate_cli.render.release import gate_view, labels_line, release_view, shadow_view

OFF = "off"

Changed: TypeAlias = (
    model_pb2.PromoteModelVersionResponse
    | model_pb2.RollbackModelResponse
    | model_pb2.SetTrafficSplitResponse
)


def release(
    *,
    changes: Annotated[
        int, typer.Option("--changes", min=0, max=1000, metavar="N", help="How many past changes to show.")
    ] = 5,
    target: common.Target = common.TARGET,
    tls: common.Tls = None,
    as_json: common.Json = False,
    timeout: common.Timeout = 10.0,
) -> None:
    """Show which version each label means, split, guards, shadow, and the last changes."""
    console = stdout()
    with common.connected(target, tls, timeout) as client:
        now = client.get_release()
        past = client.list_release_changes(limit=changes) if changes else []
    if as_json:
        print_json(console, {"release": now, "changes": past})
    else:
        console.print(release_view(console, now, past))


def promote(
    version: Annotated[int, typer.Argument(metavar="VERSION", min=1, help="Version to make stable.")],
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Although the gate refuses; wants --reason.")
    ] = False,
    reason: common.Reason = "",
    target: common.Target = common.TARGET,
    tls: common.Tls = None,
    as_json: common.Json = False,
    timeout: common.Timeout = 600.0,
) -> None:
    """Make a version stable, if the gate accepts it, and show what the gate found."""
    if force and not reason:
        common.fail("--force wants a --reason; both go into the audit record", common.EXIT_USAGE)
    console = stdout()
    with common.connected(target, tls, timeout) as client:
        try:
            done = client.promote(version, reason=reason, force=force)
        except GateRefusedError as error:
            # The message has the findings too; a report that accepts is of another judgement.
            refusal = error.message
            seen = model_pb2.ModelVersion() if as_json else client.get_model_version(version)
            if seen.HasField("gate") and not seen.gate.accepted:
                console.print(gate_view(seen.gate))
                refusal = f"the gate refuses version {version}"
            common.fail(f"{refusal}\n--force with a --reason overrules it.")
    if not as_json and done.change.HasField("gate"):
        console.print(gate_view(done.change.gate))
        console.print()
    _show(console, done, as_json)
    if not as_json and done.HasField("change") and "previous" in done.release.labels:
        print_line(console, f"`{own_name()} rollback` goes back.", "dim")


def rollback(
    *,
    reason: common.Reason = "",
    target: common.Target = common.TARGET,
    tls: common.Tls = None,
    as_json: common.Json = False,
    timeout: common.Timeout = 30.0,
) -> None:
    """Make the previous version stable again, at once."""
    console = stdout()
    with common.connected(target, tls, timeout) as client:
        # Of the release as it is now: of two at the same moment, the second must not undo the first.
        done = client.rollback(reason=reason, etag=client.get_release().etag)
    _show(console, done, as_json)


def canary(
    share: Annotated[str, typer.Argument(metavar="SHARE|off", help="E.g. 10%, or off.")],
    version: Annotated[
        int | None,
        typer.Argument(
            metavar="VERSION", min=1, help="By default the canary, else the candidate.", show_default=False
        ),
    ] = None,
    *,
    reason: common.Reason = "",
    target: common.Target = common.TARGET,
    tls: common.Tls = None,
    as_json: common.Json = False,
    timeout: common.Timeout = 30.0,
) -> None:
    """Give a share of stable's callers another version, or none any more; the shadow stays as it is."""
    percent = _percent(share)
    if not percent and version is not None:
        common.fail("`canary off` takes no version", common.EXIT_USAGE)
    console = stdout()
    with common.connected(target, tls, timeout) as client:
        now = client.get_release()
        done = client.set_traffic_split(
            canary_version=(version or _candidate(now, share)) if percent else 0,
            canary_percent=percent,
            shadow_version=now.labels.get("shadow", 0),
            etag=now.etag,
            reason=reason,
        )
    _show(console, done, as_json)


def shadow(
    version: Annotated[
        str,
        typer.Argument(metavar="[VERSION|off]", help="Nothing shows what it has seen.", show_default=False),
    ] = "",
    *,
    reason: common.Reason = "",
    target: common.Target = common.TARGET,
    tls: common.Tls = None,
    as_json: common.Json = False,
    timeout: common.Timeout = 30.0,
) -> None:
    """Send copies of the traffic to a version and compare; without a version, show how often both agree."""
    if version not in {"", OFF} and not (version.isascii() and version.isdigit() and int(version) > 0):
        common.fail(f"{version!r} is neither a version number nor {OFF}", common.EXIT_USAGE)
    console, name = stdout(), own_name()
    with common.connected(target, tls, timeout) as client:
        now = client.get_release()
        seen = now.shadow if now.HasField("shadow") else None
        if not version:
            if as_json:
                print_json(console, seen)
            elif seen is None:
                print_line(stderr(), f"no shadow; `{name} shadow VERSION` sets one")
                raise typer.Exit(common.EXIT_FAILED)
            else:
                console.print(shadow_view(seen))
            return
        done = client.set_traffic_split(
            canary_version=now.labels.get("canary", 0),
            canary_percent=now.canary_percent if "canary" in now.labels else 0.0,
            shadow_version=0 if version == OFF else int(version),
            etag=now.etag,
            reason=reason,
        )
    if version == OFF and seen is not None and not as_json:
        # What it has seen goes with it.
        console.print(shadow_view(seen))
        console.print()
    _show(console, done, as_json)
    if version != OFF and not as_json:
        print_line(console, f"`{name} shadow` shows how often both agree.", "dim")


def _percent(share: str) -> float:
    """The share in percent; 0 for "off"."""
    if share == OFF:
        return 0.0
    try:
        percent = float(share.removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not 0 < percent <= 100:
        common.fail(f"{share!r} is neither a share above 0 to 100% nor {OFF}", common.EXIT_USAGE)
    return percent


def _candidate(now: Release, share: str) -> int:
    """The version of a canary without a number: the canary or the candidate, never a former stable one."""
    found = now.labels.get("canary") or now.labels.get("candidate")
    if not found:
        name = own_name()
        common.fail(f"there is no candidate; name the version, as in `{name} canary {share} VERSION`")
    return found


def _show(console: Console, done: Changed, as_json: bool) -> None:
    if as_json:
        print_json(console, done)
        return
    if not done.HasField("change"):
        print_line(console, "nothing to do: it is so already", "bold")
    else:
        change = done.change
        before, after = change.labels_before, change.labels_after
        moved = [
            f"{name} {before.get(name, '-')} → {after.get(name, '-')}"
            for name in ("stable", "previous", "canary", "shadow")
            if before.get(name) != after.get(name)
        ]
        what = cell(enum_name(change, "action").replace("_", " ").lower(), "bold")
        text = Text.assemble(what, ": ", cell(", ".join(moved) or "no label moved"))
        print_line(console, text.append("  forced", "yellow") if change.forced else text)
    print_line(console, labels_line(done.release))
