"""A gateway without a model, on a real socket: what the client's tests talk to.

The bytes of an "image" say what is to become of it: `b"glioma"` is answered with that class, `b"corrupt"`,
`b"not an image"` and the like with the error of `REFUSALS`. Everything else is as the contract has it.
"""

# The methods of a servicer are named by the contract.
# ruff: noqa: N802

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc import status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from neurogate.v1 import classification_pb2 as pb
from neurogate.v1 import classification_pb2_grpc, manifest_pb2, model_pb2, model_pb2_grpc, training_pb2_grpc

from neurogate_testing.fake_release import FakeRelease, ReleaseMethods
from neurogate_testing.fake_status import abort, refusal, refuse
from neurogate_testing.fake_training import FakeTraining, TrainingServicer

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")
NAMES = {
    "glioma": "Glioma",
    "meningioma": "Meningioma",
    "notumor": "No tumour",
    "pituitary": "Pituitary tumour",
}
REFUSALS = {
    b"corrupt": "IMAGE_CORRUPT",
    b"not an image": "IMAGE_FORMAT_UNSUPPORTED",
    b"bomb": "IMAGE_TOO_MANY_PIXELS",
}
PNG = b"\x89PNG\r\n\x1a\n" + b"overlay"


@dataclass
class Script:
    """What the fake does beside answering; set by a test, while it runs if need be."""

    failures: list[status_pb2.Status | grpc.StatusCode] = field(default_factory=list)
    """Errors of the next calls, one each; a bare code comes without details, as from a proxy."""
    gate: threading.Event = field(default_factory=threading.Event)
    """Streams answer only while this is set."""
    swap_pairs: bool = False
    """Streams that allow it answer every second image before the first."""
    hang: bool = False
    """Calls wait until the caller gives up."""
    hanging: threading.Event = field(default_factory=threading.Event)
    """Set when a call waits."""
    versions: list[model_pb2.ModelVersion] = field(default_factory=list)
    model_servers: list[model_pb2.ModelServer] = field(default_factory=list)
    page_size: int = 50
    calls: list[str] = field(default_factory=list)
    requests: list[object] = field(default_factory=list)
    time_remaining: list[float | None] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)
    """Set when a caller has cancelled a call."""
    received: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Released for every image that arrives in a stream."""
    release: FakeRelease = field(default_factory=FakeRelease)
    training: FakeTraining = field(default_factory=FakeTraining)
    other_opinion: dict[int, dict[bytes, str]] = field(default_factory=dict)
    """By version, the classes of images that it sees otherwise than their bytes say."""
    lose_answers: int = 0
    """So many changes are made, and then their answers lost."""
    first_answers: dict[str, tuple[object, Any]] = field(default_factory=dict)
    """Requests and answers of changes, by request_id."""
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set when the fake stops; watches end."""


def version(number: int, *, state: str = "READY", labels: tuple[str, ...] = ()) -> model_pb2.ModelVersion:
    """A version with a manifest as a trainer would write it."""
    made = {"seconds": 1_700_000_000}
    result = model_pb2.ModelVersion(
        model="brain_tumor", version=number, state=f"MODEL_VERSION_STATE_{state}", labels=labels,
        manifest_digest=f"{number:064x}", state_time=made,
        manifest=manifest_pb2.ModelManifest(
            manifest_revision=1, model_name="brain_tumor", version=number, created_at=made,
            notice="Research software, not a medical device.",
            metrics={
                "support": 400, "accuracy": 0.9125, "macro_f1": 0.905, "macro_roc_auc": 0.99, "ece": 0.021,
                "accuracy_ci_low": 0.88, "accuracy_ci_high": 0.94,
            },
            thresholds={
                "abstain_below": 0.6, "out_of_distribution_above": 12.5, "ood_method": "mahalanobis",
                "target_risk": 0.02,
            },
            calibration={"temperature": 1.3},
            lineage={
                "run_id": "run-1", "dataset": "phantom", "base_weights": "offline-imagenet",
                "splits": {"train": 1200, "validation": 200, "test": 400},
            },
        ),
    )  # fmt: skip
    for index, class_id in enumerate(CLASSES):
        manifest = result.manifest
        manifest.classes.add(index=index, id=class_id, display_name=NAMES[class_id])
        manifest.metrics.per_class.add(
            class_id=class_id, support=100, precision=0.9, recall=0.91, f1=0.905, roc_auc=0.99
        )
        manifest.goldens.add(name=f"{class_id}-0", image=class_id.encode(), probabilities=[0.25] * 4)
    return result


def model_of(selector: model_pb2.ModelSelector, labels: Mapping[str, int]) -> model_pb2.ModelVersionRef:
    """The version that a selector means; "latest" is 2."""
    chosen = selector.WhichOneof("selection")
    label = (selector.label if chosen == "label" else "stable") if chosen != "version" else ""
    number = selector.version if chosen == "version" else labels.get(label, 2 if label == "latest" else 1)
    return model_pb2.ModelVersionRef(
        name=selector.name or "brain_tumor", version=number, label=label, manifest_digest=f"{number:064x}"
    )


def answer(image: bytes, top_k: int, serial: int) -> pb.Classification | status_pb2.Status:
    """The answer that the bytes of an image ask for."""
    if image in REFUSALS:
        return refusal(REFUSALS[image], f"the image is {image.decode()}")
    first = next(
        (name for name in CLASSES if image.startswith(name.encode())), CLASSES[serial % len(CLASSES)]
    )
    order = [first, *(name for name in CLASSES if name != first)]
    scores = [
        pb.ClassScore(
            class_id=name,
            display_name=NAMES[name],
            index=CLASSES.index(name),
            probability=0.91 if name == first else 0.03,
        )
        for name in order
    ]
    verdict = pb.VERDICT_ABSTAIN if b"unsure" in image else pb.VERDICT_CONFIDENT
    result = pb.Classification(
        scores=scores[: top_k or None], verdict=verdict, prediction_id=f"p{serial}", ood_score=1.5
    )
    result.timings.queue.FromMilliseconds(1)
    result.timings.transform.FromMilliseconds(2)
    result.timings.predict.FromMilliseconds(9)
    return result


class _Base:
    def __init__(self, script: Script) -> None:
        self.script = script

    def model_of(self, selector: model_pb2.ModelSelector) -> model_pb2.ModelVersionRef:
        return model_of(selector, self.script.release.labels)

    def enter(self, name: str, request: object, context: grpc.ServicerContext) -> None:
        self.script.calls.append(name)
        self.script.requests.append(request)
        self.script.time_remaining.append(context.time_remaining())
        context.add_callback(self.script.cancelled.set)
        if self.script.failures:
            failure = self.script.failures.pop(0)
            if isinstance(failure, grpc.StatusCode):
                context.abort(failure, "said a proxy")
            else:
                abort(context, failure)
        if self.script.hang:
            gone = threading.Event()
            context.add_callback(gone.set)
            self.script.hanging.set()
            gone.wait(30)


class _Classification(_Base, classification_pb2_grpc.ClassificationServiceServicer):
    def Classify(self, request, context):
        self.enter("Classify", request, context)
        result = answer(request.image, request.top_k, len(self.script.calls))
        if isinstance(result, status_pb2.Status):
            abort(context, result)
        return pb.ClassifyResponse(
            classification=result, model=self.model_of(request.model), request_id=request.request_id
        )

    def BatchClassify(self, request, context):
        self.enter("BatchClassify", request, context)
        response = pb.BatchClassifyResponse(model=self.model_of(request.model), request_id=request.request_id)
        for serial, item in enumerate(request.items):
            result = answer(item.image, request.top_k, serial)
            if isinstance(result, status_pb2.Status):
                response.results.add(error=result)
            else:
                response.results.add(classification=result)
        return response

    def StreamClassify(self, request_iterator, context):
        first = next(request_iterator)
        self.enter("StreamClassify", first, context)
        config, model = first.config, self.model_of(first.config.model)
        waiting = None
        for serial, request in enumerate(request_iterator):
            self.script.requests.append(request)
            self.script.received.release()
            while not self.script.gate.wait(0.05):
                if not context.is_active():
                    return
            image = self.script.other_opinion.get(model.version, {}).get(request.image, request.image)
            image = image.encode() if isinstance(image, str) else image
            result = answer(image, config.top_k, serial)
            response = pb.StreamClassifyResponse(key=request.key, model=model)
            if isinstance(result, status_pb2.Status):
                response.error.CopyFrom(result)
            else:
                response.classification.CopyFrom(result)
            if self.script.swap_pairs and config.allow_out_of_order and waiting is None:
                waiting = response
                continue
            yield response
            if waiting is not None:
                yield waiting
                waiting = None
            if self.script.failures:
                abort(context, self.script.failures.pop(0))
        if waiting is not None:
            yield waiting

    def Explain(self, request, context):
        self.enter("Explain", request, context)
        if request.class_id and request.class_id not in CLASSES:
            refuse(context, "CLASS_NOT_FOUND", f"no class {request.class_id!r}")
        result = answer(request.image, 0, 0)
        return pb.ExplainResponse(
            classification=result,
            class_id=request.class_id or result.scores[0].class_id,
            map=pb.ClassActivationMap(height=2, width=3, values=[0, 1, 2, 3, 4, 5]),
            overlay_png=PNG,
            model=self.model_of(request.model),
            request_id=request.request_id,
            map_caution="the maps point elsewhere",
        )


class _Models(_Base, ReleaseMethods, model_pb2_grpc.ModelServiceServicer):
    def ListModelVersions(self, request, context):
        self.enter("ListModelVersions", request, context)
        start = int(request.page_token or 0)
        page = self.script.versions[start : start + self.script.page_size]
        end = start + len(page)
        token = str(end) if end < len(self.script.versions) else ""
        return model_pb2.ListModelVersionsResponse(
            versions=page, next_page_token=token, model_servers=self.script.model_servers
        )

    def GetModelVersion(self, request, context):
        self.enter("GetModelVersion", request, context)
        for each in self.script.versions:
            if each.version == request.version:
                return model_pb2.GetModelVersionResponse(version=each)
        refuse(context, "MODEL_VERSION_NOT_FOUND", f"no version {request.version}")
        return None


@dataclass
class FakeGateway:
    """A running fake: where it is, what it is to do, and its health."""

    address: str
    script: Script
    health: health.HealthServicer

    def set_serving(self, serving: bool) -> None:
        """What its health service answers from now on."""
        enum = health_pb2.HealthCheckResponse
        for service in (
            "",
            *(f"neurogate.v1.{name}Service" for name in ("Classification", "Model", "Training")),
        ):
            self.health.set(service, enum.SERVING if serving else enum.NOT_SERVING)


@contextlib.contextmanager
def fake_gateway(
    script: Script | None = None, *, port: int = 0, credentials: grpc.ServerCredentials | None = None
) -> Iterator[FakeGateway]:
    """A fake on 127.0.0.1, stopped when the block ends."""
    script = script or Script()
    script.gate.set()
    limit = 32 * 1024 * 1024
    options = [("grpc.max_receive_message_length", limit), ("grpc.max_send_message_length", limit)]
    # Not shared: a second fake on a port that is taken has to fail, and not to steal calls.
    server = grpc.server(futures.ThreadPoolExecutor(8), options=[*options, ("grpc.so_reuseport", 0)])
    classification_pb2_grpc.add_ClassificationServiceServicer_to_server(_Classification(script), server)
    models = _Models(script)
    model_pb2_grpc.add_ModelServiceServicer_to_server(models, server)
    training_pb2_grpc.add_TrainingServiceServicer_to_server(TrainingServicer(script, models.enter), server)
    checks = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    address = f"127.0.0.1:{port}"
    bound = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    gateway = FakeGateway(f"127.0.0.1:{bound}", script, checks)
    gateway.set_serving(True)
    server.start()
    try:
        yield gateway
    finally:
        script.gate.set()
        script.stopping.set()
        server.stop(grace=None).wait()
