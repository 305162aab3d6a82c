"""`neurogate explain`: the picture of the evidence in one image."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from neurogate.command import OutputLostError, write_output
from neurogate_client._channel import DEFAULT_MAX_IMAGE_BYTES
from neurogate_client._wire import color_map_names
from rich.text import Text

from neurogate_cli.common import (
    DEFAULT_TARGET,
    EXIT_USAGE,
    FrameOption,
    LabelOption,
    MaxImageBytesOption,
    ModelVersionOption,
    TargetOption,
    TimeoutOption,
    TlsOption,
    connected,
    fail,
    printable,
    stderr,
)

_LIMITS = "The map points, it does not outline; in part it shows what is conspicuous, whatever the class."


def explain(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="The image, or - for stdin.")],
    *,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="PNG",
            help="Where the picture goes, whole or not at all; - for stdout.",
        ),
    ],
    class_id: Annotated[
        str,
        typer.Option("--class-id", metavar="CLASS", help="Class to explain; empty for the most probable."),
    ] = "",
    color_map: Annotated[
        str, typer.Option("--color-map", metavar="NAME", help=f"{', '.join(color_map_names())}.")
    ] = color_map_names()[0],
    alpha: Annotated[float, typer.Option("--alpha", min=0, max=1, help="Opacity of the map.")] = 0.5,
    target: TargetOption = DEFAULT_TARGET,
    tls: TlsOption = None,
    model_version: ModelVersionOption = None,
    label: LabelOption = None,
    frame: FrameOption = None,
    max_image_bytes: MaxImageBytesOption = DEFAULT_MAX_IMAGE_BYTES,
    timeout: TimeoutOption = 30.0,
) -> None:
    """Show where in an image the evidence for a class lies."""
    if model_version is not None and label is not None:
        fail("--model-version and --label exclude each other", EXIT_USAGE)
    if color_map.lower() not in color_map_names():
        fail(f"no colour map {color_map!r}; there are {', '.join(color_map_names())}", EXIT_USAGE)
    if str(output) != "-" and not output.parent.is_dir():
        fail(f"the folder {output.parent} of the picture does not exist", EXIT_USAGE)
    with connected(target, tls, timeout, max_image_bytes) as client:
        result = client.explain(
            sys.stdin.buffer.read(max_image_bytes + 1) if image == "-" else image,
            class_id=class_id,
            color_map=color_map,
            alpha=alpha,
            frame=frame or 0,
            version=model_version,
            label=label,
        )
    _write(output, result.overlay_png)
    answer = result.classification
    shown = {each.class_id: each.probability for each in answer.scores}.get(result.class_id, 0.0)
    stderr().print(
        f"{output}: evidence for {result.class_id} ({shown:.1%}) by version {answer.model.version}; "
        f"the answer is {answer.top.class_id} ({answer.top.probability:.1%}, {answer.verdict})",
        soft_wrap=True,
        markup=False,
    )
    stderr().print(_LIMITS, style="dim", soft_wrap=True)
    if result.map_caution:
        stderr().print(Text(f"caution: {printable(result.map_caution)}", "yellow"), soft_wrap=True)


def _write(output: Path, picture: bytes) -> None:
    """Writes the picture whole or not at all."""
    if str(output) == "-":
        try:
            sys.stdout.buffer.write(picture)
            sys.stdout.buffer.flush()
        except OSError as error:
            raise OutputLostError(error.strerror) from error
        return
    try:
        write_output(output, picture)
    except OSError as error:
        fail(f"cannot write {output}: {error.strerror}")
