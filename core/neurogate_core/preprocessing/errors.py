"""Why an encoded image was refused."""

from __future__ import annotations


class TransformError(ValueError):
    """An image that the transform refuses; the message names what was found and what would be right.

    Attributes:
        reason: `neurogate.v1.ErrorReason` without its prefix.
    """

    reason = "IMAGE_CORRUPT"


class ImageEmptyError(TransformError):
    """There are no bytes."""

    reason = "IMAGE_EMPTY"


class ImageTooManyPixelsError(TransformError):
    """The header promises more pixels, or a longer side, than the transform accepts."""

    reason = "IMAGE_TOO_MANY_PIXELS"


class ImageFormatUnsupportedError(TransformError):
    """The bytes are not an image, or one of a kind that is not accepted."""

    reason = "IMAGE_FORMAT_UNSUPPORTED"


class ImageCorruptError(TransformError):
    """The image is truncated or damaged."""

    reason = "IMAGE_CORRUPT"


class FrameRequiredError(TransformError):
    """The file has several frames, and none is named."""

    reason = "FRAME_REQUIRED"


class FrameOutOfRangeError(TransformError):
    """The file has no frame of that number."""

    reason = "FRAME_OUT_OF_RANGE"


class NotMagneticResonanceError(TransformError):
    """A DICOM object that is no MR image."""

    reason = "NOT_MAGNETIC_RESONANCE"


class BurnedInAnnotationError(TransformError):
    """The image says that a person's data are drawn into its pixels."""

    reason = "BURNED_IN_ANNOTATION"


class DecoderLimitExceededError(TransformError):
    """Decoding needs more memory or time than an image is given."""

    reason = "DECODER_LIMIT_EXCEEDED"
