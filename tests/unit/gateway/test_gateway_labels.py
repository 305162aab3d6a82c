"""What labels mean before and after somebody assigned them."""

from __future__ import annotations

import pytest
from neurogate_gateway.labels import LabelTable


def test_without_assignments_both_mean_the_highest() -> None:
    table = LabelTable()
    assert "stable" in table
    assert "latest" in table
    assert "candidate" not in table
    assert table.version("stable", [1, 3, 2]) == 3
    assert table.version("latest", [1, 3, 2]) == 3
    assert table.version("stable", []) is None
    assert table.of(3, [1, 3]) == ["latest", "stable"]
    assert table.of(1, [1, 3]) == []


def test_assignments() -> None:
    table = LabelTable({"stable": 1, "candidate": 3})
    assert table.version("stable", [1, 2, 3]) == 1
    assert table.version("latest", [1, 2, 3]) == 3
    assert table.version("candidate", [1, 2]) is None
    assert table.of(1, [1, 2, 3]) == ["stable"]
    assert table.of(3, [1, 2, 3]) == ["candidate", "latest"]
    assert table.of(3, [1, 2]) == ["candidate"]


def test_an_assigned_stable_that_is_not_ready_is_no_other_version() -> None:
    assert LabelTable({"stable": 5}).version("stable", [1, 2]) is None


def test_assignments_are_replaced_as_a_whole() -> None:
    table = LabelTable({"stable": 1, "candidate": 2})
    table.assign({"previous": 1})
    assert "candidate" not in table
    assert table.version("stable", [1, 2]) == 2


@pytest.mark.parametrize("label", ["latest", ""])
def test_labels_that_cannot_be_assigned(label: str) -> None:
    table = LabelTable({"stable": 1})
    with pytest.raises(ValueError, match="latest"):
        table.assign({label: 1})
    assert table.version("stable", [1, 2]) == 1
