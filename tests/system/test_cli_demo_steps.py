"""The demo with quick stand-ins for the commands that it calls: what is run, shown, reused, cleaned up."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from pathlib import Path

import psutil
import pytest
from neurogate_testing.fake_gateway import PNG
from neurogate_testing.processes import running

SUPPORT = Path(__file__).resolve().parents[1] / "support"

TRAINER = """
import json, os, pathlib, sys, time
from neurogate_testing.manifests import sound_manifest
with open(os.environ["STEPS"], "a") as log:
    log.write(" ".join(sys.argv[1:3]) + "\\n")
CLASSES = ("glioma", "meningioma", "notumor", "pituitary")
if sys.argv[1:3] == ["data", "phantom"]:
    for name in CLASSES:
        folder = pathlib.Path(sys.argv[3], "Testing", name)
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(5):
            # Every class has one image that the stand-in takes for a glioma, and its first is unclear.
            kind = f"glioma? {name}" if number == 4 else name + (" unsure" if number == 0 else "")
            (folder / f"{number}.jpg").write_text(kind)
        new = pathlib.Path(sys.argv[3], "Training", name)
        new.mkdir(parents=True, exist_ok=True)
        for number in range(3):
            (new / f"{number}.jpg").write_text(f"{name} {number}")
    print("data made")
elif sys.argv[1:3] == ["data", "dicom"]:
    pathlib.Path(sys.argv[4]).write_bytes(pathlib.Path(sys.argv[3]).read_bytes())
    print(sys.argv[4], "written")
else:
    options = dict(zip(sys.argv[3::2], sys.argv[4::2]))
    if os.environ.get("TRAINING") == "fails":
        print("line before the end")
        sys.exit("no memory left")
    if os.environ.get("TRAINING") == "hangs":
        print("training", os.getpid(), flush=True)
        time.sleep(60)
    run, repository = pathlib.Path(options["--run-dir"]), pathlib.Path(options["--repository"])
    run.mkdir()
    version = repository / options["--model"] / "1"
    (version / "assets").mkdir(parents=True)
    (version / "saved_model.pb").write_text("graph")
    manifest = sound_manifest(model=options["--model"])
    (version / "assets/neurogate_manifest.binpb").write_bytes(manifest.SerializeToString())
    test = [{"path": f"Testing/{c}/{n}.jpg", "class": c, "sha256": ""} for c in CLASSES for n in range(5)]
    (run / "splits.json").write_text(json.dumps({"test": test}))
    (run / "published.json").write_text(json.dumps({"model": "brain_tumor", "version": 1}))
"""

MODEL_SERVER = """
import sys, time
print("serving", sys.argv[1:], flush=True)
time.sleep(60)
"""

GATEWAY = """
import os, signal, sys, threading
from neurogate_testing.fake_gateway import CLASSES, Script, fake_gateway, version
from neurogate_testing.fake_training import success
port = next(int(each.rpartition(":")[2]) for each in sys.argv if each.startswith("--listen="))
if os.environ.get("GATEWAY") == "fails":
    print("first line")
    sys.exit("the port melted")
stopped = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stopped.set())
rejected = version(1, state="REJECTED")
rejected.state_reason = "golden glioma-0 differs"
rejected.backends.add(address="127.0.0.1:1", state=rejected.state, state_reason=rejected.state_reason)
ready = os.environ.get("GATEWAY") != "rejects"
shown = version(1, labels=("stable",)) if ready else rejected
script = Script(versions=[shown])

def retrained(training, run):
    end = os.environ.get("RETRAINING", "SUCCEEDED")
    if end == "hangs":
        training.move(run.retraining_id, "RUNNING")
        return
    if end != "SUCCEEDED":
        training.move(run.retraining_id, "RUNNING")
        training.move(run.retraining_id, end, error="no memory left")
        return
    success(training, run)
    script.versions.insert(0, version(2, labels=("candidate",)))

script.training.script = retrained
if os.environ.get("GAIN", "yes") == "yes":
    script.other_opinion = {2: {f"glioma? {name}".encode(): name for name in CLASSES}}
class Told(list):
    def append(self, request):
        if type(request).__name__ == "CancelRetrainingRequest":
            print(f"cancelled {request.retraining_id}: {request.reason}", flush=True)

script.requests = Told()
with fake_gateway(script, port=port) as gateway:
    gateway.set_serving(ready)
    stopped.wait(60)
"""


@pytest.fixture
def demo(tmp_path: Path) -> list[str]:
    """The demo's command, with a Python whose neighbours are the stand-ins."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, code in (("trainer", TRAINER), ("model-server", MODEL_SERVER), ("gateway", GATEWAY)):
        path = programs / f"neurogate-{name}"
        path.write_text(f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(SUPPORT)!r})\n{code}")
        path.chmod(0o755)
    code = (
        f"import sys; sys.executable = {str(programs / 'python')!r}; "
        "from neurogate_cli.main import main; main()"
    )
    # The children are started by this name, so it has to be a Python too.
    (programs / "python").symlink_to(Path(sys.executable).resolve())
    return [sys.executable, "-c", code, "demo", f"--dir={tmp_path / 'demo'}"]


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    return {"STEPS": str(tmp_path / "steps"), "COLUMNS": "160", **more}


def run(command: list[str], tmp_path: Path, **more: str) -> tuple[int, str]:
    with running(command, env=environment(tmp_path, **more)) as process:
        status = process.popen.wait(120)
        process.stop()
        return status, process.output


def steps(tmp_path: Path) -> list[str]:
    return (tmp_path / "steps").read_text().splitlines()


def test_the_whole_story_and_then_only_what_is_missing(demo: list[str], tmp_path: Path) -> None:
    status, output = run(demo, tmp_path)
    assert status == 0, output
    made = ["data phantom", "train " + str(tmp_path / "demo/data"), "data dicom"]
    assert steps(tmp_path) == made
    assert "demo/slice.dcm: glioma (91.0%), a slice as DICOM" in output
    assert output.count("slice.dcm") == 1
    for title in ("1. Data:", "2. Training:", "3. Servers:", "4. Answers:", "5. Accuracy:"):
        assert title in output
    lines = [line for line in output.splitlines() if ".jpg" in line]
    assert lines.pop().endswith("evidence.png: the evidence for glioma (91.0%) in 1.jpg")
    rows = [line.split() for line in lines]
    assert [row[:3] for row in rows if row[1] == "pituitary"] == [
        [f"{n}.jpg", "pituitary", "pituitary"] for n in range(3)
    ]
    assert len(rows) == 12
    assert "accuracy through the gateway: 85.0% (17 of 20 images)" in output
    assert "accuracy in the manifest:     91.2% (95% interval 88.0% to 94.0%) on 400 images" in output
    assert (tmp_path / "demo/evidence.png").read_bytes() == PNG
    counts = next(line.split() for line in output.splitlines() if line.startswith("meningioma"))
    assert counts == ["meningioma", "5", "4", "80.0%", "4", "1", "0"]
    assert "says nothing about patients" in output
    assert f"neurogate up --repository {tmp_path / 'demo/models'}" in output

    status, output = run(demo, tmp_path)
    assert status == 0, output
    assert steps(tmp_path) == made
    assert "nothing to make" in output

    (tmp_path / "demo/data/Testing/glioma/0.jpg").unlink()
    status, output = run(demo, tmp_path)
    assert status == 0, output
    assert steps(tmp_path)[3:] == ["data phantom"]

    shutil.rmtree(tmp_path / "demo/models/brain_tumor/1")
    (tmp_path / "demo/run/splits.json").unlink()
    status, _ = run([*demo, "--train-per-class=9"], tmp_path, TRAINING="fails")
    assert status == 1
    assert steps(tmp_path)[4:] == ["data phantom", "train " + str(tmp_path / "demo/data")]


def test_a_failed_step_is_shown_with_its_last_lines(demo: list[str], tmp_path: Path) -> None:
    status, output = run(demo, tmp_path, TRAINING="fails")
    assert status == 1
    assert "line before the end\n" in output
    assert "no memory left" in output
    assert "error: neurogate-trainer train ended with exit status 1" in output
    assert "Servers" not in output


def test_a_server_that_fails_is_shown_with_its_last_lines(demo: list[str], tmp_path: Path) -> None:
    status, output = run(demo, tmp_path, GATEWAY="fails")
    assert status == 1
    assert "  first line\n  the port melted\n" in output
    assert "error: gateway ended with exit status 1" in output
    assert "serving" in (tmp_path / "demo/logs/model-server.log").read_text()


def test_a_refused_version_says_why(demo: list[str], tmp_path: Path) -> None:
    status, output = run(demo, tmp_path, GATEWAY="rejects")
    assert status == 1
    assert "refuses every version of brain_tumor: version 1: golden glioma-0 differs" in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_demo_leaves_no_process(demo: list[str], tmp_path: Path, number: int) -> None:
    with running(demo, env=environment(tmp_path, TRAINING="hangs")) as process:
        pid = int(process.wait_for(r"training (\d+)").group(1))
        status = process.stop(number)
    assert status == (-number if number == signal.SIGKILL else 130)
    assert _gone(pid)
    if number != signal.SIGKILL:
        assert "the next run goes on from here" in process.output


def test_damaged_records_are_named(demo: list[str], tmp_path: Path) -> None:
    run(demo, tmp_path)
    (tmp_path / "demo/run/splits.json").write_text(json.dumps({"test": []}))
    status, output = run(demo, tmp_path)
    assert status == 1
    assert "FileExistsError" in output  # the stand-in trainer, asked to train again, finds its run


def test_the_loop_from_few_images_to_a_better_stable_version(demo: list[str], tmp_path: Path) -> None:
    status, output = run([*demo, "--loop"], tmp_path)
    assert status == 0, output
    titles = ("Data:", "Training:", "New images:", "Servers:", "Before:", "Upload:", "Retraining:", "Gate:")
    for number, title in enumerate((*titles, "Promotion:", "After:"), start=1):
        assert f"{number}. {title}" in output
    rows = [line.split() for line in output.splitlines()]
    assert ["glioma", "3", "0", "0", "3"] in rows
    assert "fine-tune 20/20 epoch 2, loss 0.25" in output
    assert "stable is version 2" in output
    assert ["class", "images", "version", "1", "version", "2", "gained"] in rows
    assert ["pituitary", "5", "80.0%", "100.0%", "+20.0%"] in rows
    assert ["all", "20", "85.0%", "100.0%", "+15.0%"] in rows
    assert "neurogate rollback" in output


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ({"RETRAINING": "FAILED"}, "the retraining ended as FAILED\n  no memory left"),
        ({"GAIN": "no"}, "+0.0%"),
    ],
)
def test_a_loop_without_a_gain_says_so(
    demo: list[str], tmp_path: Path, trouble: dict[str, str], message: str
) -> None:
    status, output = run([*demo, "--loop"], tmp_path, **trouble)
    assert status == 1
    assert message in output
    assert "Traceback" not in output


def test_an_interrupted_loop_cancels_its_retraining(demo: list[str], tmp_path: Path) -> None:
    with running([*demo, "--loop"], env=environment(tmp_path, RETRAINING="hangs")) as process:
        process.wait_for("^RUNNING")
        assert process.stop(signal.SIGINT) == 130
    assert "cancelled r1: the demo was interrupted" in (tmp_path / "demo/logs/gateway.log").read_text()
    assert "Traceback" not in process.output


def _gone(pid: int) -> bool:
    try:
        psutil.Process(pid).wait(20)
    except psutil.NoSuchProcess:
        return True
    return not psutil.pid_exists(pid)
