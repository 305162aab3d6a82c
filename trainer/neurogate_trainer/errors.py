"""What a user can do something about, as opposed to a defect of the trainer."""

from __future__ import annotations


class TrainerError(Exception):
    """Why the trainer cannot do what it was asked; the message is for its user."""


def user_errors() -> tuple[type[Exception], ...]:
    """The kinds of errors whose messages are for the user: the trainer's, the system's, the formats'."""
    # Late imports, as in the commands: `--help` need not wait for them.
    from neurogate_core.hyperparameters import HyperparameterError  # noqa: PLC0415
    from neurogate_core.manifest import ManifestError  # noqa: PLC0415
    from neurogate_core.preprocessing.transform import TransformError  # noqa: PLC0415
    from neurogate_core.repository import RepositoryError  # noqa: PLC0415

    return (TrainerError, OSError, HyperparameterError, ManifestError, RepositoryError, TransformError)
