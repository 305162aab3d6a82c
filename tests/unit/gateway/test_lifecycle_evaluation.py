"""The sealed images, and how they are asked about: once, behind all callers, never with a wrong verdict."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from neurogate.v1 import classification_pb2, error_pb2
from neurogate_gateway.backends.tfs_messages import Outputs
from neurogate_gateway.backends.verification import ServedVersion
from neurogate_gateway.errors import (
    BackendUnavailableError,
    EvaluationImpossibleError,
    GatewayError,
    OverloadedError,
)
from neurogate_gateway.inference.predictions import Prediction, ResolvedVersion
from neurogate_gateway.release import evaluation
from neurogate_gateway.release.evaluation import Evaluator
from neurogate_gateway.release.policy import GatePolicy, Policy
from neurogate_gateway.release.sealed_images import ImagesError, fingerprint, load_images
from neurogate_testing.fake_backend import build_manifest
from neurogate_testing.refusals import refused

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")
LENIENT = Policy(gate=GatePolicy(min_recall=0, max_ece=1, max_regression=1))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve files, three a class, whose content names their class."""
    for number in range(12):
        name = CLASSES[number % 4]
        path = tmp_path / "sealed" / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"{name} {number}".encode())
    return tmp_path / "sealed"


class FakeRunner:
    """Knows the right class from the bytes, and fails as a test says."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.busy = False
        self.served = {
            number: ServedVersion("m", number, build_manifest(number), f"d{number}") for number in (1, 2)
        }
        self.failures: Iterator[GatewayError | None] = iter(())

    def ready(self, number: int) -> ServedVersion | None:
        return self.served.get(number)

    async def run(self, number: int, image: bytes, *, seconds: float, pressing: bool = False) -> Prediction:
        self.asked.append(number)
        if self.busy and not pressing:
            raise OverloadedError("busy", retry_after=0.001)
        if failure := next(self.failures, None):
            raise failure
        probabilities = np.full(4, 0.01, dtype=np.float32)
        probabilities[CLASSES.index(image.decode().split()[0])] = 0.97
        choice = ResolvedVersion(self.served[number], "", 0)
        return Prediction(choice, Outputs(probabilities, 0.0, None), classification_pb2.Classification())


def evaluator(folder: Path, runner: FakeRunner) -> Evaluator:
    return Evaluator(folder, runner, runner, LENIENT, seconds=5)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "_PAUSE_SECONDS", 0)


async def test_each_version_is_asked_once(folder: Path) -> None:
    runner = FakeRunner()
    judge = evaluator(folder, runner)
    reports = await asyncio.gather(*(judge.evaluate(2, 1) for _ in range(3)))
    assert sorted(runner.asked) == [1] * 12 + [2] * 12
    assert reports[0].accepted
    assert reports[0].candidate.accuracy == reports[0].stable.accuracy == 1
    assert judge.last_report(2) == await judge.evaluate(2, 1)
    assert (await judge.evaluate(1, 1)).stable_version == 0
    assert len(runner.asked) == 24
    # Other bytes under the number are another version.
    runner.served[2] = ServedVersion("m", 2, build_manifest(2), "other")
    await judge.evaluate(2, None)
    assert len(runner.asked) == 36
    await judge.close()


async def test_only_the_latest_reports_are_remembered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "_REPORTS_REMEMBERED", 2)
    runner = FakeRunner()
    runner.served |= {n: ServedVersion("m", n, build_manifest(n), f"d{n}") for n in (3, 4)}
    judge = evaluator(folder, runner)
    for version in (2, 3, 2, 4):
        await judge.evaluate(version, None if version == 2 else 1)
        runner.served[2] = ServedVersion("m", 2, build_manifest(2), "other")
    assert judge.last_report(3) is None
    assert None not in [judge.last_report(version) for version in (2, 4)]
    await judge.close()


async def test_another_policy_is_another_verdict_and_not_the_last_report(folder: Path) -> None:
    runner = FakeRunner()
    judge = evaluator(folder, runner)
    told: list[int] = []
    judge.reported.add(told.append)
    strict = Policy(gate=GatePolicy(min_recall=0, max_ece=0, max_regression=1))
    refused = await judge.evaluate(2, 1, strict)
    assert (refused.accepted, refused.policy_digest) == (False, strict.digest)
    assert (judge.last_report(2), told) == (None, [])
    accepted = await judge.evaluate(2, 1)
    assert (accepted.accepted, accepted.policy_digest) == (True, LENIENT.digest)
    assert await judge.evaluate(2, 1, strict) is refused
    assert (judge.last_report(2), told) == (accepted, [2])
    # The images were asked about once, whatever is asked of the answers.
    assert len(runner.asked) == 24
    await judge.close()


async def test_other_images_are_asked_about(folder: Path) -> None:
    runner = FakeRunner()
    judge = evaluator(folder, runner)
    first = await judge.evaluate(2, None)
    (folder / "glioma" / "new.png").write_bytes(b"glioma new")
    second = await judge.evaluate(2, None)
    assert (first.candidate.support, second.candidate.support) == (12, 13)
    assert first.images_digest != second.images_digest


async def test_an_image_whose_class_is_corrected_counts_anew(folder: Path) -> None:
    runner = FakeRunner()
    judge = evaluator(folder, runner)
    first = await judge.evaluate(2, 1)
    (folder / "glioma" / "0.png").rename(folder / "notumor" / "0.png")
    second = await judge.evaluate(2, 1)
    assert first.images_digest == second.images_digest
    assert (first.candidate.accuracy, second.candidate.accuracy) == (1, 11 / 12)
    assert second.stable.accuracy == 11 / 12


async def test_callers_come_first_and_interruptions_are_made_good(folder: Path) -> None:
    runner = FakeRunner()
    busy = [OverloadedError("busy", retry_after=0.001)] * 50
    runner.failures = iter([*busy, BackendUnavailableError("away"), None, BackendUnavailableError("away")])
    assert (await evaluator(folder, runner).evaluate(2, None)).accepted
    assert len(runner.asked) == 12 + 52


async def test_a_gateway_that_is_always_busy_comes_to_a_verdict_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "_PATIENCE_SECONDS", 0.005)
    runner = FakeRunner()
    runner.busy = True
    assert (await evaluator(folder, runner).evaluate(2, None)).accepted
    # Every image waits before it presses.
    assert len(runner.asked) >= 2 * 12


async def test_a_model_server_that_stays_away_is_no_verdict(folder: Path) -> None:
    runner = FakeRunner()
    runner.failures = iter([BackendUnavailableError("away")] * 5)
    judge = evaluator(folder, runner)
    with pytest.raises(BackendUnavailableError, match="interrupted: away"):
        await judge.evaluate(2, None)
    assert judge.last_report(2) is None
    # The next attempt begins anew.
    assert (await judge.evaluate(2, None)).accepted


async def test_an_image_that_the_version_refuses(folder: Path) -> None:
    runner = FakeRunner()
    runner.failures = iter([None, GatewayError(error_pb2.ERROR_REASON_IMAGE_CORRUPT, "it is broken")])
    with pytest.raises(EvaluationImpossibleError, match="refuses an image: it is broken"):
        await evaluator(folder, runner).evaluate(2, None)


async def test_versions_that_are_not_ready(folder: Path) -> None:
    judge = evaluator(folder, FakeRunner())
    for versions in ((9, None), (2, 9)):
        with refused("MODEL_VERSION_NOT_READY", match="9"):
            await judge.evaluate(*versions)


async def test_a_version_that_is_exchanged_meanwhile(folder: Path) -> None:
    runner = FakeRunner()
    served = runner.served[2]
    judge = evaluator(folder, runner)

    class Exchanging(FakeRunner):
        async def run(
            self, number: int, image: bytes, *, seconds: float, pressing: bool = False
        ) -> Prediction:
            self.served[2] = ServedVersion("m", 2, served.manifest, "other")
            return await super().run(number, image, seconds=seconds)

    judge._runner = Exchanging()
    with refused("MODEL_VERSION_NOT_READY", match="another one by now"):
        await judge.evaluate(2, None)


async def test_a_caller_who_goes_away_ends_nothing(folder: Path) -> None:
    runner = FakeRunner()
    begun, go_on = asyncio.Event(), asyncio.Event()

    class Waiting(FakeRunner):
        async def run(
            self, number: int, image: bytes, *, seconds: float, pressing: bool = False
        ) -> Prediction:
            begun.set()
            await go_on.wait()
            return await super().run(number, image, seconds=seconds)

    waiting = Waiting()
    judge = Evaluator(folder, waiting, waiting, LENIENT, seconds=5)
    impatient = asyncio.create_task(judge.evaluate(2, None))
    await begun.wait()
    impatient.cancel()
    await asyncio.wait([impatient])
    go_on.set()
    assert (await judge.evaluate(2, None)).accepted
    assert len(waiting.asked) == 12
    assert runner.asked == []


def write_list(folder: Path, change: Callable[[dict[str, object]], object]) -> Path:
    paths = sorted(folder.rglob("*.png"))
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    document: dict[str, object] = {
        "revision": 1,
        "root": folder.name,
        "digest": hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest(),
        "images": [
            {"path": str(path.relative_to(folder)), "class": path.parent.name, "sha256": digest}
            for path, digest in zip(paths, digests, strict=True)
        ],
    }
    change(document)
    path = folder.parent / "evaluation.json"
    path.write_text(json.dumps(document))
    return path


def test_a_list_and_its_folder_are_the_same_images(folder: Path) -> None:
    from_list = load_images(write_list(folder, lambda _: None))
    from_folder = load_images(folder)
    assert from_list.digest == from_folder.digest
    assert {image.sha256 for image in from_list.images} == {image.sha256 for image in from_folder.images}
    assert [image.read() for image in from_list.images]


def test_a_folder_as_it_was_unpacked(folder: Path) -> None:
    before = load_images(folder).digest
    for name in ("__MACOSX/x/._1.jpg", "@eaDir/1.jpg", "glioma/.ipynb_checkpoints/1.jpg", "glioma/._2.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"left behind")
    assert load_images(folder).digest == before
    (folder / "glioma" / "new.JFIF").write_bytes(b"glioma")
    assert load_images(folder).digest != before


def test_a_list_that_was_moved_with_its_folder(folder: Path, tmp_path: Path) -> None:
    gone = str(tmp_path / "as it was")
    images = load_images(write_list(folder, lambda d: d.update(root=gone, root_beside=folder.name))).images
    assert [image.read() for image in images]
    (tmp_path / "other").mkdir()
    for root, beside, found in (
        # Something else may be at the old place by now.
        (tmp_path / "other", folder.name, folder),
        (folder, "elsewhere", folder),
        # What is nowhere is named as it was.
        (gone, "elsewhere", gone),
        (gone, "", gone),
        (gone, "x" * 300, gone),
        ("x" * 300, "", "x" * 300),
    ):
        change = {"root": str(root), "root_beside": beside}
        image = load_images(write_list(folder, lambda d, change=change: d.update(change))).images[0]  # type: ignore[misc]
        assert image.path.is_relative_to(folder.parent / found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(revision=2), "revision 1"),
        (lambda d: d.pop("root"), '"root"'),
        (lambda d: d.update(images={}), '"images"'),
        (lambda d: d.update(images=[]), "was changed"),
        (lambda d: d.update(images=[], digest=hashlib.sha256(b"").hexdigest()), "no images"),
        (lambda d: d["images"].append(3), "image 12 lacks"),
        (lambda d: d["images"][4].pop("sha256"), "image 4 lacks"),
        (lambda d: d["images"][4].update(path=7), "image 4 lacks"),
        (lambda d: d["images"].pop(), "was changed"),
    ],
)
def test_lists_that_are_none(
    folder: Path, change: Callable[[dict[str, object]], object], message: str
) -> None:
    with pytest.raises(ImagesError, match=message) as error:
        load_images(write_list(folder, change))
    assert str(folder.parent) not in error.value.message


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 5000])
def test_files_that_are_no_lists(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(ImagesError):
        load_images(path)
    with pytest.raises(ImagesError, match="cannot be read"):
        load_images(tmp_path / "none.json")
    with pytest.raises(ImagesError, match="cannot be read"):
        fingerprint(tmp_path / "none.json")


def test_hidden_and_foreign_files_do_not_count(folder: Path) -> None:
    before = load_images(folder).digest
    (folder / "glioma" / ".hidden.png").write_bytes(b"x")
    (folder / "glioma" / "notes.txt").write_bytes(b"x")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x.png").write_bytes(b"x")
    (folder / "readme.png").write_bytes(b"x")
    assert load_images(folder).digest == before


def test_an_image_that_has_changed_is_not_read(folder: Path) -> None:
    image = load_images(folder).images[0]
    image.path.write_bytes(b"other")
    with pytest.raises(ImagesError, match="digest differs"):
        image.read()
    image.path.unlink()
    with pytest.raises(ImagesError, match="cannot be read"):
        image.read()


@pytest.mark.parametrize("root", ["x" * 300, "a file/below"])
async def test_a_root_that_cannot_be_looked_at_is_told(folder: Path, root: str) -> None:
    (folder.parent / "a file").touch()
    source = write_list(folder, lambda d: d.update(root=root, root_beside=root))
    with pytest.raises(EvaluationImpossibleError, match="cannot be read"):
        await evaluator(source, FakeRunner()).evaluate(2, None)
