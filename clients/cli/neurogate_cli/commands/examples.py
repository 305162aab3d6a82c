"""`neurogate example` and `neurogate prediction`: what was kept is corrected and erased."""

from __future__ import annotations

from typing import Annotated

import typer

from neurogate_cli.common import (
    DEFAULT_TARGET,
    TargetOption,
    TimeoutOption,
    TlsOption,
    cell,
    connected,
    stderr,
    stdout,
)
from neurogate_cli.render.json import dumped

example_app = typer.Typer(help="Correct or erase an example.", no_args_is_help=True)
prediction_app = typer.Typer(help="Erase a prediction.", no_args_is_help=True)

ExampleArgument = Annotated[str, typer.Argument(metavar="EXAMPLE_ID", help="64 hexadecimal digits.")]
ReasonOption = Annotated[
    str, typer.Option("--reason", "-m", metavar="TEXT", help="Why, for the record.", show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="As JSON.")]


@example_app.command("relabel")
def relabel(
    example_id: ExampleArgument,
    class_id: Annotated[str, typer.Argument(metavar="CLASS", help="Its right class.")],
    *,
    expected: Annotated[
        str,
        typer.Option("--from", metavar="CLASS", help="Only if this is its class now.", show_default=False),
    ] = "",
    reason: ReasonOption = "",
    target: TargetOption = DEFAULT_TARGET,
    tls: TlsOption = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Correct the class of an example."""
    console = stdout()
    with connected(target, tls, timeout) as client:
        done = client.update_example(example_id, class_id=class_id, expected_class_id=expected, reason=reason)
    if as_json:
        console.out(dumped(done), highlight=False)
    else:
        console.print(cell(f"example {done.example_id[:12]} is {done.class_id}"), soft_wrap=True)


@example_app.command("delete")
def delete_example(
    example_id: ExampleArgument,
    *,
    reason: ReasonOption = "",
    target: TargetOption = DEFAULT_TARGET,
    tls: TlsOption = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Erase an example with its image; versions that have learned from it are named and stay."""
    console = stdout()
    with connected(target, tls, timeout) as client:
        done = client.delete_example(example_id, reason=reason)
    if as_json:
        console.out(dumped(done), highlight=False)
        return
    console.print(cell(f"example {example_id[:12]} is erased"), soft_wrap=True)
    if done.versions:
        listed = ", ".join(map(str, done.versions))
        stderr().print(cell(f"versions that have learned from it stay: {listed}", "yellow"), soft_wrap=True)
    if done.running_retraining_ids:
        listed = ", ".join(done.running_retraining_ids)
        stderr().print(cell(f"retrainings that go on with it: {listed}", "yellow"), soft_wrap=True)


@prediction_app.command("delete")
def delete_prediction(
    prediction_id: Annotated[
        str, typer.Argument(metavar="PREDICTION_ID", help="Of the answer that was given.")
    ],
    *,
    reason: ReasonOption = "",
    target: TargetOption = DEFAULT_TARGET,
    tls: TlsOption = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Erase a prediction with its image and all feedback on it."""
    console = stdout()
    with connected(target, tls, timeout) as client:
        left = client.delete_prediction(prediction_id, reason=reason)
    if as_json:
        console.out(dumped({"example_ids": left}), highlight=False)
        return
    console.print(cell(f"prediction {prediction_id} is erased"), soft_wrap=True)
    for example_id in left:
        stderr().print(cell(f"the example made of it stays: {example_id}", "yellow"), soft_wrap=True)
