"""TensorFlow without its Python front end, which a server has no use for.

`import tensorflow` brings in Keras, datasets, estimators and more: several seconds and hundreds of megabytes.
To load and run a graph takes the C++ run time, its bindings and the protobuf messages, all of which are
ordinary submodules. They can be imported alone when the package itself is entered bare, that is, without
running its `__init__`. The modules of this package use those submodules only, so they work with either form.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType


def use_bare_tensorflow() -> None:
    """Makes `tensorflow` a bare package in this process, unless it has been imported already.

    For programs that run nothing but the model server: whoever imports `tensorflow` afterwards finds
    submodules, but none of its functions.

    Raises:
        ModuleNotFoundError: TensorFlow is not installed.
    """
    if "tensorflow" in sys.modules:
        return
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(
            "the embedded model server needs TensorFlow: pip install 'neurogate[serving]'", name="tensorflow"
        )
    package = ModuleType("tensorflow")
    package.__path__ = list(spec.submodule_search_locations)
    package.__spec__ = spec
    package.__file__ = spec.origin
    sys.modules["tensorflow"] = package
