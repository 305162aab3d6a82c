"""What lies in a model's directory: whole versions, and names of which each has what is wrong with it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from neurogate_core.manifest import MANIFEST_FILE, manifest_digest, write_manifest
from neurogate_core.repository import Survey
from neurogate_testing.manifests import fill_version, sound_manifest

MODEL = "brain_tumor"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / MODEL


def publish(folder: Path, number: int) -> Path:
    version = folder / str(number)
    fill_version(version)
    write_manifest(version, sound_manifest(version=number))
    return version


def test_no_directory_is_nothing(tmp_path: Path) -> None:
    survey = Survey(tmp_path, MODEL)
    assert survey.look().whole == {}
    (tmp_path / MODEL).touch()
    assert survey.look().whole == {}


def test_each_name_is_a_whole_version_or_has_what_is_wrong_with_it(folder: Path, tmp_path: Path) -> None:
    publish(folder, 1)
    (folder / "2").mkdir()
    publish(folder, 3).joinpath("variables", "variables.index").unlink()
    publish(folder, 4).joinpath("saved_model.pb").write_bytes(b"gra")
    shutil.copytree(folder / "1", folder / "5")
    publish(folder, 6).joinpath(MANIFEST_FILE).write_bytes(b"no manifest")
    publish(folder, 7).rename(folder / "0007")
    (folder / "8").symlink_to("nowhere")
    (folder / "9").write_bytes(b"")
    (folder / "10").symlink_to(publish(tmp_path / "elsewhere", 10))
    fifo = publish(folder, 11) / MANIFEST_FILE
    fifo.unlink()
    os.mkfifo(fifo)
    (folder / "1700000000").mkdir()
    (folder / "20240101120000").mkdir()
    (folder / "0001").mkdir()  # beside 1, which sorts last
    for name in ("-4", "0", "v9", "1e3", ".staging-x", "latest", str(2**63)):
        (folder / name).mkdir()
    found = Survey(tmp_path, MODEL).look()
    assert found.whole == {
        1: manifest_digest((folder / "1" / MANIFEST_FILE).read_bytes()),
        10: manifest_digest((folder / "10" / MANIFEST_FILE).read_bytes()),
    }
    empty = f"it has no manifest ({MANIFEST_FILE}): not a version, or not copied to its end"
    assert found.refused == {
        2: empty,
        3: "variables/variables.index is missing",
        4: "saved_model.pb has 3 bytes, its manifest says 5",
        5: "the manifest is of brain_tumor version 1: the folder was copied or renamed",
        6: found.refused[6],
        7: "its folder is called '0007', expected '7'",
        8: "its folder is a link that leads nowhere",
        9: "it is a file, expected a folder",
        11: f"{MANIFEST_FILE} is no file",
        1700000000: empty,
        20240101120000: empty,
    }
    assert found.refused[6].startswith("the manifest's 11 bytes are not a serialized")
    assert not any(str(tmp_path) in reason for reason in found.refused.values())


def test_a_copy_becomes_a_version_when_its_last_byte_is_there(folder: Path, tmp_path: Path) -> None:
    survey = Survey(tmp_path, MODEL)
    version = publish(folder, 1)
    data = version / "variables" / "variables.data-00000-of-00001"
    whole = data.read_bytes()
    data.write_bytes(whole[:-1])
    assert survey.look().refused.keys() == {1}
    data.write_bytes(whole)
    assert survey.look().whole.keys() == {1}
    assert survey.look().refused == {}


def test_another_manifest_is_read_anew_and_what_is_gone_forgotten(folder: Path, tmp_path: Path) -> None:
    survey = Survey(tmp_path, MODEL)
    version = publish(folder, 1)
    assert survey.look().whole.keys() == {1}
    write_manifest(version, sound_manifest(version=2))
    assert survey.look().refused.keys() == {1}
    shutil.rmtree(version)
    found = survey.look()
    assert (found.whole, found.refused) == ({}, {})
