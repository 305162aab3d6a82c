"""UploadExamples: each item is acknowledged, in the order of the items, once its example is on disk."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Final

from neurogate.v1 import training_pb2

from neurogate_gateway.backends.verification import ServedVersion
from neurogate_gateway.deadline import Deadline
from neurogate_gateway.errors import GatewayError
from neurogate_gateway.inference.admission import Admission
from neurogate_gateway.observability.logging import call_record, internal_error
from neurogate_gateway.release.promotion import StableResolver
from neurogate_gateway.retraining.uploads import Assembler, Item, Uploads

from .interceptor import Context
from .streams import BidirectionalCall, BidirectionalServer, Window

_WINDOW_ITEMS: Final = 64
"""Enough for a commit to be shared by many, and no more than one commit takes."""

Request = training_pb2.UploadExamplesRequest
Response = training_pb2.UploadExamplesResponse


class UploadServer(BidirectionalServer[Request, Item, Response]):
    """Serves uploads."""

    def __init__(
        self,
        uploads: Uploads,
        router: StableResolver,
        admission: Admission,
        *,
        max_image_bytes: int,
        window_bytes: int,
        idle: float,
    ) -> None:
        super().__init__()
        self._uploads = uploads
        self._router = router
        self._admission = admission
        self._max_image_bytes = max_image_bytes
        self._window_bytes = window_bytes
        self._idle = idle

    async def serve(self, requests: AsyncIterator[Request], context: Context) -> None:
        """Serves one upload to its end.

        Raises:
            GatewayError: Why it ends before its caller ended it; what was acknowledged is kept.
        """
        with self._admission.bulk_calls.held():
            version = await self._router.resolve_stable(Deadline.of_call(context.time_remaining(), math.inf))
            window = Window(_WINDOW_ITEMS, self._window_bytes)
            upload = _Upload(self._uploads, version, self._max_image_bytes, window, idle=self._idle)
            await self._run(upload, requests, context, [])


class _Upload(BidirectionalCall[Request, Item, Response]):
    def __init__(
        self, uploads: Uploads, version: ServedVersion, max_image_bytes: int, window: Window, *, idle: float
    ) -> None:
        super().__init__(window, ordered=True, idle=idle)
        self._uploads = uploads
        self._version = version
        self._assembler = Assembler(max_image_bytes)
        self._actor = call_record().caller()

    def _take(self, message: Request) -> list[Item]:
        return self._assembler.feed(message)

    def _rest(self) -> list[Item]:
        return self._assembler.end()

    async def _answer(self, item: Item) -> Response:
        try:
            kept = await self._uploads.keep(item, self._version, self._actor)
        except GatewayError as error:
            return Response(key=item.key, error=error.to_status())
        except Exception as defect:  # noqa: BLE001 - a defect that one item meets must not end the others
            return Response(key=item.key, error=internal_error(defect).to_status())
        call_record().images += 1
        return Response(key=item.key, example=training_pb2.UploadedExample(**kept._asdict()))
