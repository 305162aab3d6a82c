"""TrainingService's calls but the upload, described for both clients."""

# Timeouts become deadlines of calls, which the gateway has to see.

from __future__ import annotations

from collections.abc import Mapping

from neurogate.v1 import training_pb2 as pb

from . import _channel
from . import _wire_training as _wire
from ._model_calls import new_request_id
from ._steps import Ask, Connection, Emit, Next, Open, Pause, Reconnecting, Steps, Watch, unary, watching
from .errors import UnavailableError
from .results_training import (
    ErasedExample,
    Example,
    ExampleFilter,
    ExamplePage,
    Feedback,
    Retraining,
    RetrainingEvent,
    RetrainingState,
)

_PAGE = 100


class TrainingCalls(Connection):
    """Corrections, examples, and retrainings."""

    @unary
    def submit_feedback(
        self,
        prediction_id: str,
        *,
        class_id: str = "",
        not_mri: bool = False,
        comment: str = "",
        request_id: str = "",
        timeout: float | None = None,
    ) -> Steps[Feedback]:
        """Says what an earlier answer should have been; turns into an example where the image was kept.

        Args:
            prediction_id: `Classification.prediction_id`.
            class_id: the right class, e.g. "glioma".
            not_mri: or that the image is no brain MRI slice.
            comment: for people, up to 512 characters.
            request_id: identifier of this feedback; a repeat gets the first answer. Empty: the client makes
                one, so that its own retries count once.
            timeout: seconds for this call, in place of the client's.

        Raises:
            ValueError: neither `class_id` nor `not_mri`, or both.
        """
        if bool(class_id) == not_mri:
            raise ValueError("give either the right class_id, or not_mri=True")
        request = pb.SubmitFeedbackRequest(
            prediction_id=prediction_id, comment=comment, request_id=request_id or new_request_id()
        )
        if not_mri:
            request.not_mri = True
        else:
            request.class_id = class_id
        return _wire.feedback((yield Ask(lambda on: on.training.SubmitFeedback, request, timeout)))

    @unary
    def update_example(
        self,
        example_id: str,
        *,
        class_id: str,
        expected_class_id: str = "",
        reason: str = "",
        timeout: float | None = None,
    ) -> Steps[Example]:
        """Corrects the class of an example, for retrainings whose trainer starts later; safe to repeat.

        Args:
            example_id: which.
            class_id: its right class.
            expected_class_id: the class that it is taken to have; refused if it has another. Empty: any.
            reason: why, for the record; up to 512 characters.
            timeout: seconds for this call, in place of the client's.
        """
        request = pb.UpdateExampleRequest(
            example_id=example_id, class_id=class_id, expected_class_id=expected_class_id, reason=reason
        )
        response: pb.UpdateExampleResponse = yield Ask(lambda on: on.training.UpdateExample, request, timeout)
        return _wire.example(response.example)

    @unary
    def delete_example(
        self, example_id: str, *, reason: str = "", timeout: float | None = None
    ) -> Steps[ErasedExample]:
        """Erases an example with its image, for retrainings whose trainer starts later.

        Not tried again by itself: a second attempt would not find what the first has erased.
        """
        request = pb.DeleteExampleRequest(example_id=example_id, reason=reason)
        response: pb.DeleteExampleResponse = yield Ask(lambda on: on.training.DeleteExample, request, timeout)
        return ErasedExample(tuple(response.versions), tuple(response.running_retraining_ids))

    @unary
    def delete_prediction(
        self, prediction_id: str, *, reason: str = "", timeout: float | None = None
    ) -> Steps[tuple[str, ...]]:
        """Erases a prediction with its image and all feedback on it; returns the examples made of it.

        Those stay; `delete_example` erases them. Not tried again by itself, as `delete_example`.
        """
        request = pb.DeletePredictionRequest(prediction_id=prediction_id, reason=reason)
        response: pb.DeletePredictionResponse = yield Ask(
            lambda on: on.training.DeletePrediction, request, timeout
        )
        return tuple(response.example_ids)

    @unary
    def list_examples(
        self,
        wanted: ExampleFilter | None = None,
        *,
        page_size: int = 0,
        page_token: str = "",
        thumbnails: bool = False,
        timeout: float | None = None,
    ) -> Steps[ExamplePage]:
        """One page of the examples, newest first, and their number by class.

        Args:
            wanted: which; unset for all.
            page_size: examples per page, 1 to 500; 0 for 50.
            page_token: `ExamplePage.next_page_token` of the page before; empty for the first.
            thumbnails: whether small pictures are wanted, too.
            timeout: seconds for this call, in place of the client's.
        """
        request = pb.ListExamplesRequest(
            filter=_wire.example_filter(wanted),
            page_size=page_size,
            page_token=page_token,
            thumbnails=thumbnails,
        )
        return _wire.example_page((yield Ask(lambda on: on.training.ListExamples, request, timeout)))

    @unary
    def start_retraining(
        self,
        *,
        warm_start_version: int | None = None,
        from_scratch: bool = False,
        examples: ExampleFilter | None = None,
        hyperparameters: Mapping[str, object] | None = None,
        launcher: str = "",
        promote: bool = False,
        gate_policy: str = "",
        request_id: str = "",
        timeout: float | None = None,
    ) -> Steps[Retraining]:
        """Queues a retraining; `watch_retraining` follows it.

        Args:
            warm_start_version: version whose weights the network starts from.
            from_scratch: or start from the initial weights, as a first training. Neither: the gateway's
                default.
            examples: which examples join the base data set; unset for all.
            hyperparameters: by name; what is unset stays as the base run had it.
            launcher: "local" or "ray"; empty for the gateway's default.
            promote: whether a version that passes the gate is promoted at once.
            gate_policy: what the gate asks of this version beside the gateway's own policy, which this can
                tighten and never loosen: TOML with a table `[gate]`, as in the gateway's policy file, up to
                4096 characters. Empty: nothing more.
            request_id: identifier of this retraining, up to 128 printable ASCII characters; a repeat gets the
                first answer. Empty: the client makes one, so that its own retries start one run.
            timeout: seconds for this call, in place of the client's.

        Raises:
            ValueError: both `warm_start_version` and `from_scratch`.
        """
        if warm_start_version is not None and from_scratch:
            raise ValueError("give either warm_start_version or from_scratch=True, not both")
        spec = pb.RetrainingSpec(
            examples=_wire.example_filter(examples),
            hyperparameters={name: str(value) for name, value in (hyperparameters or {}).items()},
            launcher=launcher,
            promote=promote,
            gate_policy=gate_policy,
        )
        if warm_start_version is not None:
            spec.warm_start_version = warm_start_version
        elif from_scratch:
            spec.from_scratch = True
        request = pb.StartRetrainingRequest(spec=spec, request_id=request_id or new_request_id())
        response: pb.StartRetrainingResponse = yield Ask(
            lambda on: on.training.StartRetraining, request, timeout
        )
        return _wire.retraining(response.retraining)

    @unary
    def get_retraining(self, retraining_id: str, *, timeout: float | None = None) -> Steps[Retraining]:
        """One retraining as it is now."""
        request = pb.GetRetrainingRequest(retraining_id=retraining_id)
        response: pb.GetRetrainingResponse = yield Ask(lambda on: on.training.GetRetraining, request, timeout)
        return _wire.retraining(response.retraining)

    @unary
    def list_retrainings(
        self, *, state: RetrainingState | None = None, limit: int = 50, timeout: float | None = None
    ) -> Steps[list[Retraining]]:
        """The last retrainings, newest first, at most `limit`; with `state`, only those in it."""
        request = pb.ListRetrainingsRequest(
            state=f"RETRAINING_STATE_{state.value}" if state is not None else None
        )
        listed: list[Retraining] = []
        while len(listed) < limit:
            request.page_size = min(limit - len(listed), _PAGE)
            response: pb.ListRetrainingsResponse = yield Ask(
                lambda on: on.training.ListRetrainings, request, timeout
            )
            listed.extend(_wire.retraining(each) for each in response.retrainings)
            request.page_token = response.next_page_token
            if not response.next_page_token:
                break
        return listed[:limit]

    @watching
    def watch_retraining(
        self,
        retraining_id: str,
        *,
        after_sequence: int = 0,
        patience: float = _channel.DEFAULT_IDLE_TIMEOUT,
        timeout: float = float("inf"),
    ) -> Watch[RetrainingEvent]:
        """The events of a retraining, those of the past first; ends with the retraining.

        A gateway that goes away is waited for, and the watch goes on behind the last event that was seen, so
        that none is missed and none comes twice.

        Args:
            retraining_id: identifier.
            after_sequence: only events with a larger sequence number; 0 for all.
            patience: seconds that the gateway may be away before its `UnavailableError` is raised.
            timeout: seconds for the whole watch, after which it ends with `DeadlineExceededError`.
        """
        until = _channel.Until(timeout)
        retry = Reconnecting(patience)
        last = after_sequence
        while True:
            try:
                request = pb.WatchRetrainingRequest(retraining_id=retraining_id, after_sequence=last)
                yield Open(lambda on: on.training.WatchRetraining, request, until.left())
                while True:
                    response: pb.WatchRetrainingResponse | None = yield Next()
                    if response is None:
                        return
                    retry.worked()
                    if response.event.sequence <= last:
                        continue
                    last = response.event.sequence
                    if (event := _wire.retraining_event(response.event)) is not None:
                        yield Emit(event)
            except UnavailableError as error:
                yield Pause(retry.delay(error))

    @unary
    def cancel_retraining(
        self, retraining_id: str, *, reason: str = "", timeout: float | None = None
    ) -> Steps[Retraining]:
        """Ends a retraining that has not ended; the answer may come before its trainer is gone.

        Not tried again by itself: a second attempt could meet a retraining that the first has ended.
        """
        request = pb.CancelRetrainingRequest(retraining_id=retraining_id, reason=reason)
        response: pb.CancelRetrainingResponse = yield Ask(
            lambda on: on.training.CancelRetraining, request, timeout
        )
        return _wire.retraining(response.retraining)
