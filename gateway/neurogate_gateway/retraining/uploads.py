"""From an upload's messages to examples: items put together, checked by the one transform, kept in groups.

An item is checked as Classify would check it, so that whatever is kept can be learned from. Those that are
checked while a commit is under way share the next one: with many items in flight a commit costs each of them
little, with one it waits for nobody.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
from typing import Final

from neurogate.v1 import error_pb2, training_pb2

from neurogate_gateway.backends.verification import ServedVersion
from neurogate_gateway.errors import GatewayError
from neurogate_gateway.inference.admission import Admission
from neurogate_gateway.inference.preprocessing import TransformPool
from neurogate_gateway.store.examples import Kept, NewExample
from neurogate_gateway.store.store import Store

_LONGEST_KEY: Final = 256
_LONGEST_GROUP: Final = 128
_LARGEST_COMMIT: Final = 64
_DIGEST: Final = re.compile(r"[0-9a-fA-F]{64}")


@dataclasses.dataclass(slots=True)
class Item:
    """One item of an upload, whole, or refused for the way in which it came."""

    key: str
    class_id: str
    sha256: str
    group: str
    frame: int = 0
    data: bytes = b""
    error: GatewayError | None = None


class Assembler:
    """Puts items together from messages; holds at most one image.

    Args:
        max_image_bytes: What is larger is refused and not held.
    """

    def __init__(self, max_image_bytes: int) -> None:
        self._max_image_bytes = max_image_bytes
        self._open: Item | None = None
        self._data = bytearray()
        self._size = 0

    def feed(self, message: training_pb2.UploadExamplesRequest) -> list[Item]:
        """Takes the next message; returns the items that end with it."""
        done: list[Item] = []
        if self._open is not None and message.class_id:
            done.append(self._close("another item began in the middle of this one"))
        if self._open is None:
            self._begin(message)
        elif message.key and message.key != self._open.key:
            self._refuse(
                GatewayError(
                    error_pb2.ERROR_REASON_UPLOAD_SEQUENCE_INVALID,
                    "a chunk has another key than its item",
                    field="key",
                )
            )
        self._take(message.data)
        if not message.more:
            done.append(self._close())
        return done

    def end(self) -> list[Item]:
        """The stream has ended; returns the item that has not."""
        return [] if self._open is None else [self._close("the stream ended in the middle of the item")]

    def _begin(self, message: training_pb2.UploadExamplesRequest) -> None:
        self._open = Item(message.key, message.class_id, message.sha256, message.group, message.frame)
        self._size = 0
        if not message.class_id:
            self._refuse(
                GatewayError(
                    error_pb2.ERROR_REASON_UPLOAD_SEQUENCE_INVALID,
                    "an item's first message has no class_id",
                    field="class_id",
                )
            )
        if len(message.key) > _LONGEST_KEY:
            self._open.key = message.key[:_LONGEST_KEY]
            self._refuse(
                GatewayError(
                    error_pb2.ERROR_REASON_KEY_INVALID,
                    f"the key has {len(message.key)} characters, the limit is {_LONGEST_KEY}",
                    field="key",
                )
            )

    def _take(self, data: bytes) -> None:
        assert self._open is not None  # noqa: S101 - feed has begun one
        self._size += len(data)
        if self._size > self._max_image_bytes:
            self._refuse(
                GatewayError(
                    error_pb2.ERROR_REASON_IMAGE_TOO_LARGE,
                    f"the image has more bytes than the limit of {self._max_image_bytes}",
                    field="data",
                    metadata={"max_image_bytes": str(self._max_image_bytes)},
                )
            )
        if self._open.error is None:
            self._data += data

    def _refuse(self, error: GatewayError) -> None:
        assert self._open is not None  # noqa: S101 - the callers have one
        self._open.error = self._open.error or error
        self._data = bytearray()

    def _close(self, interruption: str = "") -> Item:
        assert self._open is not None  # noqa: S101 - the callers have one
        if interruption:
            self._refuse(GatewayError(error_pb2.ERROR_REASON_UPLOAD_SEQUENCE_INVALID, interruption))
        item = self._open
        item.data = bytes(self._data)
        self._open, self._data = None, bytearray()
        return item


class Uploads:
    """Checks items and keeps them as examples."""

    def __init__(self, records: Store, admission: Admission, transforms: TransformPool) -> None:
        self._records = records
        self._admission = admission
        self._transforms = transforms
        self._pending: list[tuple[NewExample, asyncio.Future[Kept | GatewayError]]] = []
        self._committing: asyncio.Task[None] | None = None

    async def keep(self, item: Item, version: ServedVersion, actor: str) -> Kept:
        """Keeps one item; it is on disk when this returns.

        Args:
            item: From the assembler.
            version: Whose classes and transform decide.
            actor: Who sends it.

        Raises:
            GatewayError: Why it is not kept.
        """
        if item.error is not None:
            raise item.error
        _check_words(item)
        self._admission.check_image(item.data, field="data")
        known = [identifier for identifier, _ in version.classes]
        if item.class_id not in known:
            raise GatewayError(
                error_pb2.ERROR_REASON_CLASS_NOT_FOUND,
                f"version {version.number} has no class {item.class_id!r}, only {', '.join(known)}",
                field="class_id",
            )
        async with self._admission.bulk_image():
            kept = await self._transforms.storable(item.data, version.manifest.transform, item.frame)
        if item.sha256 and item.sha256.lower() != kept.sent_sha256:
            raise GatewayError(
                error_pb2.ERROR_REASON_EXAMPLE_DIGEST_MISMATCH,
                "the image's bytes do not have the digest that came with it",
                field="sha256",
                metadata={"sha256": kept.sent_sha256},
            )
        example = NewExample(
            example_id=kept.sha256,
            data=kept.data,
            sent_sha256=kept.sent_sha256,
            class_id=item.class_id,
            group=item.group,
            width=kept.width,
            height=kept.height,
            actor=actor,
            attributes=kept.attributes,
        )
        result = await self._commit(example)
        if isinstance(result, GatewayError):
            raise result
        return result

    async def _commit(self, example: NewExample) -> Kept | GatewayError:
        result: asyncio.Future[Kept | GatewayError] = asyncio.get_running_loop().create_future()
        self._pending.append((example, result))
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit_pending())
        return await result

    async def _commit_pending(self) -> None:
        while self._pending:
            group, self._pending = self._pending[:_LARGEST_COMMIT], self._pending[_LARGEST_COMMIT:]
            try:
                results = await self._records.run(
                    self._records.examples.add, [example for example, _ in group]
                )
            except Exception as error:  # noqa: BLE001 - told to everyone who waits for it
                for _, result in group:
                    if not result.done():
                        result.set_exception(error)
                continue
            for (_, result), outcome in zip(group, results, strict=True):
                # Whoever waited may have gone; the example is kept all the same.
                if not result.done():
                    result.set_result(outcome)


def _check_words(item: Item) -> None:
    """Refuses a group that cannot be shown, and a digest that is none."""
    if len(item.group) > _LONGEST_GROUP or not item.group.isprintable():
        raise GatewayError(
            error_pb2.ERROR_REASON_EXAMPLE_NAME_INVALID,
            f"the group is not printable or longer than {_LONGEST_GROUP} characters",
            field="group",
        )
    if item.sha256 and not _DIGEST.fullmatch(item.sha256):
        raise GatewayError(
            error_pb2.ERROR_REASON_EXAMPLE_DIGEST_MISMATCH,
            "sha256 is no SHA-256 in hexadecimal digits",
            field="sha256",
        )
