"""Live guards: when each fires, and what resets it."""

from __future__ import annotations

import numpy as np
import pytest
from neurogate.v1.model_pb2 import GuardState
from neurogate_gateway.release.guards import Guards, Sample
from neurogate_gateway.release.policy import GuardPolicy

POLICY = GuardPolicy(
    window=10,
    breaches_to_fire=3,
    release_below=0.5,
    max_error_rate=0.2,
    max_latency_ms=100,
    max_abstention_rate=0.4,
    max_probability_shift=0.3,
)
EVEN = np.array([0.5, 0.5], dtype=np.float32)


def window(
    guards: Guards, *, errors: int = 0, ms: float = 10, abstained: int = 0, answer: np.ndarray = EVEN
) -> GuardState | None:
    """One whole window; what fired at its end."""
    fired = None
    for index in range(POLICY.window):
        sample = Sample(ms, None if index < errors else answer, index >= POLICY.window - abstained)
        fired = guards.add(sample)
        assert fired is None or index == POLICY.window - 1
    return fired


@pytest.mark.parametrize(
    ("bad", "name", "value"),
    [
        ({"errors": 3}, "error_rate", 0.3),
        ({"ms": 101.0}, "latency", 101.0),
        ({"abstained": 5}, "abstention_rate", 0.5),
        ({"answer": np.array([0.9, 0.1], dtype=np.float32)}, "probability_shift", 0.4),
    ],
)
def test_each_guard_fires_after_windows_in_a_row(bad: dict[str, object], name: str, value: float) -> None:
    guards = Guards(7, POLICY)
    guards.reference = EVEN.astype(np.float64)
    assert window(guards) is None
    assert window(guards, **bad) is None  # type: ignore[arg-type]
    assert window(guards, **bad) is None  # type: ignore[arg-type]
    fired = window(guards, **bad)  # type: ignore[arg-type]
    assert fired is not None
    assert (fired.name, fired.version, fired.breaches, fired.breaches_to_fire) == (name, 7, 3, 3)
    assert fired.value == pytest.approx(value)
    assert [state.breaches for state in guards.states() if state.name != name] == [0] * 3


def test_a_clearly_good_window_forgives_and_a_doubtful_one_does_not() -> None:
    guards = Guards(1, POLICY)
    for _ in range(5):
        assert window(guards, errors=3) is None
        assert window(guards, errors=3) is None
        assert window(guards, errors=1) is None
    assert window(guards, errors=3) is None
    assert window(guards, errors=2) is None
    assert window(guards, errors=3) is None
    assert window(guards, errors=2) is None
    assert window(guards, errors=3) is not None


def test_exactly_at_the_limit_is_no_breach() -> None:
    guards = Guards(1, POLICY)
    for _ in range(10):
        assert window(guards, errors=2, ms=100, abstained=3) is None


def test_without_a_reference_there_is_no_shift() -> None:
    guards = Guards(1, POLICY)
    far = np.array([1.0, 0.0], dtype=np.float32)
    for _ in range(5):
        assert window(guards, answer=far) is None
    guards.reference = np.array([0.0, 1.0])
    assert [window(guards, answer=far) is not None for _ in range(3)] == [False, False, True]
    # Of another number of classes nothing can be said.
    guards = Guards(1, POLICY)
    guards.reference = np.array([1.0, 0.0, 0.0])
    assert [window(guards, answer=far) for _ in range(4)] == [None] * 4


def test_a_version_that_answers_nothing() -> None:
    guards = Guards(1, POLICY)
    guards.reference = EVEN.astype(np.float64)
    fired = [window(guards, errors=10) for _ in range(3)][-1]
    assert fired is not None
    assert (fired.name, fired.value) == ("error_rate", 1.0)
