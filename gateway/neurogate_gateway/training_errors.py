"""How examples, feedback and retrainings are refused; leaves of the tree in `errors`."""

from __future__ import annotations

from neurogate.v1 import error_pb2

from .errors import ExhaustedError, InvalidArgumentError, NotFoundError, PreconditionError, UnavailableError


class RecordsDisabledError(PreconditionError):
    """This gateway keeps no records, so it takes no examples and starts no retraining."""

    reason = error_pb2.ERROR_REASON_RECORDS_DISABLED


class RecordsUnavailableError(UnavailableError):
    """The records cannot be read or written now."""

    reason = error_pb2.ERROR_REASON_RECORDS_UNAVAILABLE


class UploadSequenceInvalidError(InvalidArgumentError):
    """An upload's messages are out of order: image and chunks mixed, or a chunk too many."""

    reason = error_pb2.ERROR_REASON_UPLOAD_SEQUENCE_INVALID


class ExampleDigestMismatchError(InvalidArgumentError):
    """An example's bytes do not have the digest that the caller gave."""

    reason = error_pb2.ERROR_REASON_EXAMPLE_DIGEST_MISMATCH


class ExampleConflictError(PreconditionError):
    """The image is kept under another class already."""

    reason = error_pb2.ERROR_REASON_EXAMPLE_CONFLICT


class ExampleNotFoundError(NotFoundError):
    """There is no example of that id, or it was erased."""

    reason = error_pb2.ERROR_REASON_EXAMPLE_NOT_FOUND


class PredictionNotFoundError(NotFoundError):
    """There is no prediction of that id, or it is not kept any longer."""

    reason = error_pb2.ERROR_REASON_PREDICTION_NOT_FOUND


class FeedbackInvalidError(InvalidArgumentError):
    """Feedback names both a class and "not an MRI", or neither."""

    reason = error_pb2.ERROR_REASON_FEEDBACK_INVALID


class FilterInvalidError(InvalidArgumentError):
    """A filter does not make sense."""

    reason = error_pb2.ERROR_REASON_FILTER_INVALID


class ExamplesTooFewError(PreconditionError):
    """A class has fewer examples than a retraining needs; the metadata counts them."""

    reason = error_pb2.ERROR_REASON_EXAMPLES_TOO_FEW


class HyperparameterInvalidError(InvalidArgumentError):
    """A hyper-parameter is unknown or out of its range."""

    reason = error_pb2.ERROR_REASON_HYPERPARAMETER_INVALID


class BaseVersionNotFoundError(NotFoundError):
    """The version that a retraining was to start from is not in the repository."""

    reason = error_pb2.ERROR_REASON_BASE_VERSION_NOT_FOUND


class RetrainingNotFoundError(NotFoundError):
    """There is no retraining of that id."""

    reason = error_pb2.ERROR_REASON_RETRAINING_NOT_FOUND


class RetrainingEndedError(PreconditionError):
    """The retraining has ended."""

    reason = error_pb2.ERROR_REASON_RETRAINING_ENDED


class LauncherNotConfiguredError(PreconditionError):
    """The launcher is not configured on this gateway."""

    reason = error_pb2.ERROR_REASON_LAUNCHER_NOT_CONFIGURED


class RetrainingQueueFullError(ExhaustedError):
    """Too many retrainings wait already."""

    reason = error_pb2.ERROR_REASON_RETRAINING_QUEUE_FULL


class ExampleNameInvalidError(InvalidArgumentError):
    """The group of an example is too long or not printable."""

    reason = error_pb2.ERROR_REASON_EXAMPLE_NAME_INVALID


class ExampleStoreFullError(ExhaustedError):
    """The store of images is full."""

    reason = error_pb2.ERROR_REASON_EXAMPLE_STORE_FULL


class GatePolicyInvalidError(InvalidArgumentError):
    """A retraining's gate policy is not TOML, or has a key or a value that is not right."""

    reason = error_pb2.ERROR_REASON_GATE_POLICY_INVALID
