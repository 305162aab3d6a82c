from __future__ import annotations

import csv
import errno
import gzip
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from neurogate_trainer.data.index import build_index
from neurogate_trainer.data.masks import mask_path
from neurogate_trainer.data.phantom import generate as generate_module
from neurogate_trainer.data.phantom import render as render_module
from neurogate_trainer.data.phantom.generate import PhantomError, PhantomSettings, generate_phantom
from neurogate_trainer.data.phantom.head import ORIGIN, SELLA, Head, ensure_head, load_head
from neurogate_trainer.data.phantom.nifti import NiftiError, read_nifti
from neurogate_trainer.data.phantom.render import CLASSES, render
from neurogate_trainer.data.phantom.texture import Textures, make_textures
from neurogate_trainer.progress import LogReporter, Reporter
from PIL import Image

SMALL = PhantomSettings(train_per_class=3, test_per_class=1, size=64)
QUIET = Reporter()


@pytest.fixture(scope="module")
def head() -> Head:
    """The real head; the first use on a machine fetches the template and builds it."""
    return load_head(ensure_head())


@pytest.fixture(scope="module")
def textures() -> Textures:
    return make_textures()


def contents(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def pictures(root: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(root).items() if name.endswith(".jpg")}


# The head


def test_the_head_is_anatomy_where_it_should_be(head):
    x, y, z = (round(p - o) for p, o in zip(SELLA, ORIGIN, strict=True))
    assert head.depth[x, y, z] < 0, "the gland lies under the brain, outside its hull"
    middle = tuple(-o for o in ORIGIN)
    assert head.depth[middle] / 2 > 15
    assert head.t1[:, :, -1].max() < 40, "air above the head"
    for sites, least in ((head.glioma_sites, 9), (head.meningioma_sites, 1)):
        depth = head.depth[tuple(sites.T)] / 2
        assert len(sites) > 10_000
        assert depth.min() >= least


def test_a_damaged_cache_of_the_head_is_built_anew(tmp_path, monkeypatch, head):
    monkeypatch.setenv("NEUROGATE_CACHE", str(tmp_path))
    built = []
    monkeypatch.setattr("neurogate_trainer.data.phantom.head.fetch_wheel_members", lambda *_: tmp_path)
    monkeypatch.setattr("neurogate_trainer.data.phantom.head.read_nifti", lambda path: path)
    monkeypatch.setattr("neurogate_trainer.data.phantom.head.build_head", lambda *_: built.append(1) or head)
    path = ensure_head()
    whole = path.read_bytes()
    assert ensure_head() == path
    assert len(built) == 1
    for damaged in (whole[: len(whole) // 2], b"", whole[:5000] + b"x" + whole[5001:]):
        path.write_bytes(damaged)
        ensure_head()
        assert np.array_equal(load_head(path).t1, head.t1)
    assert len(built) == 4


# One picture


def one(head, textures, class_id, number=0, *, difficulty=0.3, size=128):
    rng = np.random.Generator(
        np.random.PCG64(np.random.SeedSequence([0, 0, CLASSES.index(class_id), number]))
    )
    return render(head, textures, class_id, rng, difficulty=difficulty, size=size)


@pytest.mark.parametrize("class_id", CLASSES)
def test_a_seed_decides_the_picture(head, textures, class_id):
    first, mask, described = one(head, textures, class_id)
    again, _, described_again = one(head, textures, class_id)
    other, _, _ = one(head, textures, class_id, 1)
    assert (first.mode, first.size) == ("L", (128, 128))
    assert first.tobytes() == again.tobytes()
    assert described == described_again
    assert first.tobytes() != other.tobytes()
    assert described.class_id == class_id
    assert (described.radius_mm > 0) == (class_id != "notumor") == bool(described.kind) == (mask is not None)


# Means of a 4 x 4 grid of the first picture of every class. Processors may round the last bit of an
# exponential differently, so pictures are compared coarsely here and to the byte only within one machine.
EXPECTED = json.loads((Path(__file__).parents[2] / "data" / "phantom_grid.json").read_text())


@pytest.mark.parametrize("class_id", CLASSES)
def test_the_pictures_are_those_of_this_revision(head, textures, class_id):
    image, _, _ = one(head, textures, class_id)
    grid = np.asarray(image, np.float64).reshape(4, 32, 4, 32).mean(axis=(1, 3))
    assert np.abs(grid - np.array(EXPECTED[class_id])).max() < 0.5


@pytest.mark.parametrize("difficulty", [0.0, 1.0])
@pytest.mark.parametrize("class_id", CLASSES)
def test_both_ends_of_the_difficulty_give_pictures(head, textures, class_id, difficulty):
    for number in range(8):
        image, _, _ = one(head, textures, class_id, number, difficulty=difficulty)
        pixels = np.asarray(image)
        assert pixels.std() > 10
        assert pixels.max() > 150


@pytest.mark.parametrize("class_id", [name for name in CLASSES if name != "notumor"])
def test_the_mask_lies_on_the_lesion(head, textures, class_id, monkeypatch):
    """Without its lesion the same picture differs from the painted one, mostly where the mask is."""
    painter = render_module._PAINTERS[class_id]
    inside, outside = [], []

    def vanish(scene, outline):
        before = scene.image.copy()
        painted = painter(scene, outline)
        scene.image[:] = before
        return painted

    for number in range(6):
        image, mask, _ = one(head, textures, class_id, number)
        assert mask.size == image.size
        marked = np.asarray(mask)
        assert 0.002 < marked.mean() < 0.2
        with monkeypatch.context() as patch:
            patch.setattr(render_module, "_VISIBLE_MM2", 0)  # or a slice without its lesion is drawn again
            patch.setitem(render_module._PAINTERS, class_id, vanish)
            healthy, same, _ = one(head, textures, class_id, number)
        assert np.array_equal(marked, np.asarray(same))
        difference = np.abs(np.asarray(image, np.float64) - np.asarray(healthy, np.float64))
        inside.append(difference[marked].mean())
        outside.append(difference[~marked].mean())
    assert np.mean(inside) > 5 * np.mean(outside)


# The data set


def test_folders_manifest_and_notice(tmp_path):
    out = tmp_path / "phantom"
    assert generate_phantom(out, SMALL, workers=1, reporter=QUIET) == 16
    assert len(pictures(out)) == 16
    rows = list(csv.DictReader((out / "manifest.csv").read_text().splitlines()))
    assert {row["path"] for row in rows} == set(pictures(out))
    assert all(row["path"].split("/")[1] == row["class_id"] for row in rows)
    assert all(Path(row["path"]).name.startswith("phantom-") for row in rows)
    assert "NOT patient data" in (out / "README.txt").read_text()
    with Image.open(out / rows[0]["path"]) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "L", (64, 64))
    assert {p.name for p in out.iterdir()} == {
        "Training", "Testing", "manifest.csv", "phantom.json", "README.txt", ".lock", ".neurogate",
    }  # fmt: skip
    masks = {row["path"]: int(row["mask_bytes"]) for row in rows}
    assert {path for path, size in masks.items() if not size} == {
        path for path in masks if path.split("/")[1] == "notumor"
    }
    for path, size in masks.items():
        if size:
            assert (out / mask_path(path)).stat().st_size == size
            with Image.open(out / mask_path(path)) as mask:
                assert (mask.format, mask.mode, mask.size) == ("PNG", "1", (64, 64))


def test_it_can_be_indexed_and_knows_its_name(tmp_path):
    settings = PhantomSettings(train_per_class=4, test_per_class=1, size=64)
    generate_phantom(tmp_path / "demo", settings, workers=1, reporter=QUIET)
    index = build_index(tmp_path / "demo", reporter=QUIET)
    assert index.name == "phantom demo"
    assert index.counts() == dict.fromkeys(CLASSES, 5)
    assert index.unreadable == ()


def test_workers_do_not_matter_and_sets_of_other_sizes_share_their_pictures(tmp_path):
    many = PhantomSettings(train_per_class=16, test_per_class=2, size=64)
    generate_phantom(tmp_path / "one", many, workers=1, reporter=QUIET)
    generate_phantom(tmp_path / "two", many, workers=2, reporter=QUIET)
    generate_phantom(tmp_path / "few", SMALL, workers=1, reporter=QUIET)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert pictures(tmp_path / "few").items() <= pictures(tmp_path / "one").items()


def test_another_seed_gives_other_pictures(tmp_path):
    generate_phantom(tmp_path / "a", SMALL, workers=1, reporter=QUIET)
    other = PhantomSettings(train_per_class=3, test_per_class=1, size=64, seed=1)
    generate_phantom(tmp_path / "b", other, workers=1, reporter=QUIET)
    assert not set(pictures(tmp_path / "a").values()) & set(pictures(tmp_path / "b").values())


def test_a_second_call_does_nothing_and_a_damaged_set_is_mended(tmp_path, monkeypatch, capsys):
    generate_phantom(tmp_path, SMALL, workers=1, reporter=QUIET)
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(generate_module, "ensure_head", lambda: pytest.fail("rendered again"))
        with LogReporter() as reporter:
            assert generate_phantom(tmp_path, SMALL, reporter=reporter) == 0
    assert "is complete: 16 images" in capsys.readouterr().err
    victims = sorted(pictures(tmp_path))
    (tmp_path / victims[0]).unlink()
    (tmp_path / victims[5]).write_bytes(b"short")
    generate_phantom(tmp_path, SMALL, workers=1, reporter=QUIET)
    assert contents(tmp_path) == before


def test_a_set_of_before_there_were_masks_gets_them_and_keeps_every_byte_of_its_images(tmp_path, monkeypatch):
    generate_phantom(tmp_path, SMALL, workers=1, reporter=QUIET)
    whole = contents(tmp_path)
    shutil.rmtree(tmp_path / ".neurogate")
    rows = list(csv.reader((tmp_path / "manifest.csv").read_text().splitlines()))
    assert rows[0][-1] == "mask_bytes"
    (tmp_path / "manifest.csv").write_text("".join(",".join(row[:-1]) + "\n" for row in rows))
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/*.jpg")}
    assert generate_phantom(tmp_path, SMALL, workers=1, reporter=QUIET) == 16
    assert contents(tmp_path) == whole
    assert times == {path: path.stat().st_mtime_ns for path in times}

    victims = sorted(tmp_path.glob(".neurogate/masks/*/*/*.png"))
    victims[0].unlink()
    victims[3].write_bytes(b"short")
    generate_phantom(tmp_path, SMALL, workers=1, reporter=QUIET)
    assert contents(tmp_path) == whole

    victims[0].unlink()
    elsewhere = generate_module.render
    monkeypatch.setattr(
        generate_module,
        "render",
        lambda *given, **asked: (Image.new("L", (64, 64)), *elsewhere(*given, **asked)[1:]),
    )
    with pytest.raises(PhantomError, match=r"renders Training/glioma/.* differently"):
        generate_phantom(tmp_path, SMALL, workers=1, reporter=QUIET)
    assert pictures(tmp_path) == {name: data for name, data in whole.items() if name.endswith(".jpg")}


def test_an_interrupted_run_goes_on_where_it_was(tmp_path, monkeypatch):
    settings = PhantomSettings(train_per_class=10, test_per_class=2, size=64)
    generate_phantom(tmp_path / "whole", settings, workers=1, reporter=QUIET)
    original, written = generate_module._write, []

    def write_some(out, wanted, job, *tools):
        if len(written) == 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(job.path)
        return original(out, wanted, job, *tools)

    with monkeypatch.context() as patch:
        patch.setattr(generate_module, "_write", write_some)
        with pytest.raises(PhantomError, match=r"is full; free some space and call again"):
            generate_phantom(tmp_path / "cut", settings, workers=1, reporter=QUIET)
    (tmp_path / "cut" / "Training" / "glioma" / ".phantom.jpg.tmp").write_bytes(b"torn")
    with (tmp_path / "cut" / ".rendered.jsonl").open("a") as journal:
        journal.write('{"path": "Training/glioma/torn')
    # One batch of 16 was noted; what came after it is rendered again.
    assert generate_phantom(tmp_path / "cut", settings, workers=1, reporter=QUIET) == 48 - 16
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_two_at_once_render_every_picture_once(tmp_path):
    rendered = []
    threads = [
        threading.Thread(
            target=lambda: rendered.append(generate_phantom(tmp_path, SMALL, workers=1, reporter=QUIET))
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(rendered) == [0, 16]


@pytest.mark.slow
def test_killed_half_way_no_worker_survives_and_the_next_call_finishes(tmp_path):
    settings = PhantomSettings(train_per_class=60, test_per_class=1, size=64)
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from neurogate_trainer.data.phantom.generate import *\n"
        "from neurogate_trainer.progress import LogReporter\n"
        "if __name__ == '__main__':\n"
        "    settings = PhantomSettings(train_per_class=60, test_per_class=1, size=64)\n"
        "    generate_phantom(Path(sys.argv[1]), settings, workers=2, reporter=LogReporter(interval=0))\n"
    )
    (tmp_path / "run.py").write_text(code)
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, tmp_path / "run.py", out], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "images, about" in line:
            break
    process.kill()
    process.wait()
    # Workers hold the pipe too, so its end is theirs; were one to live on, this would not return.
    process.stderr.read()
    process.stderr.close()
    assert not (out / "manifest.csv").exists()
    rendered = generate_phantom(out, settings, workers=2, reporter=QUIET)
    assert 0 < rendered < settings.total
    assert generate_phantom(out, settings, reporter=QUIET) == 0


def test_a_dead_worker_is_explained(tmp_path, monkeypatch):
    settings = PhantomSettings(train_per_class=16, test_per_class=0, size=64)
    monkeypatch.setattr(generate_module, "_start_worker", os._exit)
    monkeypatch.setattr(generate_module, "ensure_head", lambda: 3)
    with pytest.raises(PhantomError, match="a worker died"):
        generate_phantom(tmp_path / "out", settings, workers=2, reporter=QUIET)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 5}, "seed is 0, asked for 5"),
        ({"difficulty": 0.5}, r"difficulty is 0.3, asked for 0.5"),
        ({"train_per_class": 4}, "train_per_class is 3, asked for 4"),
    ],
)
def test_other_settings_need_another_folder(tmp_path, change, words):
    generate_phantom(tmp_path, SMALL, workers=1, reporter=QUIET)
    other = PhantomSettings(**{"train_per_class": 3, "test_per_class": 1, "size": 64, **change})
    before = contents(tmp_path)
    with pytest.raises(PhantomError, match=words):
        generate_phantom(tmp_path, other, reporter=QUIET)
    assert contents(tmp_path) == before


def test_folders_of_others_are_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(PhantomError, match="is not empty and holds no phantom"):
        generate_phantom(tmp_path, SMALL, reporter=QUIET)
    with pytest.raises(PhantomError, match="is not a folder"):
        generate_phantom(tmp_path / "thesis.txt", SMALL, reporter=QUIET)
    assert contents(tmp_path) == {"thesis.txt": b"precious"}
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "phantom.json").write_text("{")
    with pytest.raises(PhantomError, match="is damaged"):
        generate_phantom(tmp_path / "set", SMALL, reporter=QUIET)


@pytest.mark.parametrize(
    "bad",
    [
        {"train_per_class": 0}, {"test_per_class": -1}, {"difficulty": 1.01}, {"difficulty": float("nan")},
        {"seed": -1}, {"size": 31}, {"size": 4096},
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))} is .*, expected"):
        PhantomSettings(**bad)


# The volume reader


def nifti(voxels: np.ndarray, **fields: bytes) -> bytes:
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *voxels.shape, 1, 1, 1, 1)
    struct.pack_into("<h", header, 70, {"uint8": 2, "int16": 4, "float32": 16}[voxels.dtype.name])
    struct.pack_into("<f", header, 108, 352)
    struct.pack_into("<h", header, 254, 1)
    struct.pack_into("<12f", header, 280, 2, 0, 0, -90, 0, 2, 0, -126, 0, 0, 2, -72)
    header[344:348] = b"n+1\0"
    for offset, data in fields.items():
        start = int(offset.removeprefix("at"))
        header[start : start + len(data)] = data
    return bytes(header) + voxels.tobytes(order="F")


VOXELS = np.arange(24, dtype=np.int16).reshape(2, 3, 4)


@pytest.mark.parametrize("kind", ["uint8", "int16", "float32"])
def test_a_volume_is_read(tmp_path, kind):
    path = tmp_path / "v.nii.gz"
    path.write_bytes(gzip.compress(nifti(VOXELS.astype(kind))))
    volume = read_nifti(path)
    assert np.array_equal(volume.voxels, VOXELS)
    assert (volume.spacing, volume.origin) == ((2, 2, 2), (-90, -126, -72))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"plain text", "not a complete gzip file"),
        (gzip.compress(nifti(VOXELS))[:-20], "not a complete gzip file"),
        (gzip.compress(b"short"), "no little-endian NIfTI-1 header"),
        (gzip.compress(nifti(VOXELS, at344=b"ni1\0")), "has magic"),
        (gzip.compress(nifti(VOXELS, at40=struct.pack("<8h", 4, 2, 3, 4, 7, 1, 1, 1))), "one 3-D volume"),
        (gzip.compress(nifti(VOXELS, at40=struct.pack("<8h", 3, 2, -3, 4, 1, 1, 1, 1))), "one 3-D volume"),
        (gzip.compress(nifti(VOXELS, at70=struct.pack("<h", 64))), "data type 64"),
        (gzip.compress(nifti(VOXELS, at112=struct.pack("<2f", 2, 0))), "scales its voxels"),
        (gzip.compress(nifti(VOXELS)[:-2]), "its header announces"),
        (gzip.compress(nifti(VOXELS, at108=struct.pack("<f", 4))), "its header announces"),
        (gzip.compress(nifti(VOXELS, at254=struct.pack("<h", 0))), "no affine transform"),
        (gzip.compress(nifti(VOXELS, at284=struct.pack("<f", 0.5))), "no affine transform"),
    ],
    # The bytes hold the time of day, which would differ between the workers of a parallel run.
    ids=lambda value: value if isinstance(value, str) else "file",
)  # fmt: skip
def test_other_files_are_refused(tmp_path, data, words):
    path = tmp_path / "v.nii.gz"
    path.write_bytes(data)
    with pytest.raises(NiftiError, match=words):
        read_nifti(path)
