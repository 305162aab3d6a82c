"""Each call of the service described once, for threads and for asyncio.

A call is a generator of steps: what to ask the gateway, what to read from disk, how long to pause. It says
nothing about how a step is done; `_blocking` does them in the caller's thread, `_awaiting` in an event loop.
`unary` and `watching` make a method of such a description, with the convention of the client it is called on.
"""

from __future__ import annotations

import functools
import time
import types
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from google.protobuf import wrappers_pb2
from google.protobuf.message import Message
from neurogate.v1 import classification_pb2_grpc, model_pb2_grpc, training_pb2_grpc

from . import _channel
from .errors import UnavailableError

P = ParamSpec("P")
T = TypeVar("T")

# The client is to need no grpcio-health-checking. HealthCheckRequest is one string in field 1 and its
# response one enum in field 1, which is what protobuf's StringValue and Int32Value look like on the wire.
HEALTH_METHOD = "/grpc.health.v1.Health/Check"

_FIRST_DELAY = 0.2
_LONGEST_DELAY = 5.0
_DELAY_GROWTH = 2.5


class Stubs:
    """The services on one channel, of threads or of asyncio."""

    classification: classification_pb2_grpc.ClassificationServiceStub
    models: model_pb2_grpc.ModelServiceStub
    training: training_pb2_grpc.TrainingServiceStub

    def __init__(self, channel: Any) -> None:  # noqa: ANN401 - grpc.Channel and grpc.aio.Channel have no common base
        self.classification = classification_pb2_grpc.ClassificationServiceStub(channel)
        self.models = model_pb2_grpc.ModelServiceStub(channel)
        self.training = training_pb2_grpc.TrainingServiceStub(channel)
        self.check = channel.unary_unary(
            HEALTH_METHOD,
            request_serializer=wrappers_pb2.StringValue.SerializeToString,
            response_deserializer=wrappers_pb2.Int32Value.FromString,
        )


Method = Callable[[Stubs], Any]


@dataclass(frozen=True, slots=True)
class Ask:
    """A unary call; gives the response. Without a timeout the client's counts."""

    method: Method
    request: Message
    timeout: float | None


@dataclass(frozen=True, slots=True)
class Work:
    """Something that may block for a while, e.g. on a disk; gives what it returns."""

    function: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing, for some seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Open:
    """Begins a server's stream, in place of the one before; `timeout` is in seconds, None for no limit."""

    method: Method
    request: Message
    timeout: float | None


@dataclass(frozen=True, slots=True)
class Next:
    """Gives the open stream's next response; None at its end."""


@dataclass(frozen=True, slots=True)
class Emit(Generic[T]):
    """Hands the caller one item."""

    item: T


Steps = Generator[Ask | Work | Pause, Any, T]
"""A description of a call that gives one result. Failures of a step are raised in it."""

Watch = Generator[Open | Next | Pause | Emit[T], Any, None]
"""A description of a call that gives one item after another. Failures of a step are raised in it."""


class Connection:
    """What every description may use of its client."""

    target: str
    _timeout: float
    _max_image_bytes: int


class Blocking(Connection):
    """A client whose methods return their results."""

    def _run(self, steps: Steps[T]) -> T:
        raise NotImplementedError

    def _watch(self, watch: Watch[T]) -> Generator[T, None, None]:
        raise NotImplementedError


class Awaiting(Connection):
    """A client whose methods are awaited."""

    async def _run(self, steps: Steps[T]) -> T:
        raise NotImplementedError

    def _watch(self, watch: Watch[T]) -> AsyncGenerator[T, None]:
        raise NotImplementedError


class unary(Generic[P, T]):  # noqa: N801 - a decorator
    """Makes a method of a description that gives one result."""

    def __init__(self, describe: Callable[Concatenate[Any, P], Steps[T]]) -> None:
        @functools.wraps(describe)
        def blocking(client: Blocking, *args: P.args, **kwargs: P.kwargs) -> T:
            return client._run(describe(client, *args, **kwargs))  # noqa: SLF001 - of this package

        @functools.wraps(describe)
        async def awaiting(client: Awaiting, *args: P.args, **kwargs: P.kwargs) -> T:
            return await client._run(describe(client, *args, **kwargs))  # noqa: SLF001 - of this package

        self.__doc__ = describe.__doc__
        self._blocking, self._awaiting = blocking, awaiting

    @overload
    def __get__(self, client: None, owner: type) -> Self: ...
    @overload
    def __get__(self, client: Blocking, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: Awaiting, owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, client: Connection | None, owner: type) -> object:
        return _method(client, owner, self._blocking, self._awaiting)


class watching(Generic[P, T]):  # noqa: N801 - a decorator
    """Makes a method of a description that gives items: a generator, or an asynchronous one."""

    def __init__(self, describe: Callable[Concatenate[Any, P], Watch[T]]) -> None:
        @functools.wraps(describe)
        def watch(client: Blocking | Awaiting, *args: P.args, **kwargs: P.kwargs) -> Any:  # noqa: ANN401 - either kind of generator
            return client._watch(describe(client, *args, **kwargs))  # noqa: SLF001 - of this package

        self.__doc__ = describe.__doc__
        self._method = watch

    @overload
    def __get__(self, client: None, owner: type) -> Self: ...
    @overload
    def __get__(self, client: Blocking, owner: type) -> Callable[P, Generator[T, None, None]]: ...
    @overload
    def __get__(self, client: Awaiting, owner: type) -> Callable[P, AsyncGenerator[T, None]]: ...
    def __get__(self, client: Connection | None, owner: type) -> object:
        return _method(client, owner, self._method, self._method)


def _method(
    client: Connection | None, owner: type, blocking: Callable[..., Any], awaiting: Callable[..., Any]
) -> object:
    function = awaiting if issubclass(owner, Awaiting) else blocking
    return function if client is None else types.MethodType(function, client)


class Reconnecting:
    """How long to wait before a broken stream is begun again, and when to give up.

    Args:
        patience: seconds without any response after which the last failure is raised.
    """

    def __init__(self, patience: float) -> None:
        _channel.check_timeout("patience", patience)
        self._patience = patience
        self.worked()

    def worked(self) -> None:
        """Notes that a response has come."""
        self._since: float | None = None
        self._delay = _FIRST_DELAY

    def delay(self, error: UnavailableError) -> float:
        """Seconds to wait now.

        Raises:
            UnavailableError: `error`, when it has lasted too long.
        """
        now = time.monotonic()
        if self._since is None:
            self._since = now
        left = self._since + self._patience - now
        if left <= 0:
            raise error
        wanted = error.retry_after if error.retry_after is not None else self._delay
        self._delay = min(self._delay * _DELAY_GROWTH, _LONGEST_DELAY)
        return min(wanted, left)
