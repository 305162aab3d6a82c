"""Manifests: what is refused, and that a version's files are held to its manifest."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from neurogate.v1 import manifest_pb2
from neurogate_core.manifest import (
    MANIFEST_FILE,
    ManifestError,
    VersionCorrupt,
    digest_files,
    manifest_digest,
    model_digest,
    parse_manifest,
    read_manifest,
    serialize_manifest,
    verify_version,
    write_manifest,
)
from neurogate_testing.manifests import fill_version, sound_manifest

Manifest = manifest_pb2.ModelManifest


@pytest.fixture
def version_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "7"
    fill_version(folder)
    write_manifest(folder, sound_manifest(version=7))
    return folder


def test_a_sound_manifest_survives_the_round_trip() -> None:
    manifest = sound_manifest()
    assert parse_manifest(serialize_manifest(manifest)) == manifest


def test_equal_manifests_have_equal_digests_whatever_the_order_of_their_maps() -> None:
    one, other = sound_manifest(), sound_manifest()
    other.lineage.packages.clear()
    other.lineage.packages["keras"] = "3.15.0"
    other.lineage.packages["tensorflow"] = "2.21.0"
    assert serialize_manifest(one) == serialize_manifest(other)
    assert manifest_digest(serialize_manifest(one)) == hashlib.sha256(serialize_manifest(one)).hexdigest()


def test_fields_of_a_later_revision_survive() -> None:
    data = serialize_manifest(sound_manifest()) + b"\xfa\x3e\x03new"
    assert serialize_manifest(parse_manifest(data)) == data


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "the manifest is empty"), (b"\xff\xff\xff", "3 bytes are not a serialized ModelManifest")],
)
def test_bytes_that_are_no_manifest(data: bytes, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        parse_manifest(data)


def swap_classes(manifest: Manifest) -> None:
    manifest.classes[0].index, manifest.classes[1].index = 1, 0


def drop_golden(manifest: Manifest) -> None:
    del manifest.goldens[-1]


def relist(*paths: str) -> Callable[[Manifest], None]:
    def change(manifest: Manifest) -> None:
        del manifest.files[:]
        for path in paths:
            manifest.files.add(path=path, sha256="0" * 64)
        manifest.model_digest = model_digest(manifest.files)

    return change


def put(path: str, value: object) -> Callable[[Manifest], None]:
    """Sets the field at a dotted path; numbers are indices."""

    def change(manifest: Manifest) -> None:
        *parents, name = path.split(".")
        target: object = manifest
        for part in parents:
            target = target[int(part)] if part.isdigit() else getattr(target, part)  # type: ignore[index]
        if name.isdigit():
            target[int(name)] = value  # type: ignore[index]
        else:
            setattr(target, name, value)

    return change


WRONG: list[tuple[Callable[[Manifest], None], str]] = [
    (put("manifest_revision", 0), "manifest_revision is 0, this code knows only 1"),
    (put("manifest_revision", 2), "manifest_revision is 2, this code knows only 1"),
    (put("model_name", ""), "model_name is '', expected 1 to 128 letters"),
    (put("model_name", "../up"), "model_name is '../up'"),
    (put("version", 0), "version is 0, expected at least 1"),
    (put("version", -3), "version is -3"),
    (lambda m: m.ClearField("created_at"), "created_at is not set"),
    (put("created_at.nanos", -1), "created_at.nanos is -1"),
    (relist(), "files is empty"),
    (relist("b", "a"), "files is not sorted by path"),
    (relist("a", "a"), "names a path twice"),
    (relist("/etc/passwd"), "path '/etc/passwd', expected a relative path"),
    (relist("a/../../b"), "path 'a/../../b'"),
    (relist("a\nb"), r"path 'a\nb'"),
    (relist(MANIFEST_FILE), "files lists the manifest itself"),
    (put("files.0.size_bytes", -1), "files[saved_model.pb].size_bytes is -1"),
    (put("files.0.sha256", "A" * 64), "files[saved_model.pb].sha256 is"),
    (put("model_digest", "0" * 64), "model_digest is not the digest of files"),
    (lambda m: m.ClearField("classes"), "classes has 0 entries, expected at least 2"),
    (swap_classes, "classes have indices [1, 0, 2, 3], expected 0 to 3 in order"),
    (put("classes.3.index", 7), "classes have indices [0, 1, 2, 7]"),
    (put("classes.1.id", "glioma"), "classes has id 'glioma' twice"),
    (put("classes.1.id", "no tumour"), "classes[1].id is 'no tumour'"),
    (put("classes.2.display_name", " "), "classes[2].display_name is empty"),
    (lambda m: m.ClearField("transform"), "transform.revision is 0"),
    (put("transform.width", 0), "transform.width is 0"),
    (put("transform.color_mode", 0), "transform.color_mode is 0"),
    (put("calibration.temperature", 0.0), "calibration.temperature is 0, expected a finite number above 0"),
    (put("calibration.temperature", -1.0), "calibration.temperature is -1"),
    (put("calibration.temperature", math.nan), "calibration.temperature is nan"),
    (put("calibration.temperature", math.inf), "calibration.temperature is inf"),
    (put("calibration.ece_before", 1.5), "calibration.ece_before is 1.5, expected 0 to 1"),
    (put("calibration.ece_after", math.nan), "calibration.ece_after is nan"),
    (put("thresholds.abstain_below", 1.01), "thresholds.abstain_below is 1.01, expected 0 to 1"),
    (put("thresholds.abstain_below", math.nan), "thresholds.abstain_below is nan"),
    (put("thresholds.target_risk", -0.1), "thresholds.target_risk is -0.1"),
    (
        put("thresholds.out_of_distribution_above", math.inf),
        "out_of_distribution_above is inf, expected a finite",
    ),
    (put("thresholds.ood_method", ""), "thresholds.ood_method is empty"),
    (put("localisation.pointing.value", 1.5), "localisation.pointing.value is 1.5, expected 0 to 1"),
    (put("localisation.brightest_spot.low", math.nan), "localisation.brightest_spot.low is nan"),
    (put("localisation.deletion_support", -1), "localisation.deletion_support is -1"),
    (put("metrics.support", -1), "metrics.support is -1"),
    (put("metrics.accuracy", math.nan), "metrics.accuracy is nan"),
    (put("metrics.accuracy_ci_low", 0.99), "metrics.accuracy_ci_low is 0.99, above accuracy_ci_high (0.97)"),
    (put("metrics.per_class.0.class_id", "other"), "metrics.per_class is about ['other', 'meningioma'"),
    (put("metrics.per_class.0.recall", 2.0), "metrics.per_class[glioma].recall is 2"),
    (put("metrics.per_class.0.support", -2), "metrics.per_class[glioma].support is -2"),
    (put("lineage.dataset_digest", "abc"), "lineage.dataset_digest is 'abc'"),
    (put("lineage.examples_digest", "abc"), "lineage.examples_digest is 'abc'"),
    (put("lineage.base_weights", "internet"), "lineage.base_weights is 'internet', expected one of file"),
    (put("lineage.splits.train", -1), "lineage.splits.train is -1"),
    (put("lineage.parent_version", 0), "lineage.parent_version is 0"),
    (
        put("lineage.gate_policy", "#" * 4097),
        "lineage.gate_policy has 4097 characters, expected at most 4096",
    ),
    (drop_golden, "goldens has 3 entries, expected at least one per class"),
    (put("goldens.0.name", ""), "goldens[0].name is empty"),
    (put("goldens.1.name", "glioma-0"), "goldens has name 'glioma-0' twice"),
    (put("goldens.0.image", b""), "goldens[glioma-0].image has 0 bytes, expected 1 to 262144"),
    (put("goldens.0.image", bytes(262_145)), "image has 262145 bytes"),
    (put("goldens.0.pixels_sha256", ""), "goldens[glioma-0].pixels_sha256 is ''"),
    (lambda m: m.goldens[0].probabilities.append(0.0), "goldens[glioma-0] has 5 probabilities, expected 4"),
    (put("goldens.0.probabilities.0", math.nan), "goldens[glioma-0] has a probability outside 0 to 1"),
    (put("goldens.0.probabilities.0", 0.2), "probabilities that add up to 0.5, expected 1"),
    (put("goldens.0.tolerance", -1.0), "goldens[glioma-0].tolerance is -1"),
    (put("goldens.0.tolerance", math.nan), "goldens[glioma-0].tolerance is nan"),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=[message for _, message in WRONG])
def test_what_makes_no_sense_is_refused_by_name(change: Callable[[Manifest], None], message: str) -> None:
    manifest = sound_manifest()
    change(manifest)
    with pytest.raises(ManifestError) as caught:
        parse_manifest(serialize_manifest(manifest))
    assert message in str(caught.value)


def test_every_complaint_is_listed() -> None:
    manifest = sound_manifest()
    manifest.calibration.temperature = 0
    manifest.thresholds.abstain_below = 3
    with pytest.raises(ManifestError, match=r"abstain_below is 3.*; .*temperature is 0"):
        parse_manifest(serialize_manifest(manifest))


def test_thresholds_and_metrics_may_be_absent() -> None:
    manifest = sound_manifest()
    manifest.ClearField("thresholds")
    manifest.ClearField("metrics")
    manifest.ClearField("lineage")
    assert parse_manifest(serialize_manifest(manifest)) == manifest


def test_write_fills_in_what_only_the_files_know(tmp_path: Path) -> None:
    folder = tmp_path / "3"
    fill_version(folder)
    given = sound_manifest(version=3)
    given.ClearField("manifest_revision")
    given.ClearField("files")
    given.ClearField("model_digest")
    before = serialize_manifest(given)
    stored = write_manifest(folder, given)
    assert serialize_manifest(given) == before
    assert stored.manifest_revision == 1
    assert [file.path for file in stored.files] == [
        "assets.extra/tf_serving_warmup_requests",
        "saved_model.pb",
        "variables/variables.data-00000-of-00001",
        "variables/variables.index",
    ]
    assert stored.files[1].size_bytes == 5
    assert stored.files[1].sha256 == hashlib.sha256(b"graph").hexdigest()
    assert read_manifest(folder) == stored
    assert (folder / MANIFEST_FILE).read_bytes() == serialize_manifest(stored)
    assert verify_version(folder, model_name="brain_tumor") == stored


def test_write_is_readable_by_other_users(version_dir: Path) -> None:
    """A model server in a container runs as somebody else."""
    umask = os.umask(0o022)
    os.umask(umask)
    assert (version_dir / MANIFEST_FILE).stat().st_mode & 0o777 == 0o644 & ~umask


def test_the_model_digest_changes_with_every_part_of_every_file(version_dir: Path) -> None:
    files = digest_files(version_dir)
    digests = {model_digest(files), model_digest(files[:-1]), model_digest(reversed(files))}
    for name, value in (("path", "x"), ("size_bytes", 999), ("sha256", "f" * 64)):
        changed = digest_files(version_dir)
        setattr(changed[0], name, value)
        digests.add(model_digest(changed))
    assert len(digests) == 6


def as_kubernetes_mounts(folder: Path) -> None:
    """Moves a folder's content to where a volume of Kubernetes has it, behind links."""
    content = folder / "..2024_06_01_12_00_00.1"
    content.mkdir()
    for path in sorted(folder.iterdir()):
        if path != content:
            path.rename(content / path.name)
            path.symlink_to(Path("..data") / path.name)
    (folder / "..data").symlink_to(content.name)


def test_a_version_behind_links_is_what_they_lead_to(version_dir: Path, tmp_path: Path) -> None:
    as_kubernetes_mounts(version_dir)
    assert verify_version(version_dir).version == 7
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    (mounted / "7").symlink_to(version_dir)
    assert verify_version(mounted / "7").version == 7
    (version_dir / "..data" / "saved_model.pb").write_bytes(b"Graph")
    with pytest.raises(VersionCorrupt, match=r"saved_model\.pb has digest"):
        verify_version(mounted / "7")


def test_what_is_published_has_no_links(version_dir: Path) -> None:
    (version_dir / "link").symlink_to("saved_model.pb")
    with pytest.raises(ManifestError, match="link is neither a file nor a directory"):
        digest_files(version_dir)


DAMAGE: list[tuple[Callable[[Path], object], str]] = [
    (lambda d: (d / "variables/variables.index").unlink(), "variables/variables.index is missing"),
    (lambda d: (d / "variables/surplus").write_bytes(b""), "variables/surplus is not in the manifest"),
    (
        lambda d: (d / "saved_model.pb").write_bytes(b"grap"),
        "saved_model.pb has 4 bytes, its manifest says 5",
    ),
    (lambda d: (d / "saved_model.pb").write_bytes(b"Graph"), "saved_model.pb has digest "),
    (lambda d: (d / "two\nlines").write_bytes(b""), r"'two\nlines' is not a name of printable characters"),
    (lambda d: Path(os.fsdecode(os.fsencode(d) + b"/\xff")).write_bytes(b""), r"'\udcff' is not a name of"),
    (lambda d: (d / "link").symlink_to("saved_model.pb"), "link is not in the manifest"),
    (lambda d: (d / "link").symlink_to("nowhere"), "link is a link that leads nowhere"),
    (lambda d: (d / "link").symlink_to("link"), "link is a link that leads nowhere"),
    (lambda d: (d / "link").symlink_to("."), "link leads to a folder that is there already"),
    (lambda d: (d / "assets" / "link").symlink_to("../variables"), "leads to a folder that is there already"),
    (lambda d: (d / "variables" / "..hidden").write_bytes(b""), "variables/..hidden is not in the manifest"),
    (lambda d: os.mkfifo(d / "pipe"), "pipe is neither a file nor a directory"),
    (
        lambda d: (d / "assets" / ".neurogate_manifest.binpb.x.tmp").write_bytes(b""),
        "assets/.neurogate_manifest.binpb.x.tmp is not in the manifest",
    ),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE, ids=[message for _, message in DAMAGE])
def test_damage_is_found_and_the_file_named(
    version_dir: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(version_dir)
    with pytest.raises(VersionCorrupt) as caught:
        verify_version(version_dir)
    assert message in str(caught.value)
    assert str(version_dir) in str(caught.value)


def test_a_version_under_another_name_is_corrupt(version_dir: Path) -> None:
    for name in ("8", "07", ".staging-x"):
        moved = version_dir.with_name(name)
        version_dir.rename(moved)
        with pytest.raises(VersionCorrupt, match=f"of version 7, not {name}"):
            verify_version(moved)
        moved.rename(version_dir)


def test_a_version_of_another_model_is_corrupt(version_dir: Path) -> None:
    with pytest.raises(VersionCorrupt, match="of model 'brain_tumor', expected 'chest'"):
        verify_version(version_dir, model_name="chest")


def test_no_manifest(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ManifestError, match="has no manifest"):
            verify_version(folder)
    file = tmp_path / "9"
    file.write_bytes(b"")
    with pytest.raises(ManifestError, match="has no manifest"):
        read_manifest(file)


def test_a_damaged_manifest_names_its_file(version_dir: Path) -> None:
    (version_dir / MANIFEST_FILE).write_bytes(b"\xff")
    with pytest.raises(ManifestError, match=r"7/assets/neurogate_manifest.binpb: .*not a serialized"):
        verify_version(version_dir)
