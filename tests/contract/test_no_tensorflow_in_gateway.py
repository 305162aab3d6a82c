"""TensorFlow stays out of every process but the trainer and the embedded model server.

The gateway's start-up time and memory rest on it. Each check runs in a fresh interpreter.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("tensorflow", "tensorflow_serving", "keras", "tensorboard", "scipy", "sklearn", "matplotlib")

IMPORT_EVERYTHING = """
import importlib, json, pkgutil, sys

def names(package):
    # Not pkgutil.walk_packages: that imports a package before one can decline.
    for found in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        if found.name == "neurogate_model_server" or found.name.endswith(".__main__"):
            continue
        yield found.name
        if found.ispkg:
            yield from names(importlib.import_module(found.name))

imported = []
for root in json.loads(sys.argv[1]):
    imported.append(root)
    for name in names(importlib.import_module(root)):
        importlib.import_module(name)
        imported.append(name)
print(json.dumps({"imported": imported, "modules": sorted(sys.modules)}))
"""


def heavy_modules(modules: list[str]) -> list[str]:
    return [name for name in modules if name.split(".")[0] in HEAVY]


def run(script: str, *arguments: str) -> dict[str, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("package", ["neurogate", "neurogate_client", "neurogate_gateway", "neurogate_core"])
def test_no_module_of_a_light_package_imports_tensorflow(package: str) -> None:
    result = run(IMPORT_EVERYTHING, json.dumps([package]))
    assert len(result["imported"]) > 3
    assert heavy_modules(result["modules"]) == []


def test_the_gateways_entry_point_imports_no_tensorflow() -> None:
    script = "import json, sys, neurogate_gateway.main; print(json.dumps({'modules': sorted(sys.modules)}))"
    assert heavy_modules(run(script)["modules"]) == []


def test_what_the_check_looks_for_would_be_found() -> None:
    """TensorFlow is installed here, so its absence from the lists above means something."""
    script = "import importlib.util, json; print(json.dumps([bool(importlib.util.find_spec('tensorflow'))]))"
    assert run(script) == [True]
