"""`neurogate retrain` and `neurogate runs`: new versions from new examples."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer
from neurogate_client.client import Client
from neurogate_client.results_training import ExampleFilter, Retraining, RetrainingState
from rich.console import Console
from rich.text import Text

from neurogate_cli.common import (
    DEFAULT_TARGET,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
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
from neurogate_cli.render.follow import STATE_STYLES, follow, tell_end
from neurogate_cli.render.json import dumped
from neurogate_cli.render.tables import Column, duration, fitting, moment

_LARGEST_POLICY: Final = 1 << 14
"""Bytes: the gateway takes 4096 characters, each of at most four."""

JsonOption = Annotated[bool, typer.Option("--json", help="As JSON; what is followed, one event a line.")]
RunArgument = Annotated[str, typer.Argument(metavar="ID", help="Identifier of the retraining.")]

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
    target: TargetOption = DEFAULT_TARGET,
    tls: TlsOption = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 30.0,
) -> None:
    """Train a new version from the examples and follow it; Ctrl-C ends the view, not the retraining.

    Exit status: 0 for a version that the gate accepts, 1 for any other end.
    """
    if warm_start is not None and from_scratch:
        fail("--from and --from-scratch exclude each other", EXIT_USAGE)
    hyperparameters = _settings(settings or [])
    own_policy = _policy(gate_policy) if gate_policy is not None else ""
    console = stdout()
    with connected(target, tls, timeout) as client:
        run = client.start_retraining(
            warm_start_version=None if from_scratch else warm_start or client.get_release().stable,
            from_scratch=from_scratch,
            examples=ExampleFilter(class_ids=tuple(class_ids)) if class_ids else None,
            hyperparameters=hyperparameters,
            launcher=launcher,
            promote=promote,
            gate_policy=own_policy,
            request_id=request_id,
        )
        if detach:
            if as_json:
                console.out(dumped(run), highlight=False)
            else:
                console.print(cell(run.retraining_id))
                stderr().print(_how_to_go_on(run.retraining_id), soft_wrap=True, style="dim")
            return
        if not as_json:
            console.print(_begun(run), soft_wrap=True)
        _follow(client, run.retraining_id, console, as_json)


@runs_app.callback()
def runs(
    context: typer.Context,
    *,
    state: Annotated[
        RetrainingState | None,
        typer.Option("--state", case_sensitive=False, help="Only those in this state.", show_default=False),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=10_000, metavar="N", help="At most so many.")
    ] = 20,
    target: TargetOption = DEFAULT_TARGET,
    tls: TlsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    timeout: TimeoutOption = 10.0,
) -> None:
    """List retrainings, newest first; watch or cancel one."""
    if context.invoked_subcommand is not None:
        return
    console = stdout()
    with connected(target, tls, timeout) as client:
        listed = client.list_retrainings(state=state, limit=limit)
    if as_json:
        console.out(dumped(listed), highlight=False)
    elif not listed:
        stderr().print(f"no retrainings; `{own_name()} retrain` starts one", markup=False)
    else:
        console.print(_table(console, listed))


@runs_app.command("watch")
def watch(
    run_id: RunArgument,
    *,
    target: TargetOption = DEFAULT_TARGET,
    tls: TlsOption = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Follow a retraining from its beginning; Ctrl-C ends the view, not the retraining."""
    console = stdout()
    with connected(target, tls, timeout) as client:
        run = client.get_retraining(run_id)
        if not as_json:
            console.print(_begun(run), soft_wrap=True)
        _follow(client, run_id, console, as_json)


@runs_app.command("cancel")
def cancel(
    run_id: RunArgument,
    *,
    reason: Annotated[
        str, typer.Option("--reason", "-m", metavar="TEXT", help="Why, for the record.", show_default=False)
    ] = "",
    target: TargetOption = DEFAULT_TARGET,
    tls: TlsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    timeout: TimeoutOption = 30.0,
) -> None:
    """End a retraining that has not ended."""
    console = stdout()
    with connected(target, tls, timeout) as client:
        run = client.cancel_retraining(run_id, reason=reason)
    if as_json:
        console.out(dumped(run), highlight=False)
    else:
        what = run.state.value if run.state.ended else f"is being ended (now {run.state.value})"
        console.print(cell(f"retraining {run.retraining_id} {what}"), soft_wrap=True)


def _follow(client: Client, run_id: str, console: Console, as_json: bool) -> None:
    try:
        run = follow(client, run_id, console, as_json=as_json)
    except KeyboardInterrupt:
        _stop_following(run_id)
    if not as_json:
        tell_end(console, run)
    if run.state is not RetrainingState.SUCCEEDED:
        raise typer.Exit(EXIT_FAILED)


def _stop_following(run_id: str) -> NoReturn:
    stderr().print(f"\nThe retraining goes on. {_how_to_go_on(run_id)}", soft_wrap=True, style="yellow")
    raise typer.Exit(EXIT_INTERRUPTED)


def _how_to_go_on(run_id: str) -> Text:
    name = own_name()
    return Text(f"`{name} runs watch {run_id}` follows it, `{name} runs cancel {run_id}` ends it.")


def _settings(given: list[str]) -> dict[str, str]:
    result = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            fail(f"--set {text}: expected NAME=VALUE", EXIT_USAGE)
        result[name] = value
    return result


def _policy(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_POLICY + 1)
        text = content.decode() if len(content) <= _LARGEST_POLICY else ""
    except OSError as error:
        fail(f"cannot read the gate policy {path}: {error.strerror}", EXIT_USAGE)
    except UnicodeDecodeError:
        fail(f"the gate policy {path} is no text in UTF-8", EXIT_USAGE)
    if len(content) > _LARGEST_POLICY:
        fail(f"the gate policy {path} is too long; at most 4096 characters are accepted", EXIT_USAGE)
    if not text.strip():
        fail(f"the gate policy {path} is empty; expected a table [gate]", EXIT_USAGE)
    return text


def _begun(run: Retraining) -> Text:
    examples = ", ".join(f"{count} {name}" for name, count in sorted(run.examples_by_class.items()))
    return cell(
        f"retraining {run.retraining_id} from {_base(run)}" + (f" with {examples}" if examples else "")
    )


def _base(run: Retraining) -> str:
    return f"version {run.warm_start_version}" if run.warm_start_version is not None else "initial weights"


def _table(console: Console, listed: list[Retraining]) -> object:
    return fitting(
        console,
        [
            Column("id", [each.retraining_id for each in listed]),
            Column("state", [cell(each.state.value, STATE_STYLES.get(each.state, "")) for each in listed]),
            Column("version", [str(each.version or "") for each in listed], right=True),
            Column("accuracy", [_accuracy(each) for each in listed], right=True, rank=1),
            Column("took", [_took(each) for each in listed], right=True, rank=2),
            Column("from", [_base(each) for each in listed], rank=3),
            Column(
                "examples", [str(sum(each.examples_by_class.values())) for each in listed], right=True, rank=4
            ),
            Column("queued (UTC)", [moment(each.create_time) for each in listed], rank=5),
            Column("by", [each.actor for each in listed], rank=6),
        ],
    )


def _accuracy(run: Retraining) -> str:
    metrics = run.gate.candidate if run.gate is not None else None
    return f"{metrics.accuracy:.1%}" if metrics is not None else ""


def _took(run: Retraining) -> str:
    if run.start_time is None:
        return ""
    end = run.end_time or dt.datetime.now(dt.UTC)
    return duration((end - run.start_time).total_seconds())
