from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from neurogate_model_server.source import (
    FileSystemSource,
    MonitoredModel,
    ServableVersionPolicy,
    local_path,
    version_number,
    wanted_versions,
)


def _policy(text: str = "") -> Any:
    return text_format.Parse(text, ServableVersionPolicy())


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("7", 7), ("007", 7), ("+8", 8), (" 9", 9), ("9 ", 9), ("-4", -4), ("0", 0),
        ("9223372036854775807", 2**63 - 1), ("9223372036854775808", None), ("-9223372036854775808", -(2**63)),
        ("99999999999999999999", None), (".tmp-5", None), ("v9", None), ("5abc", None), ("5.tmp", None),
        ("3.0", None), ("0x10", None), ("1e3", None), ("", None), ("latest", None), ("1_000", None),
        ("\u0663", None), ("- 4", None), ("+-4", None),
    ],
)  # fmt: skip
def test_only_decimals_of_64_bits_are_versions(name: str, number: int | None) -> None:
    assert version_number(name) == number


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("", [(10, "10")]),
        ("latest {}", [(10, "10")]),
        ("latest { num_versions: 2 }", [(10, "10"), (7, "7")]),
        ("latest { num_versions: 9 }", [(10, "10"), (7, "7"), (2, "2")]),
        ("all {}", [(7, "007"), (10, "10"), (2, "2"), (7, "7")]),
        ("specific { versions: 2 versions: 7 versions: 5 }", [(2, "2"), (7, "7")]),
        ("specific {}", []),
    ],
)
def test_policies_choose_versions(policy: str, expected: list[tuple[int, str]]) -> None:
    assert wanted_versions(["7", "10", "2", "007", "x"], _policy(policy)) == expected


class _Aspired:
    def __init__(self) -> None:
        self.calls: list[tuple[str, list[tuple[int, Path]]]] = []

    def __call__(self, name: str, versions: Any) -> None:
        self.calls.append((name, list(versions)))


def _source(aspire: _Aspired, **base_paths: Path) -> FileSystemSource:
    source = FileSystemSource(aspire, 0)
    source.update({name: MonitoredModel(name, str(path), _policy()) for name, path in base_paths.items()})
    return source


def test_a_poll_tells_every_models_versions(tmp_path: Path) -> None:
    (tmp_path / "a/3").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    aspire = _Aspired()
    _source(aspire, a=tmp_path / "a", b=tmp_path / "b").poll()
    assert aspire.calls == [("a", [(3, tmp_path / "a/3")]), ("b", [])]


def test_one_base_path_that_is_missing_holds_everything(tmp_path: Path) -> None:
    (tmp_path / "a/3").mkdir(parents=True)
    aspire = _Aspired()
    _source(aspire, a=tmp_path / "a", b=tmp_path / "missing").poll()
    assert aspire.calls == []


def test_models_that_are_left_out_lose_their_versions_at_once(tmp_path: Path) -> None:
    aspire = _Aspired()
    source = _source(aspire, a=tmp_path, b=tmp_path)
    source.update({"b": MonitoredModel("b", str(tmp_path), _policy())})
    assert aspire.calls == [("a", [])]
    assert source.models == {"b"}


def test_a_base_path_may_be_a_file_uri() -> None:
    assert local_path("file:///models/x") == Path("/models/x")
    with pytest.raises(OSError, match="gs"):
        local_path("gs://bucket/x")
