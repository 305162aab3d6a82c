"""The programs of docs/client.md, run on a fake gateway."""

from __future__ import annotations

import asyncio
import re
import textwrap
from pathlib import Path

import pytest
from neurogate_client import Client, enum_name, errors
from neurogate_testing.fake_gateway import FakeGateway, version
from neurogate_testing.fake_training import success

TEXT = (Path(__file__).parents[3] / "docs" / "client.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.mark.parametrize("program", PROGRAMS, ids=[each.splitlines()[-1].strip() for each in PROGRAMS])
def test_it_runs_as_it_stands(
    program: str, gateway: FakeGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("slice.jpg", "scans/a/1.jpg", "new/glioma/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"glioma unsure")
    gateway.script.versions = [version(4, labels=("candidate",)), version(3, labels=("stable",))]
    gateway.script.release.labels = {"stable": 3, "candidate": 4}
    gateway.script.training.script = success
    program = program.replace("localhost:50051", gateway.address).replace('"epochs"', '"head_epochs"')
    if "async with" in program:
        scope: dict[str, object] = {"data": b"glioma"}
        exec(f"async def main():\n{textwrap.indent(program, '    ')}", scope)
        asyncio.run(scope["main"]())  # type: ignore[operator]
    elif program.startswith("for event in"):
        watch = program.replace("versions()", "versions(timeout=1)")
        with Client(gateway.address) as client, pytest.raises(errors.DeadlineExceededError):
            exec(watch, {"client": client, "enum_name": enum_name})
    else:
        exec(program, {})
