"""`neurogate retrain` and `neurogate runs`: new versions from new examples."""

from __future__ import annotations

import enum
import time
from pathlib import Path
from typing import Annotated, Final

import typer
from neurogate_client import Client, ExampleFilter, Retraining, enum_name
from rich.console import Console, RenderableType

from neurogate_cli import common
from neurogate_cli.render.follow import ENDED, STATE_STYLES, follow, print_end
from neurogate_cli.render.output import (
    Column,
    cell,
    duration,
    fitting,
    moment,
    own_name,
    print_json,
    print_line,
    stderr,
    stdout,
)

_LARGEST_POLICY: Final = 1 << 14
"""Bytes: the gateway takes 4096 characters, each of at most four."""


class State(enum.StrEnum):
    """Where a retraining stands, as `--state` takes it."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    EVALUATING = "EVALUATING"
    PUBLISHING = "PUBLISHING"
    SUCCEEDED = "SUCCEEDED"
    REFUSED = "REFUSED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


RunId = Annotated[str, typer.Argument(metavar="ID", help="Identifier of the retraining.")]

runs_app = typer.Typer(
    help="List retrainings; watch or cancel one.",
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def retrain(
    *,
    warm_start: Annotated[
        int | None,
        typer.Option(
            "--from",
            min=1,
            metavar="VERSION",
            help="Start from a version's weights; default: stable's.",
            show_default=False,
        ),
    ] = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Or start from the initial weights, as a first training.")
    ] = False,
    class_ids: Annotated[
        list[str] | None,
        typer.Option("--class", metavar="CLASS", help="Only examples of this class; may be repeated."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A hyper-parameter; may be repeated."),
    ] = None,
    launcher: Annotated[
        str,
        typer.Option(
            "--launcher", metavar="NAME", help="local or ray; default: the gateway's.", show_default=False
        ),
    ] = "",
    promote: Annotated[
        bool, typer.Option("--promote", help="Make the version stable at once if the gate accepts it.")
    ] = False,
    gate_policy: Annotated[
        Path | None,
        typer.Option(
            "--gate-policy",
            metavar="TOML",
            help="What the gate asks of this version beside the gateway's own policy.",
            show_default=False,
        ),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Start it and return.")] = False,
    request_id: Annotated[
        str,
        typer.Option(
            "--request-id",
            metavar="ID",
            help="A repeat with the same one starts nothing new.",
            show_default=False,
        ),
    ] = "",
    target: common.Target = common.TARGET,
    tls: common.Tls = None,
    as_json: common.JsonLines = False,
    timeout: common.Timeout = 30.0,
) -> None:
    """Train a new version from the examples and follow it; Ctrl-C ends the view, not the retraining.

    Exit status: 0 for a version that the gate accepts, 1 for any other end.
    """
    if warm_start is not None and from_scratch:
        common.fail("--from and --from-scratch exclude each other", common.EXIT_USAGE)
    hyperparameters = _settings(settings or [])
    own_policy = _policy(gate_policy) if gate_policy is not None else ""
    console = stdout()
    with common.connected(target, tls, timeout) as client:
        run = client.start_retraining(
            warm_start_version=None
            if from_scratch
            else warm_start or client.get_release().labels.get("stable"),
            from_scratch=from_scratch,
            examples=ExampleFilter(class_ids=class_ids) if class_ids else None,
            hyperparameters=hyperparameters,
            launcher=launcher,
            promote=promote,
            gate_policy=own_policy,
            request_id=request_id,
        )
        if detach:
            if as_json:
                print_json(console, run)
            else:
                print_line(console, run.retraining_id)
                print_line(stderr(), _how_to_go_on(run.retraining_id), "dim")
            return
        _follow(client, run, console, as_json)


@runs_app.callback()
def runs(
    context: typer.Context,
    *,
    state: Annotated[
        State | None,
        typer.Option("--state", case_sensitive=False, help="Only those in this state.", show_default=False),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=10_000, metavar="N", help="At most so many.")
    ] = 20,
    target: common.Target = common.TARGET,
    tls: common.Tls = None,
    as_json: common.Json = False,
    timeout: common.Timeout = 10.0,
) -> None:
    """List retrainings, newest first; watch or cancel one."""
    if context.invoked_subcommand is not None:
        return
    console = stdout()
    with common.connected(target, tls, timeout) as client:
        wanted = f"RETRAINING_STATE_{state}" if state else None
        listed = client.list_retrainings(state=wanted, limit=limit)
    if as_json:
        print_json(console, listed)
    elif not listed:
        print_line(stderr(), f"no retrainings; `{own_name()} retrain` starts one")
    else:
        console.print(_table(console, listed))


@runs_app.command("watch")
def watch(
    run_id: RunId,
    *,
    target: common.Target = common.TARGET,
    tls: common.Tls = None,
    as_json: common.JsonLines = False,
    timeout: common.Timeout = 10.0,
) -> None:
    """Follow a retraining from its beginning; Ctrl-C ends the view, not the retraining."""
    console = stdout()
    with common.connected(target, tls, timeout) as client:
        _follow(client, client.get_retraining(run_id), console, as_json)


@runs_app.command("cancel")
def cancel(
    run_id: RunId,
    *,
    reason: common.Reason = "",
    target: common.Target = common.TARGET,
    tls: common.Tls = None,
    as_json: common.Json = False,
    timeout: common.Timeout = 30.0,
) -> None:
    """End a retraining that has not ended."""
    console = stdout()
    with common.connected(target, tls, timeout) as client:
        run = client.cancel_retraining(run_id, reason=reason)
    if as_json:
        print_json(console, run)
    else:
        state = enum_name(run, "state")
        what = state if state in ENDED else f"is being ended (now {state})"
        print_line(console, f"retraining {run.retraining_id} {what}")


def _follow(client: Client, run: Retraining, console: Console, as_json: bool) -> None:
    if not as_json:
        examples = ", ".join(f"{count} {name}" for name, count in sorted(run.examples_by_class.items()))
        learned = f" with {examples}" if examples else ""
        print_line(console, f"retraining {run.retraining_id} from {_base(run)}{learned}")
    try:
        run = follow(client, run.retraining_id, console, as_json=as_json)
    except KeyboardInterrupt:
        print_line(stderr(), "")
        print_line(stderr(), f"The retraining goes on. {_how_to_go_on(run.retraining_id)}", "yellow")
        raise typer.Exit(common.EXIT_INTERRUPTED) from None
    if not as_json:
        print_end(console, run)
    if enum_name(run, "state") != "SUCCEEDED":
        raise typer.Exit(common.EXIT_FAILED)


def _how_to_go_on(run_id: str) -> str:
    name = own_name()
    return f"`{name} runs watch {run_id}` follows it, `{name} runs cancel {run_id}` ends it."


def _settings(given: list[str]) -> dict[str, str]:
    result = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            common.fail(f"--set {text}: expected NAME=VALUE", common.EXIT_USAGE)
        result[name] = value
    return result


def _policy(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_POLICY + 1)
        text = content.decode() if len(content) <= _LARGEST_POLICY else ""
    except OSError as error:
        common.fail(f"cannot read the gate policy {path}: {error.strerror}", common.EXIT_USAGE)
    except UnicodeDecodeError:
        common.fail(f"the gate policy {path} is no text in UTF-8", common.EXIT_USAGE)
    if len(content) > _LARGEST_POLICY:
        common.fail(
            f"the gate policy {path} is too long; at most 4096 characters are accepted", common.EXIT_USAGE
        )
    if not text.strip():
        common.fail(f"the gate policy {path} is empty; expected a table [gate]", common.EXIT_USAGE)
    return text


def _base(run: Retraining) -> str:
    warm = run.spec.WhichOneof("base") == "warm_start_version"
    return f"version {run.spec.warm_start_version}" if warm else "initial weights"


def _table(console: Console, listed: list[Retraining]) -> RenderableType:
    states = [enum_name(each, "state") for each in listed]
    examples = [str(sum(each.examples_by_class.values())) for each in listed]
    columns = [
        Column("id", [each.retraining_id for each in listed]),
        Column("state", [cell(state, STATE_STYLES.get(state, "")) for state in states]),
        Column("version", [str(each.version or "") for each in listed], right=True),
        Column("accuracy", [_accuracy(each) for each in listed], right=True, rank=1),
        Column("took", [_took(each) for each in listed], right=True, rank=2),
        Column("from", [_base(each) for each in listed], rank=3),
        Column("examples", examples, right=True, rank=4),
        Column("queued (UTC)", [moment(each.create_time) for each in listed], rank=5),
        Column("by", [each.actor for each in listed], rank=6),
    ]
    return fitting(console, columns)


def _accuracy(run: Retraining) -> str:
    return f"{run.gate.candidate.accuracy:.1%}" if run.gate.HasField("candidate") else ""


def _took(run: Retraining) -> str:
    if not run.HasField("start_time"):
        return ""
    end = run.end_time.seconds if run.HasField("end_time") else time.time()
    return duration(end - run.start_time.seconds)
