"""One loaded SavedModel: its graph, its signatures, and a way to run them.

The model is loaded as TensorFlow's C++ loader does it (graph, variables if there are any, initialisation) and
run through a plain session with the signature's tensor names, by the bindings that `tf.compat.v1.Session` is
made of. So every signature works, nothing is checked that the graph does not check, and errors carry
TensorFlow's own texts; the Python front end would check, convert and annotate.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
from tensorflow.python import _pywrap_tfe  # noqa: F401 - the bindings of a session give out its TF_Function
from tensorflow.python.client import pywrap_tf_session as tf_session
from tensorflow.python.framework import errors

from .background import at_once
from .errors import ServingError, from_tensorflow, not_found
from .saved_file import SavedMetaGraph, read_meta_graph
from .tensors import Array

_INIT_OP_KEY = "__saved_model_init_op"
_INIT_OP_COLLECTIONS = ("saved_model_main_op", "legacy_init_op")

Run: TypeAlias = Callable[[Callable[[], None]], None]


class Servable:
    """A SavedModel that is ready to run; thread-safe.

    Attributes:
        path: The folder of this version.
    """

    def __init__(self, path: Path, saved: SavedMetaGraph, config: config_pb2.ConfigProto) -> None:
        self.path = path
        # Copies: a part of a parsed message keeps the whole of it in memory, weights and all.
        self._signatures = {
            name: _copy(signature) for name, signature in saved.meta_graph.signature_def.items()
        }
        self._graph = tf_session.PyGraph()
        self._operations = _import_graph(self._graph, saved)
        options = tf_session.TF_NewSessionOptions(target=None, config=config)
        try:
            self._session = tf_session.TF_NewSessionRef(self._graph, options)
        finally:
            tf_session.TF_DeleteSessionOptions(options)
        self._outputs: dict[str, tf_session.TF_Output] = {}

    @property
    def signatures(self) -> Mapping[str, meta_graph_pb2.SignatureDef]:
        """Every `SignatureDef`, by name."""
        return self._signatures

    def run(
        self,
        feeds: Sequence[tuple[str, Array]],
        fetches: Sequence[str],
        *,
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
        feed_dict = {
            self._tensor(name, "FeedInputs: unable to find feed output "): value for name, value in feeds
        }
        outputs = [self._tensor(name, "FetchOutputs node ", ": not found") for name in fetches]
        operations = [self._operation(name) for name in targets]
        try:
            with _run_options(deadline) as options:
                results = tf_session.TF_SessionRun_wrapper(
                    self._session, options, feed_dict, outputs, operations, None
                )
        except errors.OpError as error:
            raise from_tensorflow(error) from None
        return [_as_array(result) for result in results]

    def close(self) -> None:
        """Frees the session; the servable cannot run any more."""
        tf_session.TF_CloseSession(self._session)
        tf_session.TF_DeleteSession(self._session)
        self._session = None

    def _tensor(self, name: str, before: str, after: str = "") -> tf_session.TF_Output:
        output = self._outputs.get(name)
        if output is None:
            operation, _, index = name.partition(":")
            if operation not in self._operations or not (index or "0").isdigit():
                raise not_found(f"{before}{name}{after}")
            output = tf_session.TF_Output()
            output.oper = self._operations[operation]
            output.index = int(index or 0)
            self._outputs[name] = output
        return output

    def _operation(self, name: str) -> tf_session.TF_Operation:
        if name not in self._operations:
            raise not_found(f"Operation {name} is not in the graph")
        return self._operations[name]


def _copy(signature: meta_graph_pb2.SignatureDef) -> meta_graph_pb2.SignatureDef:
    copied = meta_graph_pb2.SignatureDef()
    copied.CopyFrom(signature)
    return copied


def _import_graph(graph: tf_session.PyGraph, saved: SavedMetaGraph) -> dict[str, tf_session.TF_Operation]:
    """Fills a graph; returns the operations that signatures, variables, assets and start refer to."""
    meta_graph = saved.meta_graph
    wanted = sorted(_referenced_operations(meta_graph) & {node.name for node in meta_graph.graph_def.node})
    functions, rest = saved.split_graph()
    # One by one, as these calls let go of the interpreter and the import of a graph does not.
    for function in functions:
        imported = tf_session.TF_FunctionImportFunctionDef(function)
        try:
            tf_session.TF_GraphCopyFunction(graph, imported, None)
        finally:
            tf_session.TF_DeleteFunction(imported)
    options = tf_session.TF_NewImportGraphDefOptions()
    buffer = tf_session.TF_NewBufferFromString(rest)
    try:
        tf_session.TF_ImportGraphDefOptionsSetPrefix(options, "")
        for name in wanted:
            tf_session.TF_ImportGraphDefOptionsAddReturnOperation(options, name)
        results = tf_session.TF_GraphImportGraphDefWithResults(graph, buffer, options)
        operations = tf_session.TF_ImportGraphDefResultsReturnOperations(results)
        tf_session.TF_DeleteImportGraphDefResults(results)
    finally:
        tf_session.TF_DeleteImportGraphDefOptions(options)
        tf_session.TF_DeleteBuffer(buffer)
    return dict(zip(wanted, operations, strict=True))


def _referenced_operations(meta_graph: meta_graph_pb2.MetaGraphDef) -> set[str]:
    tensors = [
        info.name
        for signature in meta_graph.signature_def.values()
        for info in (*signature.inputs.values(), *signature.outputs.values())
    ]
    tensors += [asset.tensor_info.name for asset in meta_graph.asset_file_def]
    tensors += [meta_graph.saver_def.filename_tensor_name, meta_graph.saver_def.restore_op_name]
    tensors.append(_init_op(meta_graph))
    return {tensor.partition(":")[0] for tensor in tensors}


def _as_array(result: object) -> Array:
    # A result without dimensions comes as a plain value; NumPy would cut zero bytes off the end of a string.
    return np.array(result, object) if isinstance(result, bytes) else np.asarray(result)


@contextlib.contextmanager
def _run_options(deadline: float | None) -> Iterator[tf_session.TF_Buffer | None]:
    """Run options in the form that the C API takes, or None."""
    if deadline is None:
        yield None
        return
    # At least 1: a session takes 0 as no limit.
    milliseconds = max(1, min(int((deadline - time.monotonic()) * 1000), 2**31 - 1))
    buffer = tf_session.TF_NewBufferFromString(
        config_pb2.RunOptions(timeout_in_ms=milliseconds).SerializeToString()
    )
    try:
        yield buffer
    finally:
        tf_session.TF_DeleteBuffer(buffer)


def load_servable(
    path: Path, *, tags: Sequence[str], config: config_pb2.ConfigProto, run: Run = at_once
) -> Servable:
    """Loads the SavedModel in `path`.

    Args:
        path: Folder of one version.
        tags: Which meta graph to load: the one with exactly these tags.
        config: Threads and devices of its session.
        run: How to do the part of it that leaves the interpreter alone.

    Raises:
        ServingError: It is not a loadable SavedModel; code and text as the real server has them.
    """
    saved = read_meta_graph(path, tags)
    try:
        servable = Servable(path, saved, config)
    except errors.OpError as error:
        raise from_tensorflow(error) from None
    meta_graph = saved.meta_graph
    # The file's content must not lie in memory beside the variables that are read now.
    del saved
    try:
        run(lambda: _initialise(servable, meta_graph))
    except ServingError:
        servable.close()
        raise
    return servable


def _initialise(servable: Servable, meta_graph: meta_graph_pb2.MetaGraphDef) -> None:
    assets: list[tuple[str, Array]] = [
        (asset.tensor_info.name, _string(str(servable.path / "assets" / asset.filename)))
        for asset in meta_graph.asset_file_def
    ]
    variables = servable.path / "variables" / "variables"
    # As in the real server, a model without a variables folder loads, and fails where it reads a variable.
    if variables.with_suffix(".index").exists():
        saver = meta_graph.saver_def
        feeds = [(saver.filename_tensor_name, _string(str(variables))), *assets]
        servable.run(feeds, [], targets=[saver.restore_op_name])
    init_op = _init_op(meta_graph)
    if init_op:
        servable.run(assets, [], targets=[init_op])


def _init_op(meta_graph: meta_graph_pb2.MetaGraphDef) -> str:
    signature = meta_graph.signature_def.get(_INIT_OP_KEY)
    if signature is not None:
        return str(signature.outputs[_INIT_OP_KEY].name)
    for collection in _INIT_OP_COLLECTIONS:
        names = (
            meta_graph.collection_def[collection].node_list.value
            if collection in meta_graph.collection_def
            else ()
        )
        if names:
            return str(names[0])
    return ""


def _string(text: str) -> Array:
    return np.array(text.encode(), object)
