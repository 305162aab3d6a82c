"""The commands in an installation that lacks what they need."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from neurogate_core.command import MISSING_STATUS, needs_extra

ROOT = Path(__file__).resolve().parents[3]

COMMANDS = [
    ("neurogate-gateway", "numpy", "gateway", []),
    ("neurogate-gateway", "grpc_health", "gateway", []),
    ("neurogate-trainer", "typer", "trainer", []),
    ("neurogate-model-server", "tensorflow_serving", "serving", ["--model_base_path=/tmp"]),
]


@pytest.mark.parametrize(("command", "missing", "extra", "arguments"), COMMANDS)
def test_a_missing_extra_is_one_line(command: str, missing: str, extra: str, arguments: list[str]) -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, function = scripts[command].partition(":")
    # None in sys.modules is what an import finds of a package that is not there.
    code = (
        f"import sys\nsys.modules[{missing!r}] = None\nsys.argv = [{command!r}, *{arguments!r}]\n"
        f"from {module} import {function}\n{function}()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == MISSING_STATUS
    last = done.stderr.splitlines()[-1]
    assert last == f"{command} needs the package {missing!r}: pip install 'neurogate[{extra}]'"
    assert "Traceback" not in done.stderr


def test_an_extra_of_a_package_that_only_some_settings_need(capsys: pytest.CaptureFixture[str]) -> None:
    @needs_extra("neurogate-gateway", "gateway")
    def main() -> None:
        raise ModuleNotFoundError("No module named 'sqlalchemy.orm'", name="sqlalchemy.orm")

    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == MISSING_STATUS
    assert capsys.readouterr().err.endswith(
        "needs the package 'sqlalchemy': pip install 'neurogate[records]'\n"
    )


def test_a_module_of_its_own_that_is_missing_is_a_defect() -> None:
    @needs_extra("neurogate-gateway", "gateway")
    def main() -> None:
        raise ModuleNotFoundError("no", name="neurogate_gateway.gone")

    with pytest.raises(ModuleNotFoundError):
        main()
