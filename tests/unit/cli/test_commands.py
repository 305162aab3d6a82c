from __future__ import annotations

import csv
import errno
import io
import itertools
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from neurogate.v1 import manifest_pb2, model_pb2
from neurogate_cli.commands import classify as cli_classify
from neurogate_cli.render.output import printable
from neurogate_testing.command_line import Run
from neurogate_testing.fake_gateway import CLASSES, PNG, FakeGateway, version
from neurogate_testing.fake_status import refusal
from neurogate_testing.processes import free_port, running, script


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in CLASSES:
        (tmp_path / "scans" / name).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "scans" / name / f"{number}.jpg").write_bytes(name.encode())
    return tmp_path / "scans"


def test_version(neurogate: Run) -> None:
    assert neurogate("--version") == (0, f"neurogate {metadata.version('neurogate')}\n", "")


def test_the_frame_is_passed_on(ask: Any, gateway: FakeGateway, folder: Path, tmp_path: Path) -> None:
    ask.ok("classify", folder, "--frame", "3")
    assert [each.frame for each in gateway.script.requests[1:]] == [3] * 3 * len(CLASSES)
    ask.ok("explain", folder / "glioma" / "0.jpg", "-o", tmp_path / "out.png", "--frame", "2")
    assert gateway.script.requests[-1].frame == 2


def test_a_table_in_the_order_of_the_names(ask: Any, folder: Path) -> None:
    code, out, err = ask("classify", folder)
    assert (code, err) == (0, "")
    header, *rows = [line.split() for line in out.splitlines()]
    assert header == ["image", "answer", "probability", "verdict", "version", "ms"]
    assert [row[0] for row in rows] == [str(folder / name / f"{n}.jpg") for name in CLASSES for n in range(3)]
    assert rows[0][1:] == ["Glioma", "━━━━━━━━━", "91.0%", "CONFIDENT", "1", "12.0"]


def test_more_classes_are_more_rows(ask: Any, gateway: FakeGateway, folder: Path) -> None:
    out = ask.ok("classify", folder / "glioma" / "0.jpg", "--top-k", 3)
    assert [line.split()[-1] for line in out.splitlines()[2:]] == ["3.0%", "3.0%"]
    assert gateway.script.requests[0].config.top_k == 3


def test_json_lines(ask: Any, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"corrupt")
    code, out, err = ask("classify", "--json", tmp_path / "bad.png", folder / "glioma", tmp_path / "nowhere")
    bad, *good, missing = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert err == "2 of 5 images have no answer\n"
    told = {"code": "INVALID_ARGUMENT", "reason": "IMAGE_CORRUPT", "message": "the image is corrupt"}
    assert bad == {"image": str(tmp_path / "bad.png"), "error": {**told, "metadata": {}}}
    assert missing["error"]["reason"] == "IMAGE_UNREADABLE"
    assert [each["image"] for each in good] == [str(folder / "glioma" / f"{n}.jpg") for n in range(3)]
    assert good[0]["class_id"] == "glioma"
    assert len(good[0]["scores"]) == 4
    model = {"name": "brain_tumor", "version": 1, "label": "stable", "manifest_digest": f"{1:064x}"}
    assert good[0]["model"] == model
    assert good[0]["timings_ms"] == {"queue": 1.0, "transform": 2.0, "predict": 9.0}


def test_csv(ask: Any, tmp_path: Path) -> None:
    (tmp_path / 'odd, "name".png').write_bytes(b"glioma unsure")
    (tmp_path / "z.png").write_bytes(b"bomb")
    code, out, _ = ask("classify", tmp_path, "--csv", "--label", "latest")
    first, second = csv.DictReader(io.StringIO(out))
    assert code == 1
    assert first["image"] == str(tmp_path / 'odd, "name".png')
    assert (first["class_id"], first["probability"], first["verdict"]) == ("glioma", "0.910000", "ABSTAIN")
    assert (first["version"], first["label"], first["error_code"]) == ("2", "latest", "")
    assert (second["class_id"], second["error_reason"]) == ("", "IMAGE_TOO_MANY_PIXELS")


def test_stdin_and_a_pipe_as_the_target_of_the_output(gateway: FakeGateway) -> None:
    command = [script("neurogate"), "classify", "-", "--target", gateway.address, "--model-version", "7"]
    done = subprocess.run(command, input=b"pituitary", capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().splitlines()[1].split()[:3] == ["-", "Pituitary", "tumour"]
    empty = subprocess.run(command, input=b"", capture_output=True, check=False)
    assert empty.returncode == 1
    assert b"IMAGE_EMPTY" in empty.stdout


def test_names_cannot_drive_the_terminal(ask: Any, tmp_path: Path) -> None:
    (tmp_path / "a\x1b[31mb\n[red]c.png").write_bytes(b"glioma")
    out = ask.ok("classify", tmp_path)
    assert "a\\x1b[31mb\\n[red]c.png" in out
    assert printable("a\udcffé") == "a\\udcffé"


@pytest.mark.skipif(sys.platform != "linux", reason="names that are not text exist on Linux")
@pytest.mark.parametrize("option", [[], ["--json"], ["--csv"]])
def test_names_that_are_not_text(ask: Any, tmp_path: Path, option: list[str]) -> None:
    (tmp_path / "\udcff.png").write_bytes(b"glioma")
    out = ask.ok("classify", tmp_path, *option)
    assert "\\udcff.png" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("classify", "Missing argument"),
        ("classify x --json --csv", "exclude each other"),
        ("classify x --model-version 1 --label a", "exclude each other"),
        ("classify x --model-version 0", "Invalid value"),
        ("classify x --frame 0", "Invalid value"),
        ("classify - -", "only once"),
        ("classify x --target localhost", "is not HOST:PORT"),
        ("classify x --target gateway:50051", "say --tls for an encrypted connection, or --plaintext"),
        ("explain x", "--output"),
        ("explain x -o y --color-map pink", "jet, viridis, inferno"),
        ("explain x -o /no/such/folder/y.png", "/no/such/folder"),
        ("explain x -o y --alpha 2", "Invalid value"),
        ("versions 0", "Invalid value"),
        ("versions 1 --watch", "leave out the number"),
        ("canary ten", "neither a share"),
        ("canary 0%", "neither a share"),
        ("canary 101%", "neither a share"),
        ("canary off 2", "takes no version"),
        ("shadow new", "neither a version number"),
        ("promote 0", "Invalid value"),
        ("promote 2 --force", "--force wants a --reason"),
        ("compare 1 2 /no/such/folder", "is no folder"),
        ("upload /no/such/folder", "cannot read the folder /no/such/folder"),
        ("feedback p1", "give either the right class, or --not-mri"),
        ("feedback p1 glioma --not-mri", "give either the right class, or --not-mri"),
        ("retrain --set epochs", "expected NAME=VALUE"),
        ("retrain --from 1 --from-scratch", "exclude each other"),
        ("retrain --gate-policy /no/such.toml", "cannot read the gate policy /no/such.toml: No such file"),
        ("runs --state asleep", "Invalid value"),
        ("runs watch", "Missing argument"),
        ("up --repository /no/such/folder", "there is no version of brain_tumor in /no/such/folder"),
        ("up --model ../elsewhere", "model name '../elsewhere' is not valid"),
        ("up --port 8500", "cannot share port 8500"),
        ("up --policy /no/such/policy.toml", "there is no policy file"),
        ("up --model-server-command /nowhere/server", "there is no program /nowhere/server"),
        ("up --release-mode never", "there are latest, manual, gated"),
        ("fly", "No such command"),
    ],
)
def test_wrong_use_is_exit_status_2(neurogate: Run, words: str, message: str) -> None:
    code, out, err = neurogate(*words.split())
    assert (code, out) == (2, "")
    assert message in err


def test_nothing_to_classify(neurogate: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    code, _, err = neurogate("classify", tmp_path)
    assert code == 1
    assert "no images in" in err


@pytest.mark.parametrize(
    "command", [["classify", "x.png"], ["explain", "x.png", "-o", "y.png"], ["versions"], ["health"]]
)
def test_no_gateway_is_exit_status_3(
    neurogate: Run, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.png").write_bytes(b"glioma")
    target = f"127.0.0.1:{free_port()}"
    code, out, err = neurogate(*command, "--target", target)
    assert (code, out) == (3, "")
    assert f"no gateway answers at {target}" in err
    assert not (tmp_path / "y.png").exists()


@pytest.mark.parametrize(
    ("failure", "expected", "message"),
    [
        (refusal("MODEL_LABEL_NOT_FOUND", "no label 'x'"), 1, "no label 'x' (MODEL_LABEL_NOT_FOUND)"),
        (refusal("MODEL_NOT_READY", "no version yet"), 3, "no version yet"),
        (refusal("INTERNAL", "\x1b[2J[red]"), 1, r"error: \x1b[2J[red] (INTERNAL)"),
        (refusal("OVERLOADED", "busy", retry_after=1.5), 3, "try again in 1.5 s"),
    ],
)
def test_refusals_of_the_whole_call(
    ask: Any, gateway: FakeGateway, folder: Path, failure: object, expected: int, message: str
) -> None:
    gateway.script.failures = [failure]
    code, _, err = ask("classify", folder)
    assert code == expected
    assert message in err


def test_what_is_left_out_of_a_folder_is_counted(ask: Any, folder: Path) -> None:
    before = len(list(folder.rglob("*.jpg")))
    (folder / "notumor" / "notes.txt").touch()
    (folder / "notumor" / "again").symlink_to(folder)
    code, out, err = ask("classify", folder, "--csv")
    assert (code, len(out.splitlines())) == (0, before + 1)
    assert err.splitlines() == [
        f"left out 1: a link to a folder that is read elsewhere, e.g. {folder / 'notumor' / 'again'}",
        f"left out 1: no image by its suffix .txt, e.g. {folder / 'notumor' / 'notes.txt'}",
    ]


def test_a_folder_that_goes_away_while_it_is_read(
    ask: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walks = itertools.count()

    def walk(root: str, **_: object) -> Iterator[tuple[Path, Path]]:
        if next(walks):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", root)
        yield Path("x.png"), Path(root) / "x.png"

    monkeypatch.setattr(cli_classify, "folder_images", walk)
    code, out, err = ask("classify", folder)
    assert (code, out) == (1, "")
    assert err == f"error: cannot read the folder {folder}: No such file or directory (IMAGE_UNREADABLE)\n"


def test_versions_as_table_and_json(ask: Any, gateway: FakeGateway) -> None:
    gateway.script.versions = [version(2, state="REJECTED"), version(1, labels=("latest", "stable"))]
    gateway.script.versions[0].state_reason = "golden glioma-0: pixels differ"
    out = ask.ok("versions")
    _, rejected, ready, reason = out.splitlines()
    assert rejected.split()[:2] == ["2", "REJECTED"]
    assert ready.split() == ["1", "READY", "latest,", "stable", "91.2%", "0.905", "2023-11-14", "0" * 12]
    assert reason.strip() == "version 2: golden glioma-0: pixels differ"
    out = ask.ok("versions", "--json")
    assert [each["version"] for each in json.loads(out)] == [2, 1]


@pytest.mark.parametrize(
    ("state", "expected"),
    [("REJECTED", "No manifest of it could be read."), ("LOADING", "not been read yet")],
)
def test_a_version_without_a_manifest_in_detail(
    ask: Any, gateway: FakeGateway, state: str, expected: str
) -> None:
    bare = version(2, state=state)
    bare.ClearField("manifest")
    bare.state_reason = "the version does not describe itself"
    gateway.script.versions = [bare]
    out = ask.ok("versions", "2")
    assert "the version does not describe itself" in out
    assert expected in out


def test_one_version_in_detail(ask: Any, gateway: FakeGateway) -> None:
    gateway.script.versions = [version(1)]
    gateway.script.versions[0].manifest.lineage.gate_policy = "[gate]\nmin_accuracy = 0.9\n"
    out = ask.ok("versions", 1)
    for text in (
        "91.2% (95% interval 88.0% to 94.0%)",
        "mahalanobis above 12.5",
        "1200 training",
        "[gate]; min_accuracy = 0.9",
        "No tumour",
        "Research",
    ):
        assert text in out
    assert "Evidence" not in out
    out = ask.ok("versions", 1, "--json")
    golden = json.loads(out)["manifest"]["goldens"][0]
    assert golden["name"] == "glioma-0"
    assert "image" not in golden
    assert "MODEL_VERSION_NOT_FOUND" in ask.failed("versions", 9)


def test_where_the_evidence_of_a_version_points(ask: Any, gateway: FakeGateway) -> None:
    gateway.script.versions = [version(1)]
    found = gateway.script.versions[0].manifest.localisation
    found.deletion_support = 290
    found.deletion.MergeFrom(manifest_pb2.Estimate(value=0.6, low=0.55, high=0.65))
    found.random_disc.value = 0.06
    out = ask.ok("versions", 1)
    assert "60.0% (55.0% to 65.0%) of 290 right answers change; random disc 6.0%" in out
    assert "points at the lesion" not in out
    found.support, found.control_class_id = 279, "notumor"
    for name, value in {
        "pointing": 0.96, "strict": 0.72, "energy": 0.32, "control": 0.3,
        "centre": 0.26, "head_centre": 0.35, "brightest_spot": 0.61,
    }.items():  # fmt: skip
        getattr(found, name).value = value
    out = ask.ok("versions", 1)
    for text in (
        "96.0% of 279 right answers",
        "brightest spot 61.0%, head's centre 35.0%, centre 26.0%",
        "points at it in 30.0%",
    ):
        assert text in out
    assert "do not rely" not in out
    found.pointing.value = 0.25
    out = ask.ok("versions", 1)
    assert "do not rely on its maps" in out


@pytest.mark.parametrize("command", ["versions", "health"])
def test_somebody_else_s_model_server_is_told(ask: Any, gateway: FakeGateway, command: str) -> None:
    server = model_pb2.ModelServer
    gateway.script.model_servers = [
        server(address="a:1"),
        server(address="b:2", foreign_reason="no manifest"),
    ]
    gateway.script.versions = [version(1)]
    out = ask.ok(command)
    assert "model server b:2 is somebody else's, and is left alone: no manifest\n" in out
    assert "a:1" not in out
    gateway.script.versions = []
    code, out, err = ask("versions")
    assert code == 1
    assert "model server b:2" in out
    assert "knows no version" in err


def test_health(ask: Any, gateway: FakeGateway) -> None:
    out = ask.ok("health")
    assert out.splitlines()[0].split()[0] == "SERVING"
    gateway.set_serving(False)
    code, out, _ = ask("health")
    assert code == 1
    assert out.splitlines()[0].split()[0] == "NOT_SERVING"


def test_explain_writes_the_picture_or_nothing(
    ask: Any, gateway: FakeGateway, folder: Path, tmp_path: Path
) -> None:
    image = folder / "notumor" / "0.jpg"
    options = ["--class-id", "glioma", "--color-map", "inferno", "--alpha", "0.25"]
    code, out, err = ask("explain", image, "-o", tmp_path / "why.png", *options)
    assert (code, out) == (0, "")
    assert "evidence for glioma (3.0%) by version 1; the answer is notumor (91.0%, CONFIDENT)" in err
    assert "The map points, it does not outline" in err
    assert "caution: the maps point elsewhere" in err
    assert (tmp_path / "why.png").read_bytes() == PNG
    request = gateway.script.requests[0]
    assert (request.class_id, request.overlay.color_map, request.overlay.alpha) == ("glioma", 3, 0.25)
    assert "CLASS_NOT_FOUND" in ask.failed("explain", image, "-o", tmp_path / "no.png", "--class-id", "flu")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["scans", "why.png"]
    assert "cannot write" in ask.failed("explain", image, "-o", folder)


def test_the_missing_extra_is_named() -> None:
    code = "import sys\nsys.modules['rich'] = None\nfrom neurogate_cli.main import main\nmain()\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'neurogate[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_only_local_servers_need_more_than_the_extra_of_the_command_line() -> None:
    missing = "import sys\nsys.modules.update(dict.fromkeys(['numpy', 'PIL', 'sqlalchemy', 'tensorflow']))\n"
    command = [sys.executable, "-c", f"{missing}from neurogate_cli.main import main\nmain()\n"]
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run([*command, "up"], capture_output=True, text=True, check=False)
    told = "error: neurogate-gateway needs numpy, PIL: pip install 'neurogate[gateway]'\n"
    assert (done.returncode, done.stderr) == (2, told)


def test_an_interrupt_ends_a_stream_with_130(gateway: FakeGateway, folder: Path) -> None:
    gateway.script.gate.clear()
    with running([script("neurogate"), "classify", str(folder), "--target", gateway.address]) as process:
        assert gateway.script.received.acquire(timeout=60)
        assert process.stop(signal.SIGINT) == 130
    assert "Traceback" not in process.output
    assert gateway.script.cancelled.wait(10)


def test_a_reader_that_goes_away_ends_the_command_quietly(gateway: FakeGateway, folder: Path) -> None:
    command = [script("neurogate"), "classify", str(folder), "--json", "--target", gateway.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()
    assert process.returncode != 0
