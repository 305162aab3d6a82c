"""docs/other-languages.md as its readers use it: stubs by `buf generate`, and both clients built and run."""

from __future__ import annotations

import asyncio
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from neurogate.v1 import classification_pb2
from neurogate_testing.fake_backend import FakeBackend, sample_image
from neurogate_testing.gateway_command import serving_command

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "other-languages.md").read_text()


def snippet(language: str) -> str:
    """The first program of a language on the page."""
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found, language
    return found[1]


def command_of(beginning: str) -> list[str]:
    """The command on the page that begins so."""
    found = re.search(rf"`({beginning} [^`]*)`", PAGE)
    assert found, beginning
    return found[1].split()


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `buf generate` writes, by the plugins that buf.gen.yaml names."""
    folder = tmp_path_factory.mktemp("stubs")
    run(str(Path(sys.executable).with_name("buf")), "generate", "--output", str(folder), cwd=ROOT)
    return folder / "build" / "gen"


@pytest.fixture
def go_client(stubs: Path, tmp_path: Path) -> list[str]:
    shutil.copytree(stubs / "go" / "neurogate", tmp_path / "neurogate")
    (tmp_path / "main.go").write_text(snippet("go"))
    run("go", "mod", "init", "example.com/app", cwd=tmp_path)
    run(*command_of("go get"), cwd=tmp_path)
    run("go", "mod", "tidy", cwd=tmp_path)
    run("go", "vet", ".", cwd=tmp_path)
    run("go", "build", "-o", "client", ".", cwd=tmp_path)
    return [str(tmp_path / "client")]


@pytest.fixture
def typescript_client(stubs: Path, tmp_path: Path) -> list[str]:
    shutil.copytree(stubs / "ts", tmp_path / "gen")
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "classify.ts").write_text(snippet("ts"))
    run(*command_of("npm install"), cwd=tmp_path)
    return ["npx", "tsx", str(tmp_path / "classify.ts")]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("client", ["go_client", "typescript_client"])
async def test_a_client_of_the_page_classifies_an_image(
    client: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    command = request.getfixturevalue(client)
    image = tmp_path / "slice.jpg"
    image.write_bytes(sample_image(1, size=(96, 96), kind="JPEG"))
    async with FakeBackend() as backend, serving_command(backend) as (gateway, stub):
        expected = await stub.Classify(classification_pb2.ClassifyRequest(image=image.read_bytes()))
        printed = await asyncio.to_thread(run, *command, gateway.address, str(image), cwd=tmp_path)
    top = expected.classification.scores[0]
    class_id, probability, verdict, version = printed.split()
    assert class_id == top.class_id
    assert float(probability) == pytest.approx(top.probability)
    # TypeScript's names leave the prefix out.
    assert classification_pb2.Verdict.Name(expected.classification.verdict).endswith(verdict)
    assert int(version.removesuffix("n")) == expected.model.version
