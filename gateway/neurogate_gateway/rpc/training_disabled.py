"""TrainingService of a gateway that keeps no records: every method says so."""

from __future__ import annotations

from neurogate.v1 import error_pb2, training_pb2_grpc

from neurogate_gateway.errors import GatewayError

from .interceptor import Context


class TrainingDisabledServicer(training_pb2_grpc.TrainingServiceServicer):
    """Refuses, without having imported what records need."""

    async def _refuse(self, request: object, context: Context) -> None:  # noqa: ARG002 - gRPC passes them
        raise GatewayError(
            error_pb2.ERROR_REASON_RECORDS_DISABLED,
            "this gateway keeps no records; it would with a data folder (data_dir)",
        )

    UploadExamples = SubmitFeedback = ListExamples = _refuse  # type: ignore[assignment]
    UpdateExample = DeleteExample = DeletePrediction = _refuse  # type: ignore[assignment]
    StartRetraining = GetRetraining = ListRetrainings = _refuse  # type: ignore[assignment]
    WatchRetraining = CancelRetraining = _refuse  # type: ignore[assignment]
