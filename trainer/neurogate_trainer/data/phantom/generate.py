"""Writes the phantom data set: every image from its own seed, on all cores, resumable at any point."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from neurogate_core.files import is_disk_full, locked, replace_json
from PIL import Image

from neurogate_trainer.data.masks import MASKS_FOLDER, mask_path
from neurogate_trainer.errors import TrainerError
from neurogate_trainer.progress import Reporter

from .head import HEAD_REVISION, Head, ensure_head, load_head
from .manifest import JOURNAL_FILE, Row, masks_are_there, read_journal, read_listed, write_manifest
from .notice import README
from .render import CLASSES, render
from .texture import Textures, make_textures

RENDER_REVISION = 1
"""Raised whenever the same settings give other images."""

SETTINGS_FILE = "phantom.json"
_BATCH = 16
_SPLITS = (("Training", "train"), ("Testing", "test"))
_SHORT = {"glioma": "gl", "meningioma": "me", "notumor": "no", "pituitary": "pi"}


class PhantomError(TrainerError, RuntimeError):
    """The data set cannot be written as asked; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class PhantomSettings:
    """What decides every pixel of the data set.

    Attributes:
        train_per_class: Images per class in Training/, 1 to 100,000.
        test_per_class: Images per class in Testing/, 0 to 100,000.
        seed: Any number from 0 to 2^63 - 1.
        difficulty: 0 (large, bright lesions) to 1 (small, faint ones among many confounders).
        size: Side of the square images in pixels, 32 to 2,048.
    """

    train_per_class: int = 300
    test_per_class: int = 100
    seed: int = 0
    difficulty: float = 0.3
    size: int = 512

    def __post_init__(self) -> None:
        bounds = {"train_per_class": (1, 100_000), "test_per_class": (0, 100_000), "seed": (0, 2**63 - 1)}
        bounds |= {"difficulty": (0, 1), "size": (32, 2048)}
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} is {value}, expected {low} to {high}")

    @property
    def total(self) -> int:
        """Number of images of the whole data set."""
        return (self.train_per_class + self.test_per_class) * len(CLASSES)


@dataclass(frozen=True, slots=True)
class _Job:
    """One image: its place in the seed sequence and in the folder.

    `sha256` is the digest that its bytes must have, where the image is there and only its mask is missing.
    """

    seed: tuple[int, int, int, int]
    class_id: str
    split: str
    path: str
    sha256: str = ""


def generate_phantom(
    out: Path, settings: PhantomSettings | None = None, *, workers: int | None = None, reporter: Reporter
) -> int:
    """Makes `out` hold the data set of these settings, and returns how many images had to be rendered.

    The bytes of an image depend on the settings alone, not on the number of workers nor on what was there
    before. A run that was killed goes on where it was; a finished data set is checked against its manifest
    and left alone, but for masks that it lacks: they are made, and no byte of an image changes.

    Raises:
        PhantomError: `out` holds something else, the disk is full, a worker died, or this machine renders
            other images than those whose masks are missing.
        WheelError: The template volumes cannot be fetched.
    """
    settings = settings or PhantomSettings()
    out = out.expanduser().absolute()
    try:
        _refuse_foreign(out)
        out.mkdir(parents=True, exist_ok=True)
        with locked(out / ".lock"):
            # Under the lock, so that of two first calls with different settings one is refused.
            _claim(out, settings)
            return _generate(out, settings, workers or len(os.sched_getaffinity(0)), reporter)
    except BrokenProcessPool as error:
        raise PhantomError(
            f"a worker died, perhaps for lack of memory; call again to go on with {out}"
        ) from error
    except OSError as error:
        if is_disk_full(error):
            text = f"the disk of {out} is full; free some space and call again: finished images are kept"
            raise PhantomError(text) from error
        raise PhantomError(f"{out} cannot be written: {error}") from error


def _refuse_foreign(out: Path) -> None:
    """Before anything is written, even a lock: only an empty folder or one of our own will do."""
    if out.exists() and not out.is_dir():
        raise PhantomError(f"{out} is not a folder")
    if not out.is_dir() or (out / SETTINGS_FILE).is_file():
        return
    own = (".lock", f".{SETTINGS_FILE}.")
    foreign = any(not entry.name.startswith(own) for entry in out.iterdir())
    # Another call may have claimed the folder while it was listed.
    if foreign and not (out / SETTINGS_FILE).is_file():
        raise PhantomError(f"{out} is not empty and holds no phantom data set; choose another folder")


def _claim(out: Path, settings: PhantomSettings) -> None:
    """Writes the settings into a new folder, or checks that they are those of the folder."""
    wanted = {"head_revision": HEAD_REVISION, "render_revision": RENDER_REVISION, **asdict(settings)}
    path = out / SETTINGS_FILE
    if not path.is_file():
        replace_json(path, wanted)
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PhantomError(f"{path} is damaged ({error}); remove {out} and call again") from error
    if found != wanted:
        found = found if isinstance(found, dict) else {}
        names = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
        differences = ", ".join(
            f"{name} is {found.get(name)}, asked for {wanted.get(name)}" for name in names
        )
        raise PhantomError(f"{out} holds a phantom of other settings ({differences}); choose another folder")


def _generate(out: Path, settings: PhantomSettings, workers: int, reporter: Reporter) -> int:
    jobs = _jobs(settings)
    listed = read_listed(out)
    if listed.keys() == {job.path for job in jobs}:
        if masks_are_there(out, listed):
            reporter.message(f"the phantom in {out} is complete: {settings.total} images")
            return 0
        jobs = [replace(job, sha256=listed[job.path].sha256) for job in jobs]
    for leftover in (*out.glob("*/*/.*.tmp"), *out.glob(f"{MASKS_FOLDER}/*/*/.*.tmp")):
        leftover.unlink(missing_ok=True)
    rows = {row.path: row for row in read_journal(out)}
    missing = [job for job in jobs if job.path not in rows]
    for path in {name for job in jobs for name in (job.path, mask_path(job.path))}:
        (out / path).parent.mkdir(parents=True, exist_ok=True)
    if rows:
        reporter.message(f"{len(rows)} of {len(jobs)} images were there already")
    reporter.message("template head: from the cache, or fetched and built (about 15 seconds, once)")
    head = ensure_head()
    reporter.phase("phantom", total=len(jobs), unit="images")
    reporter.advance(len(jobs) - len(missing))
    with (out / JOURNAL_FILE).open("a", encoding="utf-8") as journal:
        for batch in _rendered(out, settings, missing, head, workers):
            rows |= {row.path: row for row in batch}
            journal.writelines(row.to_line() for row in batch)
            journal.flush()
            reporter.advance(len(batch))
    (out / "README.txt").write_text(README, encoding="utf-8")
    write_manifest(out, [rows[job.path] for job in jobs])
    (out / JOURNAL_FILE).unlink()
    return len(missing)


def _jobs(settings: PhantomSettings) -> list[_Job]:
    jobs = []
    for split, (folder, split_name) in enumerate(_SPLITS):
        count = settings.train_per_class if split_name == "train" else settings.test_per_class
        for position, class_id in enumerate(CLASSES):
            for index in range(count):
                path = f"{folder}/{class_id}/phantom-{_SHORT[class_id]}-{split_name}-{index:05d}.jpg"
                jobs.append(_Job((settings.seed, split, position, index), class_id, split_name, path))
    return jobs


def _rendered(
    out: Path, settings: PhantomSettings, jobs: Sequence[_Job], head: Path, workers: int
) -> Iterator[list[Row]]:
    """Batches of finished images, in order."""
    batches = [jobs[start : start + _BATCH] for start in range(0, len(jobs), _BATCH)]
    if workers == 1 or len(batches) < 4:
        loaded, textures = load_head(head), make_textures()
        for batch in batches:
            yield [_write(out, settings, job, loaded, textures) for job in batch]
        return
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(head,)
    )
    futures: list[Future[list[Row]]] = []
    try:
        futures = [pool.submit(_work, out, settings, batch) for batch in batches]
        for future in futures:
            yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_worker: dict[str, tuple[Head, Textures]] = {}


def _start_worker(head: Path) -> None:
    # The parent alone decides what Ctrl-C means; and a worker does not outlive a parent that was killed.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker["tools"] = load_head(head), make_textures()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(out: Path, settings: PhantomSettings, jobs: Sequence[_Job]) -> list[Row]:
    head, textures = _worker["tools"]
    return [_write(out, settings, job, head, textures) for job in jobs]


def _write(out: Path, settings: PhantomSettings, job: _Job, head: Head, textures: Textures) -> Row:
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(job.seed)))
    image, mask, description = render(
        head, textures, job.class_id, rng, difficulty=settings.difficulty, size=settings.size
    )
    data = _encoded(image, "JPEG", quality=int(rng.integers(80, 96)))
    digest = hashlib.sha256(data).hexdigest()
    if job.sha256 not in {"", digest}:
        raise PhantomError(
            f"this machine renders {job.path} differently than the one that made {out}, so it cannot make "
            "the missing masks; the images are as they were"
        )
    if not job.sha256:
        _put(out / job.path, data)
    mask_bytes = 0
    if mask is not None:
        drawn = _encoded(mask, "PNG")
        mask_bytes = len(drawn)
        _put(out / mask_path(job.path), drawn)
    seed = "/".join(map(str, job.seed))
    return Row(job.path, job.split, description, seed, len(data), digest, mask_bytes)


def _encoded(image: Image.Image, container: str, **options: int) -> bytes:
    stored = io.BytesIO()
    image.save(stored, container, **options)
    return stored.getvalue()


def _put(path: Path, data: bytes) -> None:
    # No fsync: journal and manifest note the sizes, so a file that a crash cut short is made again.
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)
