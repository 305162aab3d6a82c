"""The command line against real servers: classify, explain, versions, health."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from neurogate_testing import images
from neurogate_testing.processes import script
from neurogate_testing.stack import Stack


def neurogate(stack: Stack, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [script("neurogate"), *map(str, arguments), "--target", stack.target]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(12):
        (tmp_path / "scans" / f"{number:02}.jpg").parent.mkdir(exist_ok=True)
        (tmp_path / "scans" / f"{number:02}.jpg").write_bytes(images.brain_slice(number))
    return tmp_path / "scans"


def test_a_folder_with_a_bad_image_in_it(stack: Stack, folder: Path) -> None:
    (folder / "05b.jpg").write_bytes(images.brain_slice(5)[:500])
    done = neurogate(stack, "classify", folder, "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1, done.stderr
    assert [Path(line["image"]).name for line in lines] == sorted(each.name for each in folder.iterdir())
    assert [line["error"]["reason"] for line in lines if "error" in line] == ["IMAGE_CORRUPT"]
    assert {line["model"]["version"] for line in lines if "model" in line} == {1}
    for line in lines:
        if "scores" in line:
            assert sum(each["probability"] for each in line["scores"]) == pytest.approx(1, abs=1e-4)


def test_explain_versions_and_health(stack: Stack, folder: Path, tmp_path: Path) -> None:
    picture = tmp_path / "why.png"
    done = neurogate(stack, "explain", folder / "00.jpg", "-o", picture, "--class-id", "pituitary")
    assert done.returncode == 0, done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    listed = neurogate(stack, "versions")
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout.splitlines()[1].split()[:4] == ["1", "READY", "latest,", "stable"]
    one = neurogate(stack, "versions", 1, "--json")
    assert json.loads(one.stdout)["manifest"]["version"] == "1"
    assert neurogate(stack, "health").returncode == 0
    done = neurogate(stack, "classify", folder, "--label", "nightly")
    assert (done.returncode, done.stdout) == (1, "")
    assert "MODEL_LABEL_NOT_FOUND" in done.stderr
