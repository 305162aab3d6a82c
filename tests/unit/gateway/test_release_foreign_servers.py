"""Whose a model server is, from what it has loaded."""

from __future__ import annotations

import pytest
from neurogate_gateway.backends.verification import Rejection
from neurogate_gateway.backends.versions import (
    LOADING,
    PROVING,
    READY,
    REJECTED,
    RETIRED,
    State,
    VersionOnBackend,
)
from neurogate_gateway.release.foreign_servers import foreign

OURS = {1: "1" * 64, 2: "2" * 64}


def there(
    state: State, digest: str = "", *, kind: Rejection | None = None, loaded: bool = True
) -> VersionOnBackend:
    return VersionOnBackend("a:1", state, "", kind, 0.0, loaded, digest)


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ({}, ""),
        ({1: there(READY, OURS[1])}, ""),
        ({1: there(PROVING, OURS[1]), 2: there(REJECTED, OURS[2], kind=Rejection.GOLDENS_DIFFER)}, ""),
        ({1: there(READY, OURS[1]), 2: there(PROVING)}, None),
        ({1: there(READY, OURS[1]), 2: there(LOADING, loaded=False)}, ""),
        ({2: there(LOADING, loaded=False)}, None),
        ({2: there(REJECTED, kind=Rejection.LOAD_FAILED, loaded=False)}, ""),
        ({2: there(RETIRED, "f" * 64, loaded=False)}, ""),
        ({9: there(READY, "f" * 64)}, ""),
        ({9: there(REJECTED, kind=Rejection.MANIFEST_INVALID)}, ""),
        ({9: there(REJECTED, kind=Rejection.NOT_DESCRIBED)}, "its version 9 does not describe itself"),
        ({5: there(REJECTED, kind=Rejection.NOT_DESCRIBED)}, ""),
        (
            {1: there(READY, "f" * 64)},
            "its version 1 has a manifest with digest ffffffffffff…, the repository's has 111111111111…",
        ),
        (
            {1: there(REJECTED, kind=Rejection.MANIFEST_INVALID)},
            "its version 1 has a manifest that is not valid, and the repository's is",
        ),
        # What broke in the proof says nothing of whose it is.
        ({1: there(REJECTED, kind=Rejection.PROOF_FAILED)}, ""),
    ],
)
def test_own_or_foreign(versions: dict[int, VersionOnBackend], expected: str | None) -> None:
    assert foreign(versions.items(), OURS, {5}) == expected


def test_own_or_foreign_while_the_repository_has_no_version() -> None:
    assert foreign([(1, there(LOADING, "f" * 64))], {}, set()) is None
    assert foreign([], {}, set()) == ""
    undescribed = there(REJECTED, kind=Rejection.NOT_DESCRIBED)
    assert foreign([(1, undescribed)], {}, set()) == "its version 1 does not describe itself"
