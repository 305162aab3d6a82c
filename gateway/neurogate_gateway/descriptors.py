"""What server reflection looks symbols up in."""

from __future__ import annotations

from google.protobuf import descriptor, descriptor_pool


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
