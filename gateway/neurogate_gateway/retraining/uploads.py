"""From an upload's messages to examples: items put together, checked by the one transform, kept in groups.

An item is checked as Classify would check it, so that whatever is kept can be learned from. Those that are
checked while a commit is under way share the next one: with many items in flight a commit costs each of them
little, with one it waits for no other.
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

from .service import check_classes

_MAX_KEY: Final = 256
_MAX_GROUP: Final = 128
_MAX_COMMIT: Final = 64
_DIGEST: Final = re.compile(r"[0-9a-fA-F]{64}")


@dataclasses.dataclass(slots=True)
class Item:
    """One item of an upload, whole, or refused for the way in which it came."""

    key: str
    class_id: str
    sha256: str
    group: str
    frame: int
    data: bytes = b""
    error: GatewayError | None = None


class Assembler:
    """Puts items together from messages; holds at most one image.

    Args:
        max_image_bytes: What is larger is refused and not held.
    """

    def __init__(self, max_image_bytes: int) -> None:
        self._max_image_bytes = max_image_bytes
        self._item: Item | None = None
        self._data = bytearray()
        self._size = 0

    def feed(self, message: training_pb2.UploadExamplesRequest) -> list[Item]:
        """Takes the next message; returns the items that end with it."""
        done: list[Item] = []
        item = self._item
        if item is not None and message.class_id:
            done.append(self._close(item, "another item began in the middle of this one"))
            item = None
        if item is None:
            item = self._begin(message)
        elif message.key and message.key != item.key:
            self._refuse(item, _out_of_sequence("a chunk has another key than its item", "key"))
        self._size += len(message.data)
        if self._size > self._max_image_bytes:
            too_large = GatewayError(
                error_pb2.ERROR_REASON_IMAGE_TOO_LARGE,
                f"the image has more bytes than the limit of {self._max_image_bytes}",
                field="data",
                metadata={"max_image_bytes": str(self._max_image_bytes)},
            )
            self._refuse(item, too_large)
        if item.error is None:
            self._data += message.data
        if not message.more:
            done.append(self._close(item))
        return done

    def end(self) -> list[Item]:
        """The stream has ended; returns the item that has not."""
        if self._item is None:
            return []
        return [self._close(self._item, "the stream ended in the middle of the item")]

    def _begin(self, message: training_pb2.UploadExamplesRequest) -> Item:
        key = message.key[:_MAX_KEY]
        item = Item(key, message.class_id, message.sha256, message.group, message.frame)
        self._item, self._size = item, 0
        if not message.class_id:
            self._refuse(item, _out_of_sequence("an item's first message has no class_id", "class_id"))
        if len(message.key) > _MAX_KEY:
            complaint = f"the key has {len(message.key)} characters, the limit is {_MAX_KEY}"
            self._refuse(item, GatewayError(error_pb2.ERROR_REASON_KEY_INVALID, complaint, field="key"))
        return item

    def _refuse(self, item: Item, error: GatewayError) -> None:
        item.error = item.error or error
        self._data = bytearray()

    def _close(self, item: Item, interruption: str = "") -> Item:
        if interruption:
            self._refuse(item, _out_of_sequence(interruption))
        item.data = bytes(self._data)
        self._item, self._data = None, bytearray()
        return item


class Uploads:
    """Checks items and keeps them as examples."""

    def __init__(self, store: Store, admission: Admission, transforms: TransformPool) -> None:
        self._store = store
        self._admission = admission
        self._transforms = transforms
        self._pending: list[tuple[NewExample, asyncio.Future[Kept | GatewayError]]] = []
        self._committing: asyncio.Task[None] | None = None

    async def keep(self, item: Item, version: ServedVersion, actor: str) -> Kept:
        """Keeps one item by a version's classes and transform; it is on disk when this returns.

        Raises:
            GatewayError: Why it is not kept.
        """
        if item.error is not None:
            raise item.error
        if len(item.group) > _MAX_GROUP or not item.group.isprintable():
            raise GatewayError(
                error_pb2.ERROR_REASON_EXAMPLE_NAME_INVALID,
                f"the group is not printable or longer than {_MAX_GROUP} characters",
                field="group",
            )
        if item.sha256 and not _DIGEST.fullmatch(item.sha256):
            raise _other_digest("sha256 is no SHA-256 in hexadecimal digits")
        self._admission.check_image(item.data, field="data")
        check_classes(version, [item.class_id], field="class_id")
        async with self._admission.bulk_image():
            image = await self._transforms.storable(item.data, version.manifest.transform, item.frame)
        if item.sha256 and item.sha256.lower() != image.sent_sha256:
            raise _other_digest("the image's bytes have another digest than came with it", image.sent_sha256)
        example = NewExample(
            example_id=image.sha256,
            data=image.data,
            sent_sha256=image.sent_sha256,
            class_id=item.class_id,
            group=item.group,
            width=image.width,
            height=image.height,
            actor=actor,
            attributes=image.attributes,
        )
        result: asyncio.Future[Kept | GatewayError] = asyncio.get_running_loop().create_future()
        self._pending.append((example, result))
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit_pending())
        kept = await result
        if isinstance(kept, GatewayError):
            raise kept
        return kept

    async def _commit_pending(self) -> None:
        while self._pending:
            group, self._pending = self._pending[:_MAX_COMMIT], self._pending[_MAX_COMMIT:]
            new = [example for example, _ in group]
            try:
                results = await self._store.run(self._store.examples.add, new)
            except Exception as error:  # noqa: BLE001 - everyone who waits for it gets it
                for _, result in group:
                    if not result.done():
                        result.set_exception(error)
                continue
            for (_, result), outcome in zip(group, results, strict=True):
                # Whoever waited may have gone; the example is kept all the same.
                if not result.done():
                    result.set_result(outcome)


def _out_of_sequence(complaint: str, field: str = "") -> GatewayError:
    return GatewayError(error_pb2.ERROR_REASON_UPLOAD_SEQUENCE_INVALID, complaint, field=field)


def _other_digest(complaint: str, sent_sha256: str = "") -> GatewayError:
    metadata = {"sha256": sent_sha256} if sent_sha256 else {}
    reason = error_pb2.ERROR_REASON_EXAMPLE_DIGEST_MISMATCH
    return GatewayError(reason, complaint, field="sha256", metadata=metadata)
