"""`neurogate explain`: the picture of the evidence in one image."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from neurogate_client.types import COLOR_MAPS
from neurogate_core.command import OutputLostError, write_output

from neurogate_cli import common
from neurogate_cli.render.output import print_line, stderr

_LIMITS = "The map points, it does not outline; in part it shows what is conspicuous, whatever the class."


def explain(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="The image, or - for stdin.")],
    *,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="PNG", help="Where the picture goes, whole or not at all; - for stdout."
        ),
    ],
    class_id: Annotated[
        str,
        typer.Option("--class-id", metavar="CLASS", help="Class to explain; empty for the most probable."),
    ] = "",
    color_map: Annotated[
        str, typer.Option("--color-map", metavar="NAME", help=f"{', '.join(COLOR_MAPS)}.")
    ] = COLOR_MAPS[0],
    alpha: Annotated[float, typer.Option("--alpha", min=0, max=1, help="Opacity of the map.")] = 0.5,
    target: common.Target = common.TARGET,
    tls: common.Tls = None,
    model_version: common.ModelVersion = None,
    label: common.Label = None,
    frame: common.Frame = None,
    max_image_bytes: common.MaxImageBytes = common.MAX_IMAGE_BYTES,
    timeout: common.Timeout = 30.0,
) -> None:
    """Show where in an image the evidence for a class lies."""
    common.one_selector(model_version, label)
    if str(output) != "-" and not output.parent.is_dir():
        common.fail(f"the folder {output.parent} of the picture does not exist", common.EXIT_USAGE)
    with common.connected(target, tls, timeout, max_image_bytes) as client:
        result = client.explain(
            common.read_stdin(max_image_bytes) if image == common.STDIN else image,
            class_id=class_id,
            color_map=color_map,
            alpha=alpha,
            frame=frame or 0,
            version=model_version,
            label=label,
        )
    _write(output, result.overlay_png)
    answer, log = result.classification, stderr()
    shown = {each.class_id: each.probability for each in answer.scores}.get(result.class_id, 0.0)
    print_line(
        log,
        f"{output}: evidence for {result.class_id} ({shown:.1%}) by version {answer.model.version}; "
        f"the answer is {answer.top.class_id} ({answer.top.probability:.1%}, {answer.verdict})",
    )
    print_line(log, _LIMITS, "dim")
    if result.map_caution:
        print_line(log, f"caution: {result.map_caution}", "yellow")


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
        common.fail(f"cannot write {output}: {error.strerror}")
