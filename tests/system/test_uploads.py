"""Examples over a network that breaks, into a real gateway."""

from __future__ import annotations

import io
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from neurogate_client import Client, LabelledImage
from neurogate_testing.cutting_proxy import cutting_proxy
from neurogate_testing.processes import free_port, running, script, up_model_server_options
from PIL import Image

COUNT = 600
CLASSES = ("glioma", "meningioma", "notumor", "pituitary")


def pictures(count: int) -> Iterator[LabelledImage]:
    """Small distinct images, made as they are asked for."""
    generator = np.random.default_rng(0)
    for number in range(count):
        file = io.BytesIO()
        Image.fromarray(generator.integers(0, 256, (48, 48), np.uint8)).save(file, "PNG")
        yield LabelledImage(image=file.getvalue(), class_id=CLASSES[number % 4], key=number)


def large() -> LabelledImage:
    """An image that goes in several chunks."""
    file = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 256, (1400, 1400), np.uint8)
    Image.fromarray(noise).save(file, "BMP")
    return LabelledImage(image=file.getvalue(), class_id="glioma", key="large")


def test_a_cut_upload_loses_and_doubles_nothing(toy_repository: Path, tmp_path: Path) -> None:
    port = free_port()
    command = [
        script("neurogate"),
        "up",
        f"--repository={toy_repository}",
        f"--records={tmp_path / 'records'}",
        f"--port={port}",
        f"--model-server-port={free_port()}",
        *up_model_server_options(),
    ]
    cuts = {(number + 1) * COUNT // 6 for number in range(5)}
    with (
        running(command) as up,
        cutting_proxy(f"127.0.0.1:{port}") as proxy,
        Client(proxy.address) as client,
    ):
        up.wait_for("Ready: ", seconds=120)
        results, broken = {}, 0
        for result in client.upload_examples(pictures(COUNT)):
            assert result.error is None, result.error
            assert result.key not in results
            results[result.key] = result
            if len(results) in cuts:
                broken += proxy.cut()
        assert broken >= 5
        assert sorted(results) == list(range(COUNT))
        assert len({each.example_id for each in results.values()}) == COUNT
        # A duplicate is only what had been kept with its answer lost.
        assert all(each.resent for each in results.values() if each.duplicate)
        (kept,) = client.upload_examples([large()])
        assert kept.error is None
        totals = client.list_examples(page_size=1).total_by_class
        assert totals == {name: COUNT // 4 + (name == "glioma") for name in CLASSES}
        assert up.stop(signal.SIGTERM) == 0
