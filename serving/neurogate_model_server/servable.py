"""One loaded SavedModel: its signatures, and a way to run them.

The model is loaded as TensorFlow's C++ loader does it (graph, variables if there are any, initialisation) and
run through a plain session with the signature's tensor names. So every signature works. What is wrong with a
version's folder and file gets the codes and texts of TensorFlow's C++ code.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import grpc
import numpy as np
from google.protobuf.message import DecodeError
from tensorflow.core.framework import function_pb2, graph_pb2
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2, saved_model_pb2

from .background import run_at_once
from .errors import ServingError, not_found
from .tensorflow_runtime import Array, Session
from .wire import is_cut_short, submessages

_INIT_OP_KEY = "__saved_model_init_op"
_INIT_OP_COLLECTIONS = ("saved_model_main_op", "legacy_init_op")
_META_GRAPHS: Final = saved_model_pb2.SavedModel.META_GRAPHS_FIELD_NUMBER
_GRAPH_DEF: Final = meta_graph_pb2.MetaGraphDef.GRAPH_DEF_FIELD_NUMBER
_LIBRARY: Final = graph_pb2.GraphDef.LIBRARY_FIELD_NUMBER
_FUNCTION: Final = function_pb2.FunctionDefLibrary.FUNCTION_FIELD_NUMBER
_LARGE_BYTES = 2**20
# TensorFlow's codes for what most often keeps a folder from being looked at; others are not told apart here.
_CODES: Final[dict[int | None, grpc.StatusCode]] = {
    errno.ENOENT: grpc.StatusCode.NOT_FOUND,
    errno.ENOTDIR: grpc.StatusCode.FAILED_PRECONDITION,
    errno.EACCES: grpc.StatusCode.PERMISSION_DENIED,
    errno.EPERM: grpc.StatusCode.PERMISSION_DENIED,
    errno.ESTALE: grpc.StatusCode.ABORTED,
}

Run: TypeAlias = Callable[[Callable[[], None]], None]


class Servable:
    """A SavedModel that is ready to run; thread-safe.

    Attributes:
        signatures: Every `SignatureDef`, by name.
        run: As `Session.run`.
    """

    def __init__(self, session: Session, meta_graph: meta_graph_pb2.MetaGraphDef) -> None:
        # Copies: a part of a parsed message keeps the whole of it in memory, weights and all.
        self.signatures = {name: _copy(signature) for name, signature in meta_graph.signature_def.items()}
        self.run = session.run
        self.close = session.close


def load_servable(
    path: Path, *, tags: Sequence[str], config: config_pb2.ConfigProto, run: Run = run_at_once
) -> Servable:
    """Loads the SavedModel in `path`.

    Args:
        path: Folder of one version.
        tags: Which meta graph to load: the one with exactly these tags, in any order.
        config: Threads and devices of its session.
        run: How to do the part of it that leaves the interpreter alone.

    Raises:
        ServingError: It is not a loadable SavedModel; code and text as the real server has them.
    """
    # The file's content must not lie in memory beside the variables that are read now.
    session, meta_graph = _open(path, tags, config)
    try:
        run(lambda: _initialise(session, meta_graph, path))
        return Servable(session, meta_graph)
    except ServingError:
        session.close()
        raise


def check_folder(servable: object, path: Path) -> None:
    """What the real server does before a load: it adds up sizes, and so looks into every folder of a version.

    Args:
        servable: What is to be loaded, for the text.
        path: Its folder.

    Raises:
        ServingError: There is no folder, or it cannot be looked at, or one in it cannot.
    """

    def fail(error: OSError) -> None:
        raise error

    try:
        path.stat()
        for _ in os.walk(path, onerror=fail):
            pass
    except OSError as error:
        missing = isinstance(error, FileNotFoundError) and error.filename == str(path)
        reason = f"{path} not found" if missing else f"{error.filename}; {error.strerror}"
        raise ServingError(
            _CODES.get(error.errno, grpc.StatusCode.UNKNOWN),
            f"Error while attempting to reserve resources to load servable {servable}: {reason}",
        ) from None


def _open(
    path: Path, tags: Sequence[str], config: config_pb2.ConfigProto
) -> tuple[Session, meta_graph_pb2.MetaGraphDef]:
    data = _read(path)
    saved_model = saved_model_pb2.SavedModel()
    try:
        saved_model.ParseFromString(data)
    except DecodeError:
        # The real server reads the file as a stream, and tells its early end from damage.
        if is_cut_short(data):
            raise ServingError(grpc.StatusCode.OUT_OF_RANGE, "Read less bytes than requested") from None
        raise ServingError(
            grpc.StatusCode.DATA_LOSS, f"Can't parse {path / 'saved_model.pb'} as binary proto"
        ) from None
    for place, meta_graph in enumerate(saved_model.meta_graphs):
        if set(meta_graph.meta_info_def.tags) == set(tags):
            names = _referenced_operations(meta_graph) & {node.name for node in meta_graph.graph_def.node}
            functions, graph_def = _split_graph(meta_graph, data, place)
            return Session(functions, graph_def, sorted(names), config), meta_graph
    raise not_found(
        f"Could not find meta graph def matching supplied tags: {{ {' '.join(sorted(tags))} }}. To inspect "
        "available tag-sets in the SavedModel, please use the SavedModel CLI: `saved_model_cli`"
    )


def _read(path: Path) -> bytes:
    file = path / "saved_model.pb"
    if not file.is_file():
        raise not_found(
            "Specified file path does not appear to contain a SavedModel bundle (should have a file called "
            f"`saved_model.pb`)\nSpecified file path: {path}"
        )
    try:
        return file.read_bytes()
    except OSError as error:
        code = _CODES.get(error.errno, grpc.StatusCode.UNKNOWN)
        raise ServingError(code, f"{file}; {error.strerror}") from None


def _split_graph(
    meta_graph: meta_graph_pb2.MetaGraphDef, data: bytes, place: int
) -> tuple[list[bytes], bytes]:
    """The graph's large functions, each a serialized FunctionDef, and the GraphDef without them.

    They are cut from the file, since to serialize them again would hold up all callers: Python's protobuf
    keeps the interpreter meanwhile (14 MB of weights: 8 ms and more, against 1 ms for a copy). They are taken
    out of `meta_graph` too.
    """
    graph = meta_graph.graph_def
    try:
        (whole,) = submessages(submessages(memoryview(data), _META_GRAPHS)[place], _GRAPH_DEF)
        functions = [
            function
            for library in submessages(whole, _LIBRARY)
            for function in submessages(library, _FUNCTION)
        ]
    except ValueError:
        return [], bytes(graph.SerializeToString())
    large = [number for number, function in enumerate(functions) if len(function) >= _LARGE_BYTES]
    if not large:
        return [], bytes(whole)
    for number in reversed(large):
        del graph.library.function[number]
    return [bytes(functions[number]) for number in large], bytes(graph.SerializeToString())


def _referenced_operations(meta_graph: meta_graph_pb2.MetaGraphDef) -> set[str]:
    """What signatures, variables, assets and the start refer to."""
    tensors = [
        info.name
        for signature in meta_graph.signature_def.values()
        for info in (*signature.inputs.values(), *signature.outputs.values())
    ]
    tensors += [asset.tensor_info.name for asset in meta_graph.asset_file_def]
    tensors += [meta_graph.saver_def.filename_tensor_name, meta_graph.saver_def.restore_op_name]
    tensors.append(_init_op(meta_graph))
    return {tensor.partition(":")[0] for tensor in tensors}


def _initialise(session: Session, meta_graph: meta_graph_pb2.MetaGraphDef, path: Path) -> None:
    folder = path / "assets"
    assets = [
        (asset.tensor_info.name, _string(folder / asset.filename)) for asset in meta_graph.asset_file_def
    ]
    variables = path / "variables" / "variables"
    # As in the real server, a model without a variables folder loads, and fails where it reads a variable.
    if variables.with_suffix(".index").exists():
        saver = meta_graph.saver_def
        feeds = [(saver.filename_tensor_name, _string(variables)), *assets]
        session.run(feeds, [], targets=[saver.restore_op_name])
    if init_op := _init_op(meta_graph):
        session.run(assets, [], targets=[init_op])


def _init_op(meta_graph: meta_graph_pb2.MetaGraphDef) -> str:
    if _INIT_OP_KEY in meta_graph.signature_def:
        return str(meta_graph.signature_def[_INIT_OP_KEY].outputs[_INIT_OP_KEY].name)
    for collection in _INIT_OP_COLLECTIONS:
        if collection in meta_graph.collection_def:
            for name in meta_graph.collection_def[collection].node_list.value:
                return str(name)
    return ""


def _string(path: Path) -> Array:
    return np.array(str(path).encode(), object)


def _copy(signature: meta_graph_pb2.SignatureDef) -> meta_graph_pb2.SignatureDef:
    copied = meta_graph_pb2.SignatureDef()
    copied.CopyFrom(signature)
    return copied
