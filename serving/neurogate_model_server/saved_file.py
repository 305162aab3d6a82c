"""A version's folder and file, with the errors that TensorFlow's C++ code has for what is wrong there."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import grpc
from google.protobuf.message import DecodeError
from tensorflow.core.framework import function_pb2, graph_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from .errors import ServingError, not_found
from .states import VersionId
from .wire import is_cut_short, submessages

_META_GRAPHS: Final = saved_model_pb2.SavedModel.META_GRAPHS_FIELD_NUMBER
_GRAPH_DEF: Final = meta_graph_pb2.MetaGraphDef.GRAPH_DEF_FIELD_NUMBER
_LIBRARY: Final = graph_pb2.GraphDef.LIBRARY_FIELD_NUMBER
_FUNCTION: Final = function_pb2.FunctionDefLibrary.FUNCTION_FIELD_NUMBER
_LARGE_BYTES: Final = 2**20
# TensorFlow's codes for what most often keeps a folder from being looked at; others are not told apart here.
_CODES: Final[dict[int | None, grpc.StatusCode]] = {
    errno.ENOENT: grpc.StatusCode.NOT_FOUND,
    errno.ENOTDIR: grpc.StatusCode.FAILED_PRECONDITION,
    errno.EACCES: grpc.StatusCode.PERMISSION_DENIED,
    errno.EPERM: grpc.StatusCode.PERMISSION_DENIED,
    errno.ESTALE: grpc.StatusCode.ABORTED,
}


class SavedMetaGraph(NamedTuple):
    """One meta graph of a `saved_model.pb`.

    Attributes:
        meta_graph: The message.
        data: The file's content.
        place: Which of the file's meta graphs it is.
    """

    meta_graph: meta_graph_pb2.MetaGraphDef
    data: bytes
    place: int

    def split_graph(self) -> tuple[list[bytes], bytes]:
        """The graph's large functions, each a serialized FunctionDef, and the GraphDef without them.

        Cut from the file, since to serialize them again would hold up all callers: Python's protobuf keeps
        the interpreter meanwhile. The functions are taken out of `meta_graph` too.
        """
        graph = self.meta_graph.graph_def
        try:
            (whole,) = submessages(submessages(memoryview(self.data), _META_GRAPHS)[self.place], _GRAPH_DEF)
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


def check_folder(version: VersionId, path: Path) -> None:
    """What the real server does before a load: it adds up sizes, and so looks into every folder of a version.

    Args:
        version: What is to be loaded.
        path: Its folder.

    Raises:
        ServingError: There is no folder, or it cannot be looked at, or one in it cannot.
    """
    try:
        path.stat()
        for _ in os.walk(path, onerror=_raise):
            pass
    except OSError as error:
        missing = isinstance(error, FileNotFoundError) and error.filename == str(path)
        reason = f"{path} not found" if missing else f"{error.filename}; {error.strerror}"
        raise ServingError(
            _code(error), f"Error while attempting to reserve resources to load servable {version}: {reason}"
        ) from None


def _raise(error: OSError) -> None:
    raise error


def _code(error: OSError) -> grpc.StatusCode:
    return _CODES.get(error.errno, grpc.StatusCode.UNKNOWN)


def read_meta_graph(path: Path, tags: Sequence[str]) -> SavedMetaGraph:
    """The meta graph with exactly these tags.

    Args:
        path: Folder of one version.
        tags: In any order.

    Raises:
        ServingError: No file, no SavedModel, or none with these tags.
    """
    file = path / "saved_model.pb"
    if not file.is_file():
        raise not_found(
            "Specified file path does not appear to contain a SavedModel bundle (should have a file called "
            f"`saved_model.pb`)\nSpecified file path: {path}"
        )
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ServingError(_code(error), f"{file}; {error.strerror}") from None
    saved_model = saved_model_pb2.SavedModel()
    try:
        saved_model.ParseFromString(data)
    except DecodeError:
        if is_cut_short(data):
            raise ServingError(grpc.StatusCode.OUT_OF_RANGE, "Read less bytes than requested") from None
        raise ServingError(grpc.StatusCode.DATA_LOSS, f"Can't parse {file} as binary proto") from None
    for place, meta_graph in enumerate(saved_model.meta_graphs):
        if set(meta_graph.meta_info_def.tags) == set(tags):
            return SavedMetaGraph(meta_graph, data, place)
    raise not_found(
        f"Could not find meta graph def matching supplied tags: {{ {' '.join(sorted(tags))} }}. To inspect "
        "available tag-sets in the SavedModel, please use the SavedModel CLI: `saved_model_cli`"
    )
