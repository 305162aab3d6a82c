"""Images that no caller waits for: the shadow's copies, and those by which the gate judges a version.

They take the same way as a caller's image, and nobody observes them. They never make a caller wait: while
there is more than a little to do they are refused, and whoever brought them drops them or comes back later.
Who has to come to an end, however long callers have much to do, may press for one now and then.
"""

from __future__ import annotations

import time

from neurogate.v1 import error_pb2

from neurogate_gateway.backends.call_slots import CallKind
from neurogate_gateway.backends.pool import BackendPool
from neurogate_gateway.backends.tfserving import VersionUnloadedError
from neurogate_gateway.deadline import Deadline
from neurogate_gateway.errors import GatewayError

from .admission import Admission
from .predictions import Prediction, ResolvedVersion, StageTimings, classification
from .preprocessing import TransformPool


class BackgroundInference:
    """Runs single images through a version."""

    def __init__(self, admission: Admission, pool: BackendPool, transforms: TransformPool) -> None:
        self._admission = admission
        self._pool = pool
        self._transforms = transforms

    async def run(self, number: int, image: bytes, *, seconds: float, pressing: bool = False) -> Prediction:
        """What a version says about one encoded image; all classes, chosen by no label.

        Args:
            number: A version that is READY.
            image: Encoded.
            seconds: Time for it.
            pressing: It has waited long enough, as `Admission.quiet` has it.

        Raises:
            OverloadedError: Callers come first now.
            GatewayError (MODEL_NOT_READY): The version is not READY (any more).
            GatewayError: Why there is no answer.
        """
        self._admission.check_image(image)
        asked = time.perf_counter()
        deadline = Deadline.after(seconds)
        with self._admission.low_priority(pressing=pressing):
            async with deadline.enforced():
                version = self._pool.ready(number)
                if version is None:
                    raise GatewayError(
                        error_pb2.ERROR_REASON_MODEL_NOT_READY, f"version {number} is not READY"
                    )
                transformed = await self._transforms.run(image, version.manifest.transform)
                try:
                    prediction = await self._pool.predict(
                        version, transformed.pixels, CallKind.OWN, gradcam=False, deadline=deadline
                    )
                except VersionUnloadedError:
                    prediction = None
                if prediction is None:
                    raise GatewayError(
                        error_pb2.ERROR_REASON_MODEL_NOT_READY, f"version {number} went away meanwhile"
                    )
        choice = ResolvedVersion(version, "", 0)
        worked = transformed.transform_seconds + prediction.seconds
        observe_latency = StageTimings(
            queue=max(time.perf_counter() - asked - worked, 0.0),
            transform=transformed.transform_seconds,
            predict=prediction.seconds,
        )
        outputs = prediction.outputs
        return Prediction(choice, outputs, classification(choice, outputs, observe_latency))
