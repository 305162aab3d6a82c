"""`neurogate feedback`, `example` and `prediction`: what was answered and kept is corrected and erased."""

from __future__ import annotations

from typing import Annotated

import typer

from neurogate_cli import common
from neurogate_cli.render.output import print_json, print_line, stderr, stdout

example_app = typer.Typer(help="Correct or erase an example.", no_args_is_help=True)
prediction_app = typer.Typer(help="Erase a prediction.", no_args_is_help=True)

ExampleId = Annotated[str, typer.Argument(metavar="EXAMPLE_ID", help="64 hexadecimal digits.")]


def feedback(
    prediction_id: common.PredictionId,
    class_id: Annotated[
        str, typer.Argument(metavar="[CLASS]", help="The right class.", show_default=False)
    ] = "",
    *,
    not_mri: Annotated[bool, typer.Option("--not-mri", help="The image is no brain MRI slice.")] = False,
    comment: Annotated[
        str, typer.Option("--comment", "-m", metavar="TEXT", help="For people.", show_default=False)
    ] = "",
    target: common.Target = common.TARGET,
    tls: common.Tls = None,
    as_json: common.Json = False,
    timeout: common.Timeout = 10.0,
) -> None:
    """Say what an answer should have been: its class, or --not-mri."""
    if bool(class_id) == not_mri:
        common.fail("give either the right class, or --not-mri", common.EXIT_USAGE)
    console = stdout()
    with common.connected(target, tls, timeout) as client:
        done = client.submit_feedback(prediction_id, class_id=class_id, not_mri=not_mri, comment=comment)
    if as_json:
        print_json(console, done)
        return
    became = f"example {done.example_id[:12]}" if done.example_id else "no example (the image is not kept)"
    verdict = "right" if done.confirmed else "wrong"
    print_line(
        console, f"noted: the answer had been {verdict}; it became {'no example' if not_mri else became}"
    )


@example_app.command("relabel")
def relabel(
    example_id: ExampleId,
    class_id: Annotated[str, typer.Argument(metavar="CLASS", help="Its right class.")],
    *,
    expected: Annotated[
        str,
        typer.Option("--from", metavar="CLASS", help="Only if this is its class now.", show_default=False),
    ] = "",
    reason: common.Reason = "",
    target: common.Target = common.TARGET,
    tls: common.Tls = None,
    as_json: common.Json = False,
    timeout: common.Timeout = 10.0,
) -> None:
    """Correct the class of an example."""
    console = stdout()
    with common.connected(target, tls, timeout) as client:
        done = client.update_example(example_id, class_id=class_id, expected_class_id=expected, reason=reason)
    if as_json:
        print_json(console, done)
    else:
        print_line(console, f"example {done.example_id[:12]} is {done.class_id}")


@example_app.command("delete")
def delete_example(
    example_id: ExampleId,
    *,
    reason: common.Reason = "",
    target: common.Target = common.TARGET,
    tls: common.Tls = None,
    as_json: common.Json = False,
    timeout: common.Timeout = 10.0,
) -> None:
    """Erase an example with its image; versions that have learned from it are named and stay."""
    console, log = stdout(), stderr()
    with common.connected(target, tls, timeout) as client:
        done = client.delete_example(example_id, reason=reason)
    if as_json:
        print_json(console, done)
        return
    print_line(console, f"example {example_id[:12]} is erased")
    if done.versions:
        print_line(
            log, f"versions that have learned from it stay: {', '.join(map(str, done.versions))}", "yellow"
        )
    if done.running_retraining_ids:
        print_line(log, f"retrainings that go on with it: {', '.join(done.running_retraining_ids)}", "yellow")


@prediction_app.command("delete")
def delete_prediction(
    prediction_id: common.PredictionId,
    *,
    reason: common.Reason = "",
    target: common.Target = common.TARGET,
    tls: common.Tls = None,
    as_json: common.Json = False,
    timeout: common.Timeout = 10.0,
) -> None:
    """Erase a prediction with its image and all feedback on it."""
    console, log = stdout(), stderr()
    with common.connected(target, tls, timeout) as client:
        done = client.delete_prediction(prediction_id, reason=reason)
    if as_json:
        print_json(console, done)
        return
    print_line(console, f"prediction {prediction_id} is erased")
    for example_id in done.example_ids:
        print_line(log, f"the example made of it stays: {example_id}", "yellow")
