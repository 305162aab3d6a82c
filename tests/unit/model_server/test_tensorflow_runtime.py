from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from neurogate_model_server import tensorflow_runtime
from neurogate_model_server.tensorflow_runtime import use_bare_tensorflow

CHECK = """
import sys
from neurogate_model_server.tensorflow_runtime import load_bindings, use_bare_tensorflow
use_bare_tensorflow()
load_bindings()
import neurogate_model_server.server
import tensorflow
assert not hasattr(tensorflow, "function")
print(*sorted(name for name in sys.modules if name.partition(".")[0] in ("keras", "h5py", "tensorboard")))
"""


def test_the_server_comes_without_tensorflows_front_end() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHECK], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == ""


def test_a_tensorflow_that_is_there_stays_whole() -> None:
    tensorflow = pytest.importorskip("tensorflow")
    use_bare_tensorflow()
    assert sys.modules["tensorflow"] is tensorflow
    assert callable(tensorflow.function)


def test_what_is_not_public_is_imported_by_one_file() -> None:
    package = Path(tensorflow_runtime.__file__).parent
    found = [path.name for path in package.glob("*.py") if "tensorflow.python" in path.read_text()]
    assert found == ["tensorflow_runtime.py"]
