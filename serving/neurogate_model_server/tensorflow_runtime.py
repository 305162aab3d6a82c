"""All that this package takes of TensorFlow beyond its public API, and why.

`import tensorflow` brings in Keras, data sets and more, which no server needs. To load and run a graph
takes the C++ run time, its bindings and the protobuf messages, all of them ordinary submodules. They can be
imported alone when the package itself is entered bare, that is, without running its `__init__`. To import
the server took, as medians of three runs each in turn on two busy cores:

    these bindings                       1.3 s, 0.6 s of CPU time, 379 MiB resident
    the bare package's `client.session`  2.2 s, 1.0 s of CPU time, 414 MiB
    `tf.compat.v1`, `tf.saved_model`     8.0 s, 3.7 s of CPU time, 665 MiB

The Python front end would also check, convert and annotate: here nothing is checked that the graph does not
check, and errors carry TensorFlow's own texts, as in the real server.

What is private is imported when it is needed: a test may import this package and then all of TensorFlow.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from .errors import ServingError, not_found

Array = npt.NDArray[Any]

_CODES = {int(code.value[0]): code for code in grpc.StatusCode}


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


@functools.cache
def load_bindings() -> Any:  # noqa: ANN401 - a module without types
    """The bindings that `tf.compat.v1.Session` is made of; the first call takes most of a second."""
    from tensorflow.python import _pywrap_tfe  # noqa: F401, PLC0415 - they give out its TF_Function
    from tensorflow.python.client import pywrap_tf_session  # noqa: PLC0415

    return pywrap_tf_session


@contextlib.contextmanager
def tensorflow_errors() -> Iterator[None]:
    """Turns TensorFlow's errors into `ServingError`s, code and text untouched."""
    from tensorflow.python.framework.errors import OpError  # noqa: PLC0415

    try:
        yield
    except OpError as error:
        code = _CODES.get(int(error.error_code), grpc.StatusCode.UNKNOWN)
        raise ServingError(code, str(error.message)) from None


def read_records(file: Path) -> Iterator[bytes]:
    """The records of a TFRecord file; the reader checks the checksums.

    Raises:
        ServingError: The file is damaged.
    """
    from tensorflow.python.lib.io import _pywrap_record_io  # noqa: PLC0415

    with tensorflow_errors():
        yield from _pywrap_record_io.RecordIterator(str(file), "")


class Session:
    """A graph and a session that runs it by names of tensors and operations; `run` is thread-safe.

    Args:
        functions: Serialized FunctionDefs, imported one by one: these calls let go of the interpreter, and
            the import of a graph does not.
        graph_def: The serialized GraphDef without them.
        names: Operations of the graph that runs may name.
        config: A ConfigProto: threads and devices.

    Raises:
        ServingError: With the code and text that TensorFlow gives.
    """

    def __init__(
        self,
        functions: Iterable[bytes],
        graph_def: bytes,
        names: Sequence[str],
        config: Any,  # noqa: ANN401
    ) -> None:
        self._tf = tf = load_bindings()
        self._graph = tf.PyGraph()
        self._outputs: dict[str, Any] = {}
        with tensorflow_errors():
            for function in functions:
                imported = tf.TF_FunctionImportFunctionDef(function)
                try:
                    tf.TF_GraphCopyFunction(self._graph, imported, None)
                finally:
                    tf.TF_DeleteFunction(imported)
            self._operations = self._import(graph_def, names)
            options = tf.TF_NewSessionOptions(target=None, config=config)
            try:
                self._session = tf.TF_NewSessionRef(self._graph, options)
            finally:
                tf.TF_DeleteSessionOptions(options)

    def _import(self, graph_def: bytes, names: Sequence[str]) -> dict[str, Any]:
        tf = self._tf
        options, buffer = tf.TF_NewImportGraphDefOptions(), tf.TF_NewBufferFromString(graph_def)
        try:
            tf.TF_ImportGraphDefOptionsSetPrefix(options, "")
            for name in names:
                tf.TF_ImportGraphDefOptionsAddReturnOperation(options, name)
            results = tf.TF_GraphImportGraphDefWithResults(self._graph, buffer, options)
            operations = tf.TF_ImportGraphDefResultsReturnOperations(results)
            tf.TF_DeleteImportGraphDefResults(results)
        finally:
            tf.TF_DeleteImportGraphDefOptions(options)
            tf.TF_DeleteBuffer(buffer)
        return dict(zip(names, operations, strict=True))

    def run(
        self,
        feeds: Sequence[tuple[str, Array]],
        fetches: Sequence[str],
        targets: Sequence[str] = (),
        deadline: float | None = None,
    ) -> list[Array]:
        """Runs the part of the graph that `fetches` and `targets` need; other threads run meanwhile.

        Args:
            feeds: Tensor names and values.
            fetches: Tensor names.
            targets: Names of operations to run for their effect.
            deadline: When TensorFlow gives up (DEADLINE_EXCEEDED), on the monotonic clock; None for never.

        Raises:
            ServingError: With the code and text that TensorFlow gives.
        """
        feed = {self._tensor(name, "FeedInputs: unable to find feed output "): value for name, value in feeds}
        outputs = [self._tensor(name, "FetchOutputs node ", ": not found") for name in fetches]
        for name in targets:
            if name not in self._operations:
                raise not_found(f"Operation {name} is not in the graph")
        operations = [self._operations[name] for name in targets]
        with self._run_options(deadline) as options, tensorflow_errors():
            results = self._tf.TF_SessionRun_wrapper(self._session, options, feed, outputs, operations, None)
        return [_as_array(result) for result in results]

    def close(self) -> None:
        """Frees the session, which cannot run any more."""
        self._tf.TF_CloseSession(self._session)
        self._tf.TF_DeleteSession(self._session)
        self._session = None

    def _tensor(self, name: str, before: str, after: str = "") -> Any:  # noqa: ANN401 - TF_Output
        output = self._outputs.get(name)
        if output is None:
            operation, _, index = name.partition(":")
            if operation not in self._operations or not (index or "0").isdigit():
                raise not_found(f"{before}{name}{after}")
            output = self._tf.TF_Output()
            output.oper = self._operations[operation]
            output.index = int(index or 0)
            self._outputs[name] = output
        return output

    @contextlib.contextmanager
    def _run_options(self, deadline: float | None) -> Iterator[Any]:
        """Run options in the form that the C API takes, or None."""
        if deadline is None:
            yield None
            return
        from tensorflow.core.protobuf import config_pb2  # noqa: PLC0415

        # At least 1: a session takes 0 as no limit.
        milliseconds = max(1, min(int((deadline - time.monotonic()) * 1000), 2**31 - 1))
        options = config_pb2.RunOptions(timeout_in_ms=milliseconds).SerializeToString()
        buffer = self._tf.TF_NewBufferFromString(options)
        try:
            yield buffer
        finally:
            self._tf.TF_DeleteBuffer(buffer)


def _as_array(result: object) -> Array:
    # A result without dimensions comes as a plain value; NumPy would cut zero bytes off the end of a string.
    return np.array(result, object) if isinstance(result, bytes) else np.asarray(result)
