from __future__ import annotations

import hashlib
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from neurogate.v1 import training_pb2 as pb
from neurogate_testing.command_line import Run
from neurogate_testing.fake_gateway import CLASSES, FakeGateway, version
from neurogate_testing.fake_release import gate_report
from neurogate_testing.fake_training import FakeTraining, success
from neurogate_testing.processes import running, script


@pytest.fixture(autouse=True)
def stable(gateway: FakeGateway) -> None:
    gateway.script.versions = [version(1, labels=("stable",))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in CLASSES:
        (tmp_path / "new" / name).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "new" / name / f"{number}.jpg").write_bytes(f"{name} {number}".encode())
    return tmp_path / "new"


def test_upload_sums_up_by_class(ask: Any, gateway: FakeGateway, folder: Path) -> None:
    (folder / "glioma" / "copy.jpg").write_bytes(b"glioma 0")
    (folder / "glioma" / "bad.jpg").write_bytes(b"corrupt")
    code, out, err = ask("upload", folder)
    assert code == 1
    rows = [line.split() for line in out.splitlines()]
    assert ["glioma", "3", "1", "1", "3"] in rows
    assert ["notumor", "3", "0", "0", "3"] in rows
    assert "glioma/bad.jpg: IMAGE_CORRUPT: the image is corrupt" in err
    assert len(gateway.script.training.examples) == 12


def test_what_an_upload_leaves_out_is_counted(ask: Any, folder: Path, tmp_path: Path) -> None:
    (folder / "meningioma").rename(tmp_path / "store")
    (folder / "meningioma").symlink_to(tmp_path / "store")
    (folder / "meningioma" / "linked.jfif").write_bytes(b"linked")
    (folder / "glioma" / "bare").write_bytes(b"\xff\xd8\xffbare")
    for name in ("glioma/1.txt", "glioma/2.txt", "README", "glioma/Thumbs.db", "__MACOSX/glioma/x.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    code, out, err = ask("upload", folder, "--json")
    assert code == 0
    summary = json.loads(out)
    assert summary["kept"] == {name: 3 + (name in {"glioma", "meningioma"}) for name in CLASSES}
    assert summary["left_out"] == {"no image by its suffix .txt": 2, "no image by its first bytes": 1}
    assert f"left out 2: no image by its suffix .txt, e.g. {folder / 'glioma' / '1.txt'}\n" in err


def test_a_second_upload_sends_only_what_is_new(ask: Any, gateway: FakeGateway, folder: Path) -> None:
    ask.ok("upload", folder)
    (folder / "notumor" / "9.jpg").write_bytes(b"notumor 9")
    for example in gateway.script.training.examples.values():  # kept without metadata, so under other digests
        example.example_id = hashlib.sha256(example.example_id.encode()).hexdigest()
    gateway.script.training.largest_message = 0
    out = ask.ok("upload", folder, "--json")
    summary = json.loads(out)
    assert summary["kept"] == {"notumor": 1}
    assert summary["duplicates"] == dict.fromkeys(CLASSES, 3)
    assert summary["total_by_class"]["notumor"] == 4
    (folder / "notumor" / "moved.jpg").write_bytes(b"glioma 0")
    assert "EXAMPLE_CONFLICT: kept as glioma already" in ask.failed("upload", folder)


def test_an_interrupted_upload_says_how_to_go_on(gateway: FakeGateway, folder: Path) -> None:
    gateway.script.gate.clear()
    command = [script("neurogate"), "upload", str(folder), "--target", gateway.address]
    with running(command) as process:
        gateway.script.training.arrived.wait(30)
        assert process.stop(signal.SIGINT) == 130
    assert "the same command goes on from here" in process.output
    assert "Traceback" not in process.output


def test_feedback(ask: Any, gateway: FakeGateway) -> None:
    code, out, _ = ask("feedback", "p1", "notumor", "-m", "second look")
    assert (code, out) == (0, "noted: the answer had been wrong; it became example eeeeeeeeeeee\n")
    ask.ok("feedback", "p1", "--not-mri")
    first, second = gateway.script.training.feedback.values()
    assert (first.class_id, first.comment, second.not_mri) == ("notumor", "second look", True)
    assert "PREDICTION_NOT_FOUND" in ask.failed("feedback", "gone", "glioma")


def test_examples_and_predictions_are_corrected_and_erased(ask: Any, gateway: FakeGateway) -> None:
    kept = gateway.script.training.examples
    kept["a" * 64] = pb.Example(example_id="a" * 64, class_id="glioma")
    code, _, err = ask("example", "relabel", "a" * 64, "notumor", "--from", "pituitary")
    assert (code, kept["a" * 64].class_id) == (1, "glioma")
    assert "EXAMPLE_CONFLICT" in err
    code, out, _ = ask("example", "relabel", "a" * 64, "notumor", "-m", "biopsy")
    assert (code, out, kept["a" * 64].class_id) == (0, "example aaaaaaaaaaaa is notumor\n", "notumor")
    code, out, err = ask("example", "delete", "a" * 64, "--reason", "withdrawn")
    assert (code, out, kept) == (0, "example aaaaaaaaaaaa is erased\n", {})
    assert "versions that have learned from it stay: 2, 3" in err
    assert "retrainings that go on with it: r7" in err
    code, _, err = ask("example", "delete", "a" * 64)
    assert code == 1
    assert "EXAMPLE_NOT_FOUND" in err
    code, out, err = ask("prediction", "delete", "p1")
    assert (code, out) == (0, "prediction p1 is erased\n")
    assert f"the example made of it stays: {'e' * 64}" in err
    code, out, _ = ask("prediction", "delete", "p1", "--json")
    assert json.loads(out) == {"example_ids": ["e" * 64]}


def test_retrain_follows_to_the_end(ask: Any, gateway: FakeGateway) -> None:
    gateway.script.training.script = success
    out = ask.ok("retrain", "--set", "head_epochs=2", "--promote")
    lines = out.splitlines()
    assert lines[0] == "retraining r1 from version 1"
    assert lines[1:9] == [
        "QUEUED",
        "RUNNING",
        "phase fine-tune: 20 batches",
        "fine-tune 20/20 epoch 2, loss 0.25",
        "best epoch 2",
        "EVALUATING",
        "PUBLISHING",
        "SUCCEEDED",
    ]
    assert "gate: version 2 against version 1 accepted" in out
    assert lines[-1] == "retraining r1 SUCCEEDED after 2:00: version 2"
    spec = gateway.script.training.runs["r1"].spec
    assert (spec.warm_start_version, spec.hyperparameters, spec.promote) == (1, {"head_epochs": "2"}, True)


def test_a_gate_policy_is_a_file(ask: Any, gateway: FakeGateway, tmp_path: Path) -> None:
    path = tmp_path / "strict.toml"
    path.write_text("[gate]\nmin_accuracy = 0.9\n")
    command = ("retrain", "--detach", "--gate-policy")
    code, out, _ = ask(*command, path, "--json")
    assert (code, json.loads(out)["spec"]["gate_policy"]) == (0, path.read_text())
    assert gateway.script.training.runs["r1"].spec.gate_policy == path.read_text()
    path.write_text("[gates]")
    code, _, err = ask(*command, path)
    assert code == 1
    assert "unknown key gates; did you mean gate? (GATE_POLICY_INVALID)" in err
    for content, message in (
        (b"\xff", "is no text in UTF-8"),
        (b" \n", "is empty; expected a table [gate]"),
        (b"#" * 20_000, "is too long; at most 4096 characters are accepted"),
    ):
        path.write_bytes(content)
        code, _, err = ask(*command, path)
        assert (code, f"the gate policy {path} {message}" in err) == (2, True), err
    assert list(gateway.script.training.runs) == ["r1"]


@pytest.mark.parametrize("end", ["REFUSED", "FAILED", "CANCELLED"])
def test_other_ends_are_exit_status_1(ask: Any, gateway: FakeGateway, end: str) -> None:
    def script(training: FakeTraining, run: object) -> None:
        training.move("r1", "RUNNING")
        more = {
            "REFUSED": {"version": 2, "gate": gate_report(2, accepted=False)},
            "FAILED": {"error": "a\nb"},
        }
        training.move("r1", end, **more.get(end, {}))

    gateway.script.training.script = script
    code, out, _ = ask("retrain", "--from-scratch")
    assert code == 1
    assert f"retraining r1 {end} after 2:00" in out
    assert ("  a\n  b" in out) == (end == "FAILED")
    assert ("recall of glioma 62.0%" in out) == (end == "REFUSED")
    assert gateway.script.training.runs["r1"].spec.from_scratch


def test_detached_retrainings_are_listed_watched_and_cancelled(ask: Any, gateway: FakeGateway) -> None:
    code, out, err = ask("retrain", "--detach", "--class", "glioma")
    assert (code, out) == (0, "r1\n")
    assert "runs watch r1" in err
    assert list(gateway.script.training.runs["r1"].spec.examples.class_ids) == ["glioma"]
    out = ask.ok("runs")
    assert out.splitlines()[1].split()[:2] == ["r1", "QUEUED"]
    code, out, _ = ask("runs", "cancel", "r1", "-m", "wrong data")
    assert (code, out) == (0, "retraining r1 CANCELLED\n")
    code, out, _ = ask("runs", "watch", "r1", "--json")
    assert code == 1
    assert [json.loads(line)["state_change"]["state"] for line in out.splitlines()] == ["QUEUED", "CANCELLED"]
    out = ask.ok("runs", "--state", "cancelled", "--json")
    assert [each["retraining_id"] for each in json.loads(out)] == ["r1"]
    code, out, err = ask("runs", "--state", "failed")
    assert (code, out, "no retrainings" in err) == (0, "", True)
    assert ask("runs", "watch", "r9")[0] == 1


def test_ctrl_c_stops_following_and_not_the_run(gateway: FakeGateway) -> None:
    command = [script("neurogate"), "retrain", "--target", gateway.address]
    with running(command, env={"PYTHONUNBUFFERED": "1"}) as process:
        process.wait_for("QUEUED")
        assert process.stop(signal.SIGINT) == 130
    assert "The retraining goes on." in process.output
    assert "runs cancel r1" in process.output
    assert "Traceback" not in process.output
    assert gateway.script.calls.count("CancelRetraining") == 0


def test_images_that_have_no_class(neurogate: Run, tmp_path: Path) -> None:
    for name in ("Training/glioma", "Testing/glioma"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "x.png").touch()
    code, _, err = neurogate("upload", tmp_path)
    assert code == 2
    assert f"holds splits (Testing, Training) and no classes; give one: {tmp_path / 'Training'}" in err
    (tmp_path / "x.png").touch()
    code, _, err = neurogate("upload", tmp_path)
    assert (code, "lies in no class folder" in err) == (2, True)
