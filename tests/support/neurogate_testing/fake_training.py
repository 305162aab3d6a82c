"""Examples and retrainings of a fake gateway, in memory."""

# The methods of a servicer are named by the contract.
# ruff: noqa: N802

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc import status_pb2
from neurogate.v1 import training_pb2 as pb
from neurogate.v1 import training_pb2_grpc

from neurogate_testing.fake_release import gate_report
from neurogate_testing.fake_status import abort, once, refusal, refuse

ENDED = {
    pb.RETRAINING_STATE_SUCCEEDED,
    pb.RETRAINING_STATE_REFUSED,
    pb.RETRAINING_STATE_FAILED,
    pb.RETRAINING_STATE_CANCELLED,
}
CLASSES = {"glioma", "meningioma", "notumor", "pituitary"}


@dataclass
class FakeTraining:
    """What is kept; a test reads it, or sets it."""

    examples: dict[str, pb.Example] = field(default_factory=dict)
    feedback: dict[str, pb.SubmitFeedbackRequest] = field(default_factory=dict)
    runs: dict[str, pb.Retraining] = field(default_factory=dict)
    events: dict[str, list[pb.RetrainingEvent]] = field(default_factory=dict)
    cut_after: list[int] = field(default_factory=list)
    """The next uploads and watches break after so many responses each."""
    cut_with: status_pb2.Status | None = None
    """What cut uploads end with; unset, as a broken connection does."""
    ended: threading.Event = field(default_factory=threading.Event)
    """Set when an upload has been cut."""
    lose_last_answer: bool = False
    """Whether a cut upload keeps one more item whose answer is lost."""
    largest_message: int = 0
    uploads: int = 0
    script: Callable[[FakeTraining, pb.Retraining], None] | None = None
    """What a started retraining does at once; by default it stays QUEUED."""

    def __post_init__(self) -> None:
        self.changed = threading.Condition()
        self.arrived = threading.Event()

    def keep(self, item: pb.UploadExamplesRequest, data: bytes) -> pb.UploadedExample | status_pb2.Status:
        """Keeps one image, or says why not."""
        digest = hashlib.sha256(data).hexdigest()
        if item.sha256 and item.sha256 != digest:
            return refusal("EXAMPLE_DIGEST_MISMATCH", "other bytes")
        if item.class_id not in CLASSES:
            return refusal("CLASS_NOT_FOUND", f"no class {item.class_id!r}")
        if data == b"corrupt":
            return refusal("IMAGE_CORRUPT", "the image is corrupt")
        known = self.examples.get(digest)
        if known is not None and known.class_id != item.class_id:
            return refusal("EXAMPLE_CONFLICT", f"kept as {known.class_id} already")
        if known is None:
            self.examples[digest] = pb.Example(
                example_id=digest,
                class_id=item.class_id,
                source=pb.EXAMPLE_SOURCE_UPLOAD,
                size_bytes=len(data),
                group=item.group,
                sent_sha256=digest,
            )
            self.examples[digest].create_time.FromSeconds(1_700_000_000 + len(self.examples))
        return pb.UploadedExample(example_id=digest, duplicate=known is not None)

    def add_event(self, run_id: str, **event: Any) -> None:
        """Adds an event to a run: `state_change=`, `phase=`, `progress=` or `log=`."""
        with self.changed:
            run = self.runs[run_id]
            run.last_sequence += 1
            made = pb.RetrainingEvent(sequence=run.last_sequence, **event)
            made.time.FromSeconds(1_700_000_000 + run.last_sequence)
            self.events[run_id].append(made)
            self.changed.notify_all()

    def move(self, run_id: str, state: str, **more: Any) -> None:
        """Moves a run to another state."""
        run = self.runs[run_id]
        run.state = pb.RetrainingState.Value(f"RETRAINING_STATE_{state}")
        for name, value in more.items():
            if name == "gate":
                run.gate.CopyFrom(value)
            else:
                setattr(run, name, value)
        if state == "RUNNING":
            run.start_time.FromSeconds(1_700_000_010)
        if run.state in ENDED:
            run.end_time.FromSeconds(1_700_000_130)
        self.add_event(run_id, state_change=pb.RetrainingStateChange(state=run.state, retraining=run))


def success(training: FakeTraining, run: pb.Retraining) -> None:
    """A retraining that goes well, all at once."""
    number = run.retraining_id
    training.move(number, "RUNNING")
    training.add_event(number, phase=pb.RetrainingPhase(name="fine-tune", total=20, unit="batches"))
    progress = pb.RetrainingProgress(phase="fine-tune", step=20, total=20, epoch=2, metrics={"loss": 0.25})
    progress.remaining.FromSeconds(1)
    training.add_event(number, progress=progress)
    training.add_event(number, log=pb.RetrainingLogLine(level="info", text="best epoch 2"))
    training.move(number, "EVALUATING")
    training.move(number, "PUBLISHING", version=2, gate=gate_report(2))
    training.move(number, "SUCCEEDED")


class TrainingServicer(training_pb2_grpc.TrainingServiceServicer):
    """The service over a `FakeTraining`; `enter` notes the call."""

    def __init__(self, script: Any, enter: Callable[..., None]) -> None:
        self.script = script
        self.enter = enter

    def UploadExamples(self, request_iterator, context) -> Iterator[pb.UploadExamplesResponse]:
        training = self.script.training
        training.uploads += 1
        self.enter("UploadExamples", None, context)
        left = training.cut_after.pop(0) if training.cut_after else None
        first, parts = None, []
        for message in request_iterator:
            training.largest_message = max(training.largest_message, message.ByteSize())
            if bool(message.class_id) != (first is None):
                refuse(context, "UPLOAD_SEQUENCE_INVALID", "chunks out of order")
            training.arrived.set()
            first = first or message
            parts.append(message.data)
            if message.more:
                continue
            if left == 0 and not training.lose_last_answer:
                break
            while not self.script.gate.wait(0.05):
                if not context.is_active():
                    return
            kept = training.keep(first, b"".join(parts))
            if left == 0:
                break
            response = pb.UploadExamplesResponse(key=first.key)
            if isinstance(kept, status_pb2.Status):
                response.error.CopyFrom(kept)
            else:
                response.example.CopyFrom(kept)
            yield response
            left = None if left is None else left - 1
            first, parts = None, []
            if left == 0 and training.cut_with is not None:
                break
        if left is not None:
            training.ended.set()
            if training.cut_with is not None:
                abort(context, training.cut_with)
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    def SubmitFeedback(self, request, context):
        self.enter("SubmitFeedback", request, context)
        if not request.prediction_id.startswith("p"):
            refuse(context, "PREDICTION_NOT_FOUND", f"no {request.prediction_id}")
        return once(self.script, request, context, lambda: self._feedback(request))

    def _feedback(self, request: pb.SubmitFeedbackRequest) -> pb.SubmitFeedbackResponse:
        number = f"f{len(self.script.training.feedback) + 1}"
        self.script.training.feedback[number] = request
        return pb.SubmitFeedbackResponse(
            feedback_id=number,
            example_id="" if request.not_mri else "e" * 64,
            confirmed=request.class_id == "glioma",
        )

    def UpdateExample(self, request, context):
        self.enter("UpdateExample", request, context)
        example = self._example(request.example_id, context)
        if request.expected_class_id not in {"", example.class_id}:
            refuse(context, "EXAMPLE_CONFLICT", f"kept as {example.class_id}")
        example.class_id = request.class_id
        return pb.UpdateExampleResponse(example=example)

    def DeleteExample(self, request, context):
        self.enter("DeleteExample", request, context)
        self._example(request.example_id, context)
        del self.script.training.examples[request.example_id]
        return pb.DeleteExampleResponse(versions=[2, 3], running_retraining_ids=["r7"])

    def DeletePrediction(self, request, context):
        self.enter("DeletePrediction", request, context)
        return pb.DeletePredictionResponse(example_ids=["e" * 64])

    def _example(self, example_id: str, context: grpc.ServicerContext) -> pb.Example:
        example = self.script.training.examples.get(example_id)
        if example is None:
            refuse(context, "EXAMPLE_NOT_FOUND", f"no {example_id!r}")
        return example

    def ListExamples(self, request, context):
        self.enter("ListExamples", request, context)
        wanted = request.filter
        fitting = [
            each
            for each in reversed(self.script.training.examples.values())
            if (not wanted.class_ids or each.class_id in wanted.class_ids)
            and (not wanted.source or each.source == wanted.source)
            and (not wanted.HasField("from_time") or each.create_time.seconds >= wanted.from_time.seconds)
            and (not wanted.HasField("to_time") or each.create_time.seconds < wanted.to_time.seconds)
        ]
        start = int(request.page_token or 0)
        end = start + (request.page_size or 50)
        return pb.ListExamplesResponse(
            examples=fitting[start:end],
            next_page_token=str(end) if end < len(fitting) else "",
            total_by_class=Counter(each.class_id for each in fitting),
        )

    def StartRetraining(self, request, context):
        self.enter("StartRetraining", request, context)
        for name in request.spec.hyperparameters:
            if name not in {"head_epochs", "fine_tune_epochs", "batch_size"}:
                refuse(context, "HYPERPARAMETER_INVALID", f"there is no hyper-parameter {name!r}")
        if request.spec.gate_policy.startswith("[gates]"):
            refuse(context, "GATE_POLICY_INVALID", "unknown key gates; did you mean gate?")
        return once(self.script, request, context, lambda: self._start(request))

    def _start(self, request: pb.StartRetrainingRequest) -> pb.StartRetrainingResponse:
        training = self.script.training
        run = pb.Retraining(
            retraining_id=f"r{len(training.runs) + 1}",
            state=pb.RETRAINING_STATE_QUEUED,
            spec=request.spec,
            actor="ipv4:127.0.0.1",
            examples_by_class=Counter(each.class_id for each in training.examples.values()),
        )
        run.create_time.FromSeconds(1_700_000_000)
        training.runs[run.retraining_id] = run
        training.events[run.retraining_id] = []
        training.move(run.retraining_id, "QUEUED")
        answer = pb.StartRetrainingResponse(retraining=run)
        if training.script is not None:
            training.script(training, run)
        return answer

    def GetRetraining(self, request, context):
        self.enter("GetRetraining", request, context)
        return pb.GetRetrainingResponse(retraining=self._run(request.retraining_id, context))

    def ListRetrainings(self, request, context):
        self.enter("ListRetrainings", request, context)
        listed = [
            each
            for each in reversed(self.script.training.runs.values())
            if not request.state or each.state == request.state
        ]
        start = int(request.page_token or 0)
        end = start + min(request.page_size or 50, self.script.page_size)
        token = str(end) if end < len(listed) else ""
        return pb.ListRetrainingsResponse(retrainings=listed[start:end], next_page_token=token)

    def WatchRetraining(self, request, context) -> Iterator[pb.WatchRetrainingResponse]:
        self.enter("WatchRetraining", request, context)
        training = self.script.training
        run = self._run(request.retraining_id, context)
        left = training.cut_after.pop(0) if training.cut_after else None
        place = request.after_sequence
        while context.is_active():
            with training.changed:
                if not (fresh := training.events[run.retraining_id][place:]):
                    training.changed.wait(0.05)
            for event in fresh:
                if left == 0:
                    refuse(context, "SHUTTING_DOWN", "the gateway stops")
                place = event.sequence
                left = None if left is None else left - 1
                yield pb.WatchRetrainingResponse(event=event)
            if self.script.stopping.is_set() or (run.state in ENDED and place == run.last_sequence):
                return

    def CancelRetraining(self, request, context):
        self.enter("CancelRetraining", request, context)
        run = self._run(request.retraining_id, context)
        if run.state in ENDED:
            refuse(context, "RETRAINING_ENDED", "it has ended already")
        self.script.training.move(run.retraining_id, "CANCELLED")
        return pb.CancelRetrainingResponse(retraining=run)

    def _run(self, run_id: str, context: grpc.ServicerContext) -> pb.Retraining:
        run = self.script.training.runs.get(run_id)
        if run is None:
            refuse(context, "RETRAINING_NOT_FOUND", f"no {run_id!r}")
        return run
