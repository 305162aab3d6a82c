"""Calls every RPC of the contract with what `request_mutations` makes, and judges the answers.

By gRPC's blocking client: the one of asyncio reports INTERNAL by itself where a server ends a stream early.
"""

from __future__ import annotations

import base64
import collections
import dataclasses
import importlib
import pkgutil
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc
import neurogate.v1
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.rpc import code_pb2, error_details_pb2, status_pb2

from .request_mutations import RequestMaker, Vocabulary, statuses

HANG_SECONDS: Final = 60.0
"""What is not answered by then, where the caller has waited for an answer, is not answered at all."""

_FAULTS: Final = {
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.UNIMPLEMENTED,
}
_BY_GRPC: Final = {
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    # A message above the channel's limit.
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
_MOST_SHOWN: Final = 3000


def contract_methods() -> list[MethodDescriptor]:
    """Every RPC of every service under neurogate.v1, by the descriptors."""
    found = []
    for module in pkgutil.iter_modules(neurogate.v1.__path__):
        if module.name.endswith("_pb2"):
            file = importlib.import_module(f"neurogate.v1.{module.name}").DESCRIPTOR
            for service in file.services_by_name.values():
                found += service.methods
    return found


@dataclasses.dataclass
class Finding:
    """A call that was answered as none may be."""

    number: int
    method: str
    what: str
    messages: list[bytes]

    def __str__(self) -> str:
        shown = " ".join(base64.b64encode(message).decode() for message in self.messages)
        return f"case {self.number} of {self.method}: {self.what}\n  messages (base64): {shown[:_MOST_SHOWN]}"


@dataclasses.dataclass
class _Manner:
    """How a caller behaves."""

    deadline: float | None
    """Seconds; None waits for the answer."""
    reads: int | None
    """Responses of a stream that are read before the call is cancelled; None reads all."""
    half_closes: bool
    """Whether a stream of requests is ended."""
    late: bool
    """Whether the other messages of a stream wait for the first response."""


class RpcFuzzer:
    """Makes cases; each is a function of the seed, its number and what was answered before."""

    def __init__(self, address: str, vocabulary: Vocabulary, seed: int) -> None:
        self.methods = contract_methods()
        self.counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self.findings: list[Finding] = []
        self.calls = 0
        self.slowest: list[tuple[float, int, str]] = []
        self._address = address
        self._vocabulary = vocabulary
        self._seed = seed
        self._lock = threading.Lock()

    def run(self, until: float, *, workers: int = 4) -> None:
        """Makes cases until a moment of `time.monotonic`, three of each method at least, or five findings."""
        least = self.calls + 3 * len(self.methods)
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        with grpc.insecure_channel(self._address, options=options) as channel:

            def work() -> None:
                while (time.monotonic() < until or self.calls < least) and len(self.findings) < 5:
                    with self._lock:
                        number, self.calls = self.calls, self.calls + 1
                    self._case(channel, number)

            with ThreadPoolExecutor(workers, thread_name_prefix="fuzzer") as pool:
                for done in [pool.submit(work) for _ in range(workers)]:
                    done.result()

    def report(self) -> str:
        """What was called and answered, for people."""
        lines = [f"{self.calls} calls of {len(self.methods)} methods from seed {self._seed}"]
        lines += [
            f"  {name}: " + ", ".join(f"{code} {count}" for code, count in counts.most_common())
            for name, counts in sorted(self.counts.items())
        ]
        slowest = (f"{name} (case {number}) {took:.2f} s" for took, number, name in self.slowest)
        return "\n".join((*lines, "slowest: " + ", ".join(slowest), *map(str, self.findings)))

    def _case(self, channel: grpc.Channel, number: int) -> None:
        method = self.methods[number % len(self.methods)]
        name = f"{method.containing_service.name}.{method.name}"
        rng = random.Random(f"{self._seed}:{number}")
        with self._lock:
            maker = RequestMaker(rng, self._vocabulary)
            count = rng.choice((0, 1, 1, 2, 3, 8)) if method.client_streaming else 1
            messages = [maker.serialized(method.input_type) for _ in range(count)]
        begun = time.monotonic()
        code, what = self._call(channel, method, messages, _manner(method, rng))
        took = time.monotonic() - begun
        with self._lock:
            self.slowest = sorted((*self.slowest, (took, number, name)), reverse=True)[:5]
            self.counts[name][code] += 1
            if what:
                self.findings.append(Finding(number, name, what, messages))

    def _call(
        self, channel: grpc.Channel, method: MethodDescriptor, messages: list[bytes], manner: _Manner
    ) -> tuple[str, str]:
        """The call's status or its reason, and what is wrong with the answer, if anything."""
        path = f"/{method.containing_service.full_name}/{method.name}"
        answered, ended = threading.Event(), threading.Event()
        request: Any = (
            messages[0] if not method.client_streaming else _stream(messages, manner, answered, ended)
        )
        seconds = manner.deadline or HANG_SECONDS
        try:
            if not method.server_streaming:
                kind = channel.stream_unary if method.client_streaming else channel.unary_unary
                future = kind(path).future(request, timeout=seconds)
                if manner.reads is not None:
                    future.cancel()
                return self._answer(method, future.result())
            many = channel.stream_stream if method.client_streaming else channel.unary_stream
            call = many(path)(request, timeout=seconds)
            if manner.reads == 0:
                call.cancel()
            for read, response in enumerate(call, start=1):
                answered.set()
                code, what = self._answer(method, response)
                if what or read == manner.reads:
                    call.cancel()
                    return code, what
            return "OK", ""
        except grpc.FutureCancelledError:
            return "CANCELLED", ""
        except grpc.RpcError as error:
            reason = _reason(error)
            return reason or error.code().name, _judge(error, reason, manner)
        finally:
            answered.set()
            ended.set()

    def _answer(self, method: MethodDescriptor, data: bytes) -> tuple[str, str]:
        response = message_factory.GetMessageClass(method.output_type).FromString(data)
        with self._lock:
            self._vocabulary.learn(response)
        for status in statuses(response):
            if status.code in {code_pb2.INTERNAL, code_pb2.UNKNOWN}:
                return "OK", f"an item was answered with {status}"
        return "OK", ""


def _manner(method: MethodDescriptor, rng: random.Random) -> _Manner:
    manner = _Manner(None, None, half_closes=True, late=rng.random() < 0.2)
    luck = rng.random()
    if luck < 0.1:
        manner.deadline = rng.choice((0.0005, 0.005, 0.03, 0.2))
    elif luck < 0.2:
        manner.reads = rng.choice((0, 0, 1, 2))
    if method.client_streaming and rng.random() < 0.2:
        manner.half_closes = False
    watches = method.server_streaming and not method.client_streaming
    if manner.deadline is None and (not manner.half_closes or manner.late or watches):
        # What nobody else may end: a watch, or a stream whose caller waits.
        manner.deadline = rng.choice((0.05, 0.3))
    return manner


def _stream(
    messages: list[bytes], manner: _Manner, answered: threading.Event, ended: threading.Event
) -> Iterator[bytes]:
    for place, message in enumerate(messages):
        if place and manner.late:
            answered.wait()
        yield message
    if not manner.half_closes:
        ended.wait()


def _reason(error: grpc.RpcError) -> str:
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for packed in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if packed.Unpack(info):
                    return str(info.reason)
    return ""


def _judge(error: grpc.RpcError, reason: str, manner: _Manner) -> str:
    code = error.code()
    if code in _FAULTS:
        return f"{code.name} {reason}: {error.details()}"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED and manner.deadline is None:
        return f"no answer in time: {reason} {error.details()}"
    if not reason and code not in _BY_GRPC:
        return f"{code.name} without a reason: {error.details()}"
    return ""
