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
