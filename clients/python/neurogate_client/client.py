"""The client for threads."""

# What many calls share is described once, at the class.
# ruff: noqa: D417

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from google.protobuf.message import Message
from neurogate.v1 import (
    classification_pb2,
    classification_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    training_pb2,
    training_pb2_grpc,
)

from . import _calls, _channel, _streams
from ._upload import DEFAULT_WINDOW, UploadCall
from .errors import CallCancelledError, ModelNotFoundError, NeurogateError, from_rpc_error
from .images import DEFAULT_MAX_IMAGE_BYTES, Image, LabelledImage, framed, load_image
from .types import Classification, Explanation, Health, HealthStatus, Result, UploadResult

K = TypeVar("K")
T = TypeVar("T")


class Client:
    """A connection to a gateway.

    Make one and keep it: it holds one channel, may be used by many threads at once, and reconnects by itself.
    After `os.fork` a child process needs a client of its own.

        with Client("localhost:50051") as client:
            print(client.classify("slice.jpg").top.class_id)

    Every unary call has a deadline, and all but `health` and `cancel_retraining` are tried up to 4 times
    while the answer is UNAVAILABLE; changes carry a request_id, so that they happen once. Errors are
    `NeurogateError`s, after `close()` a `CallCancelledError`; see `neurogate_client.errors`.

    Answers and explanations are dataclasses of `neurogate_client.types`; versions, the release, examples and
    retrainings are the messages of `neurogate.v1`. What many calls share:

        version, label  which version answers, by its number or its label; neither means "stable", and
                        "latest" the newest that is ready
        model           model name, where a gateway has another than its own
        top_k           number of scores wanted, highest first; 0 for all classes
        frame           number of the frame of a DICOM file, from 1; 0 for the only one
        routing_key     keeps a caller on one version while traffic is split: the same key gets the same
                        version. Empty means request_id, and where that is empty too, chance
        request_id      up to 128 printable ASCII characters. Of an image: an identifier for the gateway's
                        log. Of a change: a repeat gets the first answer; the client makes one where there is
                        none, so that its own retries change nothing twice
        reason          why, for the audit record; up to 512 characters
        timeout         seconds for this call, in place of the client's

    Args:
        target: "HOST:PORT", or any gRPC target URI. DNS names may have many addresses; calls go to all in
            turn.
        tls: True for TLS with the system's root certificates, `grpc.ChannelCredentials` for anything more
            special, False for a plain connection. Unset: plain to this machine, and an error for any other.
        timeout: seconds for a unary call without a timeout of its own; `math.inf` for none.
        max_image_bytes: largest encoded image that is sent. Set it to the gateway's limit where that is not
            the default of 16 MiB. A request may have twice that and 1 MiB; answers are not limited.

    Raises:
        ValueError: a target or setting that cannot work.
    """

    def __init__(
        self,
        target: str = "localhost:50051",
        *,
        tls: _channel.Tls = None,
        timeout: float = _channel.DEFAULT_TIMEOUT,
        max_image_bytes: int = DEFAULT_MAX_IMAGE_BYTES,
    ) -> None:
        _channel.check_settings(timeout, max_image_bytes)
        parsed = _channel.Target.parse(target)
        credentials = _channel.credentials(parsed, tls)
        options = _channel.options(parsed, max_image_bytes)
        self.target = target
        self._timeout = timeout
        self._max_image_bytes = max_image_bytes
        self._channel = _channel.open_channel(parsed, credentials, options)
        self._classification = classification_pb2_grpc.ClassificationServiceStub(self._channel)
        self._models = model_pb2_grpc.ModelServiceStub(self._channel)
        self._training = training_pb2_grpc.TrainingServiceStub(self._channel)
        self._check: grpc.UnaryUnaryMultiCallable[_calls.HealthRequest, _calls.HealthResponse] = (
            self._channel.unary_unary(
                _calls.HEALTH_METHOD,
                request_serializer=_calls.HealthRequest.SerializeToString,
                response_deserializer=_calls.HealthResponse.FromString,
            )
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; calls in flight end with `CallCancelledError`."""
        self._channel.close()

    def classify(
        self,
        image: Image,
        *,
        version: int | None = None,
        label: str | None = None,
        model: str = "",
        top_k: int = 0,
        frame: int = 0,
        request_id: str = "",
        routing_key: str = "",
        timeout: float | None = None,
    ) -> Classification:
        """Classifies one image: encoded bytes, or the path of a file."""
        selector = _calls.build_selector(model, version, label)
        data, frame = self._load(image, frame)
        request = classification_pb2.ClassifyRequest(
            image=data,
            frame=frame,
            model=selector,
            top_k=top_k,
            request_id=request_id,
            routing_key=routing_key,
        )
        return _calls.parse_classify(self._call(self._classification.Classify, request, timeout))

    def batch_classify(
        self,
        images: Iterable[Image],
        *,
        version: int | None = None,
        label: str | None = None,
        model: str = "",
        top_k: int = 0,
        request_id: str = "",
        routing_key: str = "",
        timeout: float | None = None,
    ) -> list[Result[int]]:
        """Classifies several images in one call, by one version. For many, `stream_classify` is better.

        An image may be a `Frame`. Returns one result per image, in order, its key the position. An image that
        has no answer has an error in its result; exceptions are for the call as a whole, and for an image too
        large or unreadable to be sent at all.
        """
        images = list(images)  # an iterator has no length
        request = _calls.build_batch(
            (self._load(each) for each in images),
            len(images),
            self._max_image_bytes,
            model=_calls.build_selector(model, version, label),
            top_k=top_k,
            request_id=request_id,
            routing_key=routing_key,
        )
        response = self._call(self._classification.BatchClassify, request, timeout)
        return _calls.parse_batch(len(images), response)

    def stream_classify(
        self,
        images: Iterable[tuple[K, Image]],
        *,
        version: int | None = None,
        label: str | None = None,
        model: str = "",
        top_k: int = 0,
        allow_out_of_order: bool = False,
        request_id: str = "",
        routing_key: str = "",
        window: int = _streams.DEFAULT_WINDOW,
        idle_timeout: float = _channel.DEFAULT_IDLE_TIMEOUT,
        timeout: float = math.inf,
    ) -> Generator[Result[K], None, None]:
        """Classifies any number of images, all by one version, which is chosen when the stream begins.

        An image may be a `Frame`. `images` may be a generator, even an endless one. It is read in another
        thread, at most `window` images ahead of the results that the caller has taken, so memory stays flat.
        `folder_images` makes one from a folder.

        A single image without an answer is a result with an error. Exceptions end the stream: the call as a
        whole was refused, the connection broke (streams are not retried), or `images` itself raised. To stop
        early, leave the loop or `close()` the generator; the call is then cancelled.

        Args:
            images: (key, image) pairs; keys may be anything and come back in the results.
            allow_out_of_order: take results as they are ready. False: in the order of the images.
            window: largest number of images on their way at a time.
            idle_timeout: seconds without any answer, while images are waiting for one, after which the stream
                ends with `DeadlineExceededError`.
            timeout: seconds for the whole stream.
        """
        deadline = _channel.deadline(timeout, timeout)
        limits = _streams.Limits(self.target, self._max_image_bytes, window, idle_timeout)
        config = classification_pb2.StreamClassifyConfig(
            model=_calls.build_selector(model, version, label),
            top_k=top_k,
            allow_out_of_order=allow_out_of_order,
            request_id=request_id,
            routing_key=routing_key,
        )
        start = self._classification.StreamClassify
        return _streams.consume(
            lambda deliver: _streams.StreamCall(
                images, lambda requests: start(requests, timeout=deadline), config, limits, deliver
            )
        )

    def explain(
        self,
        image: Image,
        *,
        class_id: str = "",
        color_map: str | None = None,
        alpha: float | None = None,
        max_side: int = 0,
        frame: int = 0,
        version: int | None = None,
        label: str | None = None,
        model: str = "",
        request_id: str = "",
        routing_key: str = "",
        timeout: float | None = None,
    ) -> Explanation:
        """Shows where in an image the evidence for a class lies, with a picture of it.

        Args:
            image: encoded bytes, or the path of a file.
            class_id: the class to explain; empty for the most probable one.
            color_map: "jet" (default), "viridis" or "inferno".
            alpha: opacity of the map where it is strongest, 0 to 1; unset for 0.5.
            max_side: longer side of the picture in pixels, 64 to 2048; 0 for the image's own, but at most
                1024.
        """
        selector = _calls.build_selector(model, version, label)
        overlay = _calls.build_overlay(color_map, alpha, max_side)
        data, frame = self._load(image, frame)
        request = classification_pb2.ExplainRequest(
            image=data,
            frame=frame,
            model=selector,
            class_id=class_id,
            overlay=overlay,
            request_id=request_id,
            routing_key=routing_key,
        )
        return _calls.parse_explanation(self._call(self._classification.Explain, request, timeout))

    def health(self, service: str = "", *, timeout: float | None = None) -> Health:
        """Whether the gateway takes work, or one of its services ("neurogate.v1.ClassificationService").

        Not serving is an answer, and not an error; an error is a gateway that cannot be reached.
        """
        try:
            response = self._call(self._check, _calls.HealthRequest(value=service), timeout)
        except ModelNotFoundError:
            return Health(service, HealthStatus.SERVICE_UNKNOWN)
        return _calls.parse_health(service, response)

    def wait_until_ready(self, timeout: float = _channel.DEFAULT_TIMEOUT) -> None:
        """Returns as soon as the gateway takes work.

        Raises:
            UnavailableError: it did not within `timeout` seconds; the message says what it answered last.
        """
        wait = _calls.Readiness(self.target, timeout)
        while (seconds := wait.look_seconds()) > 0:
            try:
                health = self.health(timeout=seconds)
            except NeurogateError as error:
                wait.failed(error, seconds)
            else:
                if health.serving:
                    return
                wait.refused(health)
            time.sleep(wait.pause_seconds())
        raise wait.failure() from wait.last

    def list_model_versions(
        self, *, model: str = "", timeout: float | None = None
    ) -> list[model_pb2.ModelVersion]:
        """All versions that the gateway knows, newest first. `timeout` is per page of 50."""
        request = model_pb2.ListModelVersionsRequest(model=model)
        return self._list(self._models.ListModelVersions, request, "versions", timeout)

    def list_model_servers(
        self, *, model: str = "", timeout: float | None = None
    ) -> list[model_pb2.ModelServer]:
        """All model servers that the gateway knows; `foreign_reason` names those that are not its own."""
        request = model_pb2.ListModelVersionsRequest(model=model, page_size=1)
        return list(self._call(self._models.ListModelVersions, request, timeout).model_servers)

    def get_model_version(
        self, version: int, *, model: str = "", timeout: float | None = None
    ) -> model_pb2.ModelVersion:
        """One version with its whole manifest."""
        request = model_pb2.GetModelVersionRequest(model=model, version=version)
        return self._call(self._models.GetModelVersion, request, timeout).version

    def get_release(self, *, model: str = "", timeout: float | None = None) -> model_pb2.Release:
        """Which version each label means, how traffic is split, and what shadow and guards have seen."""
        request = model_pb2.GetReleaseRequest(model=model)
        return self._call(self._models.GetRelease, request, timeout).release

    def promote(
        self,
        version: int,
        *,
        model: str = "",
        etag: str = "",
        request_id: str = "",
        reason: str = "",
        force: bool = False,
        timeout: float | None = None,
    ) -> model_pb2.PromoteModelVersionResponse:
        """Makes a READY version "stable"; the one before becomes "previous" and stays loaded.

        Args:
            version: number of the version.
            etag: `Release.etag` as last seen. When the release has changed since, nothing is done and
                `ReleaseChangedError` is raised. Empty: whatever is there.
            force: promote although the gate refuses; is recorded.

        Returns:
            `release` as it is now, and `change` as it was recorded: unset where all was so already.

        Raises:
            GateRefusedError: the gate refuses the version, and `force` is not set.
        """
        request = model_pb2.PromoteModelVersionRequest(
            model=model,
            version=version,
            etag=etag,
            request_id=request_id or _calls.new_request_id(),
            reason=reason,
            force=force,
        )
        return self._call(self._models.PromoteModelVersion, request, timeout)

    def rollback(
        self,
        *,
        model: str = "",
        etag: str = "",
        request_id: str = "",
        reason: str = "",
        timeout: float | None = None,
    ) -> model_pb2.RollbackModelResponse:
        """Makes "previous" the "stable" version again; the two change places. Otherwise as `promote`."""
        request = model_pb2.RollbackModelRequest(
            model=model, etag=etag, request_id=request_id or _calls.new_request_id(), reason=reason
        )
        return self._call(self._models.RollbackModel, request, timeout)

    def set_traffic_split(
        self,
        *,
        canary_version: int = 0,
        canary_percent: float = 0.0,
        shadow_version: int = 0,
        model: str = "",
        etag: str = "",
        request_id: str = "",
        reason: str = "",
        timeout: float | None = None,
    ) -> model_pb2.SetTrafficSplitResponse:
        """Sets the whole split as it shall be: without arguments, no canary and no shadow.

        Args:
            canary_version: version that gets a share of the callers of "stable"; 0 for none.
            canary_percent: its share in percent, above 0 to 100; 0 without a canary.
            shadow_version: version that gets copies of the traffic; 0 for none.

        Otherwise as `promote`.
        """
        request = model_pb2.SetTrafficSplitRequest(
            model=model,
            etag=etag,
            request_id=request_id or _calls.new_request_id(),
            reason=reason,
            canary_version=canary_version,
            canary_percent=canary_percent,
            shadow_version=shadow_version,
        )
        return self._call(self._models.SetTrafficSplit, request, timeout)

    def evaluate_model_version(
        self, version: int, *, model: str = "", timeout: float = _channel.DEFAULT_EVALUATION_TIMEOUT
    ) -> model_pb2.GateReport:
        """Measures a version and "stable" on the sealed images, and says what the gate makes of it.

        It goes through the gateway's own transform and the served versions, takes as long as that many
        images take, and changes nothing.
        """
        request = model_pb2.EvaluateModelVersionRequest(model=model, version=version)
        return self._call(self._models.EvaluateModelVersion, request, timeout).report

    def list_release_changes(
        self, *, limit: int = 50, model: str = "", timeout: float | None = None
    ) -> list[model_pb2.ReleaseChange]:
        """The last changes of the release, newest first, at most `limit`: who, what, when and why."""
        request = model_pb2.ListReleaseChangesRequest(model=model, page_size=_calls.page_size(limit))
        return self._list(self._models.ListReleaseChanges, request, "changes", timeout, limit)

    def watch_model_versions(
        self, *, model: str = "", patience: float = _channel.DEFAULT_IDLE_TIMEOUT, timeout: float = math.inf
    ) -> Generator[model_pb2.WatchModelVersionsResponse, None, None]:
        """The present state (every version, then the release), and then every change as it happens.

        A gateway that goes away is waited for, and the watch resumes behind what was seen. Where the gateway
        does not remember that, the present state comes again (`snapshot`).

        Args:
            patience: seconds that the gateway may be away before its `UnavailableError` is raised.
            timeout: seconds for the whole watch, after which it ends with `DeadlineExceededError`.
        """
        watch = _streams.VersionsWatch(model, patience, timeout)
        return self._watch(self._models.WatchModelVersions, watch)

    def upload_examples(
        self,
        images: Iterable[LabelledImage],
        *,
        window: int = DEFAULT_WINDOW,
        patience: float = _channel.DEFAULT_IDLE_TIMEOUT,
        idle_timeout: float = _channel.DEFAULT_IDLE_TIMEOUT,
    ) -> Generator[UploadResult, None, None]:
        """Sends labelled images for retraining; one result for each, once it is kept for good or refused.

        `images` may be a generator, even an endless one. It is read in another thread, at most `window`
        images ahead of the results that the caller has taken. `labelled_images` makes one from class folders.

        When the connection breaks or the gateway restarts, the upload resumes where it was. An image whose
        result was lost is sent again, which does no harm: the gateway knows an image by its bytes. A single
        image that is not taken is a result with an error; an exception ends the upload, and another upload of
        the same images completes it.

        Args:
            images: what to send; keys come back in the results.
            window: largest number of images on their way at a time.
            patience: seconds that the gateway may be away before its `UnavailableError` is raised.
            idle_timeout: seconds without any answer, while images are waiting for one, after which the upload
                ends with `DeadlineExceededError`.
        """
        limits = _streams.Limits(self.target, self._max_image_bytes, window, idle_timeout, patience)
        start = self._training.UploadExamples
        return _streams.consume(lambda deliver: UploadCall(images, start, limits, deliver))

    def submit_feedback(
        self,
        prediction_id: str,
        *,
        class_id: str = "",
        not_mri: bool = False,
        comment: str = "",
        request_id: str = "",
        timeout: float | None = None,
    ) -> training_pb2.SubmitFeedbackResponse:
        """Says what an earlier answer should have been; turns into an example where the image was kept.

        Args:
            prediction_id: `Classification.prediction_id`.
            class_id: the right class, e.g. "glioma".
            not_mri: or that the image is no brain MRI slice.
            comment: for people, up to 512 characters.

        Raises:
            ValueError: neither `class_id` nor `not_mri`, or both.
        """
        request = _calls.build_feedback(prediction_id, class_id, not_mri, comment, request_id)
        return self._call(self._training.SubmitFeedback, request, timeout)

    def update_example(
        self,
        example_id: str,
        *,
        class_id: str,
        expected_class_id: str = "",
        reason: str = "",
        timeout: float | None = None,
    ) -> training_pb2.Example:
        """Corrects the class of an example, for retrainings whose trainer starts later; safe to repeat.

        Args:
            example_id: which.
            class_id: its right class.
            expected_class_id: the class that it is taken to have; refused if it has another. Empty: any.
        """
        request = training_pb2.UpdateExampleRequest(
            example_id=example_id, class_id=class_id, expected_class_id=expected_class_id, reason=reason
        )
        return self._call(self._training.UpdateExample, request, timeout).example

    def delete_example(
        self, example_id: str, *, reason: str = "", timeout: float | None = None
    ) -> training_pb2.DeleteExampleResponse:
        """Erases an example with its image, for retrainings whose trainer starts later.

        Returns the versions that have learned from it, which stay, and the running retrainings that were
        given it. Not tried again by itself: a second attempt would not find what the first has erased.
        """
        request = training_pb2.DeleteExampleRequest(example_id=example_id, reason=reason)
        return self._call(self._training.DeleteExample, request, timeout)

    def delete_prediction(
        self, prediction_id: str, *, reason: str = "", timeout: float | None = None
    ) -> training_pb2.DeletePredictionResponse:
        """Erases a prediction with its image and all feedback on it; names the examples made of it.

        Those stay; `delete_example` erases them. Not tried again by itself, as `delete_example`.
        """
        request = training_pb2.DeletePredictionRequest(prediction_id=prediction_id, reason=reason)
        return self._call(self._training.DeletePrediction, request, timeout)

    def list_examples(
        self,
        wanted: training_pb2.ExampleFilter | None = None,
        *,
        page_size: int = 0,
        page_token: str = "",
        thumbnails: bool = False,
        timeout: float | None = None,
    ) -> training_pb2.ListExamplesResponse:
        """One page of the examples, newest first, and their number by class.

        Args:
            wanted: which; unset for all.
            page_size: examples per page, 1 to 500; 0 for 50.
            page_token: `next_page_token` of the page before; empty for the first.
            thumbnails: whether small pictures are wanted, too.
        """
        request = training_pb2.ListExamplesRequest(
            filter=wanted, page_size=page_size, page_token=page_token, thumbnails=thumbnails
        )
        return self._call(self._training.ListExamples, request, timeout)

    def start_retraining(
        self,
        *,
        warm_start_version: int | None = None,
        from_scratch: bool = False,
        examples: training_pb2.ExampleFilter | None = None,
        hyperparameters: Mapping[str, object] | None = None,
        launcher: str = "",
        promote: bool = False,
        gate_policy: str = "",
        request_id: str = "",
        timeout: float | None = None,
    ) -> training_pb2.Retraining:
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

        Raises:
            ValueError: both `warm_start_version` and `from_scratch`.
        """
        request = _calls.build_retraining(
            warm_start_version=warm_start_version,
            from_scratch=from_scratch,
            examples=examples,
            hyperparameters=hyperparameters,
            launcher=launcher,
            promote=promote,
            gate_policy=gate_policy,
            request_id=request_id,
        )
        return self._call(self._training.StartRetraining, request, timeout).retraining

    def get_retraining(self, retraining_id: str, *, timeout: float | None = None) -> training_pb2.Retraining:
        """One retraining as it is now."""
        request = training_pb2.GetRetrainingRequest(retraining_id=retraining_id)
        return self._call(self._training.GetRetraining, request, timeout).retraining

    def list_retrainings(
        self,
        *,
        state: training_pb2.RetrainingState | str | None = None,
        limit: int = 50,
        timeout: float | None = None,
    ) -> list[training_pb2.Retraining]:
        """The last retrainings, newest first, at most `limit`; with `state`, only those in it.

        `state` is a `RetrainingState` or its whole name.
        """
        request = training_pb2.ListRetrainingsRequest(state=state, page_size=_calls.page_size(limit))
        return self._list(self._training.ListRetrainings, request, "retrainings", timeout, limit)

    def watch_retraining(
        self,
        retraining_id: str,
        *,
        after_sequence: int = 0,
        patience: float = _channel.DEFAULT_IDLE_TIMEOUT,
        timeout: float = math.inf,
    ) -> Generator[training_pb2.RetrainingEvent, None, None]:
        """The events of a retraining, those of the past first; ends with the retraining.

        A gateway that goes away is waited for, and the watch resumes behind the last event that was seen, so
        that none is missed and none comes twice.

        Args:
            retraining_id: identifier.
            after_sequence: only events with a larger sequence number; 0 for all.
            patience: seconds that the gateway may be away before its `UnavailableError` is raised.
            timeout: seconds for the whole watch, after which it ends with `DeadlineExceededError`.
        """
        watch = _streams.RetrainingWatch(retraining_id, after_sequence, patience, timeout)
        return self._watch(self._training.WatchRetraining, watch)

    def cancel_retraining(
        self, retraining_id: str, *, reason: str = "", timeout: float | None = None
    ) -> training_pb2.Retraining:
        """Ends a retraining that has not ended; the answer may come before its trainer is gone.

        Not tried again by itself: a second attempt could meet a retraining that the first has ended.
        """
        request = training_pb2.CancelRetrainingRequest(retraining_id=retraining_id, reason=reason)
        return self._call(self._training.CancelRetraining, request, timeout).retraining

    def _load(self, image: Image, frame: int = 0) -> tuple[bytes, int]:
        return load_image(image, self._max_image_bytes), framed(image, frame)[1]

    def _call(
        self, method: grpc.UnaryUnaryMultiCallable[Any, T], request: Message, timeout: float | None
    ) -> T:
        limit = _channel.deadline(timeout, self._timeout)
        with self._errors():
            return method(request, timeout=limit)

    def _list(
        self,
        method: grpc.UnaryUnaryMultiCallable[Any, Any],
        request: Any,  # noqa: ANN401 - any request with pages
        field: str,
        timeout: float | None,
        limit: int = sys.maxsize,
    ) -> list[Any]:
        found: list[Any] = []
        while True:
            response = self._call(method, request, timeout)
            found.extend(getattr(response, field))
            request.page_token = response.next_page_token
            if not request.page_token or len(found) >= limit:
                return found[:limit]

    def _watch(self, method: Callable[..., Any], watch: _streams.Watch[T]) -> Generator[T, None, None]:
        call: Any = None
        try:
            while True:
                try:
                    with self._errors():
                        call = method(watch.request(), timeout=watch.left())
                        for response in call:
                            if (item := watch.take(response)) is not None:
                                yield item
                        return
                except NeurogateError as error:
                    time.sleep(watch.delay(error))
        finally:
            if call is not None:
                call.cancel()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise from_rpc_error(error, self.target) from error
        except ValueError as error:
            # So gRPC refuses a channel that is closed.
            raise CallCancelledError("the client is closed") from error
