"""Server reflection under both of its names: tools ask for v1 first, older ones know v1alpha alone.

The two differ in nothing but the package's name, and grpcio-reflection has v1alpha only. So v1 is made of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, cast

import grpc
import grpc.aio
from google.protobuf import descriptor, descriptor_pb2, descriptor_pool, text_format
from grpc_reflection.v1alpha import reflection, reflection_pb2

_ALPHA: Final = "grpc.reflection.v1alpha"
_V1: Final = "grpc.reflection.v1"
_V1_FILE: Final = "grpc/reflection/v1/reflection.proto"
_METHOD: Final = "ServerReflectionInfo"


def enable_reflection(server: grpc.aio.Server, services: Iterable[str]) -> None:
    """Has a server answer for these services, and for reflection itself."""
    _describe_v1(descriptor_pool.Default())
    names = [f"{package}.ServerReflection" for package in (_V1, _ALPHA)]
    # protobuf's class cannot be derived from, so this one only behaves like it.
    pool = cast("descriptor_pool.DescriptorPool", MethodAwarePool())
    handler = grpc.stream_stream_rpc_method_handler(
        reflection.aio.ReflectionServicer((*services, *names), pool=pool).ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(name, {_METHOD: handler}) for name in names]
    )


def _describe_v1(pool: descriptor_pool.DescriptorPool) -> None:
    """Adds the descriptors of v1 to a pool that has not got them."""
    try:
        pool.FindFileByName(_V1_FILE)
    except KeyError:
        alpha = descriptor_pb2.FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(alpha)
        renamed = text_format.MessageToString(alpha).replace(_ALPHA, _V1)
        file = text_format.Parse(renamed, descriptor_pb2.FileDescriptorProto())
        file.name = _V1_FILE
        pool.AddSerializedFile(file.SerializeToString())


class MethodAwarePool:
    """The default descriptor pool, which also finds the file of a method by the method's full name.

    Reflection's protocol allows "package.Service.Method" as a symbol and ghz asks for it, but protobuf's pool
    knows services and messages only.
    """

    def __init__(self) -> None:
        self._pool = descriptor_pool.Default()

    def __getattr__(self, name: str) -> object:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> descriptor.FileDescriptor:  # noqa: N802 - protobuf's name
        """The file that declares a symbol.

        Raises:
            KeyError: No file does.
        """
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            service, _, method = symbol.rpartition(".")
            found = self._pool.FindServiceByName(service)
            if method not in found.methods_by_name:
                raise
            return found.file
