"""Which versions of a base path are wanted: what the recorded transcripts do not show of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from neurogate_model_server.core import check_model_list, monitored_models, platform_of
from neurogate_model_server.errors import ServingError
from neurogate_model_server.source import FileSystemSource, ServableVersionPolicy, wanted_versions
from tensorflow_serving.config import model_server_config_pb2 as config_pb2


def models(*texts: str) -> config_pb2.ModelConfigList:
    text = "".join(f"config {{ {text} }} " for text in texts)
    return text_format.Parse(text, config_pb2.ModelConfigList())


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("latest {}", [(10, "10")]),
        ("latest { num_versions: 2 }", [(10, "10"), (7, "7")]),
        ("latest { num_versions: 9 }", [(10, "10"), (7, "7"), (-4, "-4")]),
        ("all {}", [(-4, "-4"), (7, "007"), (10, "10"), (7, "7")]),
        ("specific { versions: -4 versions: 7 versions: 5 }", [(-4, "-4"), (7, "7")]),
        ("specific {}", []),
    ],
)
def test_policies_choose_versions(policy: str, expected: list[tuple[int, str]]) -> None:
    names = ["7", "10", "-4", "007", "x", "9223372036854775808", "\u0663", "1_0", "0x10", "3.0", "- 4", ""]
    assert wanted_versions(names, text_format.Parse(policy, ServableVersionPolicy())) == expected


def test_one_base_path_that_cannot_be_read_holds_everything(tmp_path: Path) -> None:
    told: list[Any] = []
    (tmp_path / "a/3").mkdir(parents=True)
    source = FileSystemSource(lambda name, versions: told.append((name, list(versions))), 0)
    for other in (str(tmp_path / "missing"), "gs://bucket/x"):
        source.update(
            monitored_models(
                models(
                    f'name: "a" model_platform: "tensorflow" base_path: "file://{tmp_path}/a"',
                    f'name: "b" model_type: TENSORFLOW base_path: "{other}"',
                )
            )
        )
        source.poll()
        assert told == []
    alone = f'name: "a" model_platform: "tensorflow" base_path: "file://{tmp_path}/a"'
    source.update(monitored_models(models(alone)))
    source.poll()
    assert told == [("b", []), ("a", [(3, tmp_path / "a/3")])]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ('model_type: TENSORFLOW model_platform: "tensorflow"', "Illegal setting both"),
        ("model_type: OTHER", "model_type choice 2 not supported"),
    ],
)
def test_a_model_needs_one_platform(model: str, message: str) -> None:
    with pytest.raises(ServingError, match=message):
        platform_of(models(model).config[0])


@pytest.mark.parametrize(("base_path", "good"), [("gs://bucket/m", True), ("./m", False), ("", False)])
def test_base_paths_are_absolute_or_uris(base_path: str, good: bool) -> None:
    given = models(f'name: "a" base_path: "{base_path}"')
    if good:
        check_model_list(given)
        return
    with pytest.raises(ServingError, match=f"absolute path or URI; got base_path\\(\\)={base_path}$"):
        check_model_list(given)
