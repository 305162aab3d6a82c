from __future__ import annotations

import pytest
from neurogate_model_server.policy import Action, Phase, Snapshot, next_action

NEW, LOADING, READY, FAILED = Phase.NEW, Phase.LOADING, Phase.READY, Phase.FAILED
UNLOADING = Phase.UNLOADING


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        pytest.param([], None, id="nothing known"),
        pytest.param([(1, NEW, True)], Action(1, load=True), id="first version"),
        pytest.param(
            [(1, NEW, True), (3, NEW, True), (2, NEW, True)], Action(3, load=True), id="newest first"
        ),
        pytest.param([(1, READY, True)], None, id="all well"),
        pytest.param([(1, READY, False), (2, NEW, True)], Action(2, load=True), id="load before unload"),
        pytest.param([(1, READY, False), (2, LOADING, True)], None, id="old one stays while new one loads"),
        pytest.param([(1, READY, False), (2, READY, True)], Action(1, load=False), id="then it goes"),
        pytest.param([(1, READY, False), (2, FAILED, True)], None, id="old one stays when new one fails"),
        pytest.param(
            [(1, READY, False), (2, READY, False), (3, NEW, True)],
            Action(1, load=False),
            id="one old one is enough",
        ),
        pytest.param([(1, READY, False), (2, READY, False)], Action(1, load=False), id="none wanted"),
        pytest.param([(1, READY, False)], Action(1, load=False), id="last unwanted one"),
        pytest.param([(1, UNLOADING, False), (2, READY, True)], None, id="already going"),
        pytest.param([(1, NEW, False)], None, id="never loaded, not wanted"),
    ],
)
def test_the_next_step_keeps_a_model_available(
    versions: list[tuple[int, Phase, bool]], expected: Action | None
) -> None:
    assert next_action(Snapshot(*version) for version in versions) == expected
