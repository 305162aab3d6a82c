"""The model repository within one process: names, numbers, and what a failed publication leaves."""

from __future__ import annotations

import errno
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from neurogate.v1 import manifest_pb2
from neurogate_core.manifest import ManifestError, verify_version
from neurogate_core.repository import ModelRepository, PublishedVersion, RepositoryError, VersionNotFoundError
from neurogate_testing.manifests import fill_version, sound_manifest

MODEL = "brain_tumor"


@pytest.fixture
def repository(tmp_path: Path) -> ModelRepository:
    return ModelRepository(tmp_path / "models")


def publish(repository: ModelRepository, model: str = MODEL, run: str = "run") -> PublishedVersion:
    with repository.staging(model, run) as staged:
        fill_version(staged)
        return repository.publish(model, staged, sound_manifest())


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def test_an_absent_repository_is_empty(repository: ModelRepository) -> None:
    assert repository.versions(MODEL) == []
    assert repository.sweep(MODEL) == []
    with pytest.raises(
        VersionNotFoundError, match=r"'brain_tumor' has no version 1 in .*models \(it has: none\)"
    ):
        repository.path(MODEL, 1)
    assert not repository.root.exists()


def test_versions_count_up_and_say_what_they_are(repository: ModelRepository) -> None:
    before = datetime.now(UTC)
    first, second = publish(repository), publish(repository)
    assert [first.version, second.version] == repository.versions(MODEL) == [1, 2]
    assert second.path == repository.path(MODEL, 2) == repository.root / MODEL / "2"
    assert second.manifest == verify_version(second.path, model_name=MODEL)
    assert second.manifest.version == 2
    assert before <= second.manifest.created_at.ToDatetime(UTC) <= datetime.now(UTC)
    assert visible(repository.root / MODEL) == ["1", "2"]
    assert hidden(repository.root / MODEL) == [".highest", ".lock"]
    with pytest.raises(VersionNotFoundError, match=r"no version 3 .*\(it has: 1, 2\)"):
        repository.path(MODEL, 3)


def test_the_callers_manifest_is_not_changed_and_does_not_name_the_version(
    repository: ModelRepository,
) -> None:
    given = sound_manifest(model="something_else", version=99)
    before = given.SerializeToString(deterministic=True)
    with repository.staging(MODEL, "run") as staged:
        fill_version(staged)
        published = repository.publish(MODEL, staged, given)
    assert (published.manifest.model_name, published.manifest.version) == (MODEL, 1)
    assert given.SerializeToString(deterministic=True) == before


def test_only_numbers_as_the_repository_writes_them_are_versions(repository: ModelRepository) -> None:
    publish(repository)
    folder = repository.root / MODEL
    for name in ("007", "+8", " 9", "-4", "0", "v9", "5abc", "1e3", ".tmp-5", str(2**63), "12x"):
        (folder / name).mkdir()
    (folder / "6").write_text("a plain file")
    (folder / "latest").symlink_to("1")
    (folder / "4").symlink_to("nowhere")
    assert repository.versions(MODEL) == [1]
    (folder / "5").symlink_to("1")
    assert repository.versions(MODEL) == [1, 5]


def test_to_withdraw_a_link_leaves_what_it_leads_to(repository: ModelRepository, tmp_path: Path) -> None:
    elsewhere = publish(ModelRepository(tmp_path / "elsewhere")).path
    publish(repository)
    (repository.root / MODEL / "5").symlink_to(elsewhere)
    repository.withdraw(MODEL, 5)
    repository.sweep(MODEL)
    assert repository.versions(MODEL) == [1]
    assert (elsewhere / "saved_model.pb").exists()
    assert publish(repository).version == 6


@pytest.mark.parametrize(
    ("name", "number"),
    [("007", 8), ("+8", 9), (" 9 ", 10), ("-4", 2), ("0", 2), ("v9", 2), (str(2**63), 2), ("41", 42)],
)
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_number_that_the_server_could_see_is_not_given_again(
    repository: ModelRepository, name: str, number: int, kind: str
) -> None:
    publish(repository)
    path = repository.root / MODEL / name
    if kind == "file":
        path.write_text("")
    else:
        path.mkdir()
    assert publish(repository).version == number


def test_numbers_of_removed_versions_are_not_given_again(repository: ModelRepository) -> None:
    publish(repository)
    shutil.rmtree(publish(repository).path)
    assert publish(repository).version == 3
    for version in repository.versions(MODEL):
        shutil.rmtree(repository.path(MODEL, version))
    assert ModelRepository(repository.root).versions(MODEL) == []
    assert publish(repository).version == 4


@pytest.mark.parametrize("content", [b"", b"two", b"-1", b"\xff", b"1 2"])
def test_a_damaged_record_stops_publication(repository: ModelRepository, content: bytes) -> None:
    publish(repository)
    (repository.root / MODEL / ".highest").write_bytes(content)
    with pytest.raises(RepositoryError, match=r"\.highest is damaged"):
        publish(repository)
    assert repository.versions(MODEL) == [1]


def test_numbers_run_out(repository: ModelRepository) -> None:
    publish(repository)
    (repository.root / MODEL / ".highest").write_text(f"{2**63 - 1}\n")
    with pytest.raises(RepositoryError, match="no number is left"):
        publish(repository)


BAD_NAMES = ["", ".", "..", "../up", "a/b", ".hidden", "-flag", "a b", "a\nb", "ä", "x" * 129, "a\0b"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_are_paths_or_worse_are_refused(repository: ModelRepository, name: str) -> None:
    for action in (
        lambda: repository.versions(name),
        lambda: repository.path(name, 1),
        lambda: repository.sweep(name),
        lambda: publish(repository, name),
        lambda: publish(repository, run=name),
    ):
        with pytest.raises(RepositoryError, match="is not valid, expected 1 to 128 letters"):
            action()


def test_a_model_that_is_a_file_is_refused(repository: ModelRepository) -> None:
    repository.root.mkdir()
    (repository.root / MODEL).write_text("")
    with pytest.raises(RepositoryError, match="is not a directory, so no model can be kept there"):
        publish(repository)
    assert repository.versions(MODEL) == []


def test_a_repository_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RepositoryError, match="is not a directory"):
        publish(ModelRepository(tmp_path / "file"))


def test_what_is_not_published_is_removed(repository: ModelRepository) -> None:
    with repository.staging(MODEL, "run") as staged:
        fill_version(staged)
    assert not staged.exists()
    context = repository.staging(MODEL, "run")
    staged = context.__enter__()
    fill_version(staged)
    assert not context.__exit__(ValueError, ValueError("training failed"), None)
    assert not staged.exists()
    assert publish(repository).version == 1


def test_two_stagings_live_side_by_side_but_not_under_one_name(repository: ModelRepository) -> None:
    with repository.staging(MODEL, "a") as one, repository.staging(MODEL, "b") as other:
        assert one != other
        with (
            pytest.raises(RepositoryError, match=r"\.staging-a is in use by another process"),
            repository.staging(MODEL, "a"),
        ):
            pytest.fail("two stagings under one name")
        assert one.is_dir()
        assert repository.sweep(MODEL) == []


def test_a_successor_under_the_same_name_survives_the_end_of_the_first(repository: ModelRepository) -> None:
    with repository.staging(MODEL, "run") as first:
        fill_version(first)
        repository.publish(MODEL, first, sound_manifest())
        second = repository.staging(MODEL, "run")
        with second as staged:
            fill_version(staged)
            assert repository.publish(MODEL, staged, sound_manifest()).version == 2
    assert repository.versions(MODEL) == [1, 2]
    outer = repository.staging(MODEL, "run")
    staged = outer.__enter__()
    fill_version(staged)
    repository.publish(MODEL, staged, sound_manifest())
    with repository.staging(MODEL, "run") as successor:
        outer.__exit__(None, None, None)
        assert successor.is_dir()


def test_only_this_models_staging_folders_are_published(repository: ModelRepository, tmp_path: Path) -> None:
    fill_version(tmp_path / "elsewhere")
    first = publish(repository)
    with repository.staging("other", "run") as other:
        fill_version(other)
        for folder in (tmp_path / "elsewhere", other, first.path, repository.root / MODEL):
            with pytest.raises(RepositoryError, match="is not a staging folder of"):
                repository.publish(MODEL, folder, sound_manifest())
    with pytest.raises(RepositoryError, match="does not exist"):
        repository.publish(MODEL, repository.root / MODEL / ".staging-none", sound_manifest())
    with (
        repository.staging(MODEL, "run") as staged,
        pytest.raises(RepositoryError, match="is empty, expected a SavedModel"),
    ):
        repository.publish(MODEL, staged, sound_manifest())
    assert repository.versions(MODEL) == [1]


def test_another_file_system_is_refused(repository: ModelRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    with repository.staging(MODEL, "run") as staged:
        fill_version(staged)
        real = Path.stat

        def elsewhere(path: Path, **options: bool) -> os.stat_result:
            result = real(path, **options)
            if path != staged:
                return result
            fields = list(result)
            fields[2] += 1  # st_dev
            return os.stat_result(fields)

        monkeypatch.setattr(Path, "stat", elsewhere)
        with pytest.raises(RepositoryError, match="on another file system"):
            repository.publish(MODEL, staged, sound_manifest())
        monkeypatch.undo()


def test_a_manifest_that_makes_no_sense_publishes_nothing(repository: ModelRepository) -> None:
    with repository.staging(MODEL, "run") as staged:
        fill_version(staged)
        with pytest.raises(ManifestError, match="classes has 0 entries"):
            repository.publish(MODEL, staged, manifest_pb2.ModelManifest())
    assert visible(repository.root / MODEL) == []
    assert hidden(repository.root / MODEL) == [".lock"]
    assert publish(repository).version == 1


@pytest.mark.parametrize("function", ["fsync", "rename", "replace"])
def test_a_full_disk_is_an_error_and_leaves_nothing(
    repository: ModelRepository, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    publish(repository)
    real = getattr(os, function)
    calls = 0
    while True:
        budget = calls

        def limited(*args: object, _budget: list[int] = [budget], **options: object) -> object:  # noqa: B006
            if not _budget[0]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            _budget[0] -= 1
            return real(*args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(os, function, limited)
            try:
                publish(repository)
                break
            except OSError as error:
                full = error.errno
        assert full == errno.ENOSPC
        folder = repository.root / MODEL
        assert hidden(folder) == [".highest", ".lock"]
        for version in repository.versions(MODEL):
            verify_version(repository.path(MODEL, version))
        calls += 1
    assert calls > 0
    assert visible(repository.root / MODEL) == [str(version) for version in repository.versions(MODEL)]


def test_what_others_left_is_not_swept(repository: ModelRepository, tmp_path: Path) -> None:
    publish(repository)
    folder = repository.root / MODEL
    (tmp_path / "precious").mkdir()
    (folder / ".staging-link").symlink_to(tmp_path / "precious")
    (folder / ".staging-file").write_text("")
    (folder / ".other").mkdir()
    (folder / ".staging-dead").mkdir()
    (folder / "..highest.abc.tmp").write_text("")
    assert repository.sweep(MODEL) == ["..highest.abc.tmp", ".staging-dead"]
    assert hidden(folder) == [".highest", ".lock", ".other", ".staging-file", ".staging-link"]
    assert (tmp_path / "precious").is_dir()


def test_publishing_and_staging_sweep_first(repository: ModelRepository) -> None:
    publish(repository)
    folder = repository.root / MODEL
    (folder / ".staging-dead").mkdir()
    with repository.staging(MODEL, "dead") as staged:
        assert list(staged.iterdir()) == []
    (folder / ".staging-dead").mkdir()
    publish(repository)
    assert hidden(folder) == [".highest", ".lock"]


def test_a_withdrawn_version_is_gone_and_its_number_is_never_given_again(tmp_path: Path) -> None:
    repository = ModelRepository(tmp_path)
    for number in range(3):
        with repository.staging(MODEL, f"run-{number}") as staged:
            fill_version(staged)
            repository.publish(MODEL, staged, sound_manifest())
    # Copied by hand, so that nothing but its name knows its number.
    shutil.copytree(repository.path(MODEL, 3), tmp_path / MODEL / "7")
    assert repository.withdraw(MODEL, 7) == 7
    assert repository.withdraw(MODEL, 2) == 2
    assert repository.versions(MODEL) == [1, 3]
    with pytest.raises(VersionNotFoundError):
        repository.withdraw(MODEL, 2)
    repository.sweep(MODEL)
    assert sorted(path.name for path in (tmp_path / MODEL).iterdir() if not path.name.startswith(".")) == [
        "1",
        "3",
    ]
    assert not list((tmp_path / MODEL).glob(".staging-*"))
    with repository.staging(MODEL, "next") as staged:
        fill_version(staged)
        assert repository.publish(MODEL, staged, sound_manifest()).version == 8
