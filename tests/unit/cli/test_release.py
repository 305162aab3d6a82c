from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from neurogate.v1 import model_pb2
from neurogate_testing.fake_gateway import CLASSES, FakeGateway, version
from neurogate_testing.fake_release import gate_report
from neurogate_testing.processes import running, script


@pytest.fixture(autouse=True)
def three_versions(gateway: FakeGateway) -> None:
    gateway.script.versions = [
        version(3, state="REJECTED"),
        version(2, labels=("candidate",)),
        version(1, labels=("stable",)),
    ]
    gateway.script.release.labels = {"stable": 1, "candidate": 2}


def test_versions_show_the_gate_and_each_server(ask: Any, gateway: FakeGateway) -> None:
    candidate = gateway.script.versions[1]
    candidate.gate.CopyFrom(gate_report(2, accepted=False))
    candidate.backends.add(address="10.0.0.7:8500", state="MODEL_VERSION_STATE_READY")
    candidate.backends.add(
        address="10.0.0.8:8500", state="MODEL_VERSION_STATE_REJECTED", state_reason="weights differ"
    )
    out = ask.ok("versions")
    lines = [line.split() for line in out.splitlines()]
    assert lines[0][:5] == ["version", "state", "servers", "labels", "gate"]
    assert lines[2][:5] == ["2", "READY", "1/2", "candidate", "refused"]
    assert "version 2 at 10.0.0.8:8500: REJECTED weights differ" in out
    assert "version 2, gate: recall of glioma 62.0%, at least 80.0%" in out
    out = ask.ok("versions", 2)
    assert "recall_floor.glioma" in out


@pytest.mark.parametrize("columns", [30, 60, 90])
def test_narrow_terminals_leave_columns_out_and_cut_no_line(
    ask: Any, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    out = ask.ok("versions")
    header, *rows = out.splitlines()
    assert header.split()[:3] == ["version", "state", "labels"]
    assert len(rows) == 3
    assert "…" not in out
    assert ("manifest" in header) == (columns == 90)


def test_watching_as_lines_and_as_json(gateway: FakeGateway) -> None:
    for option, first, change in (
        ([], r"version 3 REJECTED", r"version 4 LOADING"),
        (["--json"], r'"version": 3, "state": "REJECTED"', r'"version": 4, "state": "LOADING"'),
    ):
        command = [script("neurogate"), "versions", "--watch", *option, "--target", gateway.address]
        with running(command, env={"PYTHONUNBUFFERED": "1"}) as process:
            process.wait_for(first)
            process.wait_for("candidate")
            gateway.script.release.announce(version=version(4, state="LOADING"))
            process.wait_for(change)
            assert process.stop(signal.SIGINT) == 130


def test_promote_shows_the_gates_findings(ask: Any, gateway: FakeGateway) -> None:
    out = ask.ok("promote", 2, "--reason", "better")
    assert "gate: version 2 against version 1 accepted" in out
    assert "min_accuracy" in out
    assert "promote: stable 1 → 2, previous - → 1" in out
    (change,) = gateway.script.release.changes
    assert (change.reason, change.forced) == ("better", False)


def test_a_refused_promotion_shows_why_and_can_be_forced(ask: Any, gateway: FakeGateway) -> None:
    report = gate_report(2, accepted=False)
    gateway.script.release.reports[2] = report
    gateway.script.versions[1].gate.CopyFrom(report)
    code, out, err = ask("promote", 2)
    assert code == 1
    assert "recall of glioma 62.0%, at least 80.0%" in out
    # The findings are told once.
    assert err == "error: the gate refuses version 2\n--force with a --reason overrules it.\n"
    code, out, err = ask("promote", 2, "--json")
    assert (code, out) == (1, "")
    assert "the gate refuses version 2: recall_floor.glioma" in err
    code, _, err = ask("promote", 2, "--force")
    assert (code, "--force wants a --reason" in err) == (2, True)
    out = ask.ok("promote", 2, "--force", "-m", "agreed", "--json")
    assert json.loads(out)["change"]["forced"] is True


def test_a_refusal_is_told_where_the_version_shows_another_verdict(ask: Any, gateway: FakeGateway) -> None:
    gateway.script.release.reports[2] = gate_report(2, accepted=False)
    gateway.script.versions[1].gate.CopyFrom(gate_report(2))
    code, out, err = ask("promote", 2)
    assert (code, out) == (1, "")
    assert "the gate refuses version 2: recall_floor.glioma\n--force" in err


def test_rollback(ask: Any, gateway: FakeGateway) -> None:
    assert "NOTHING_TO_ROLL_BACK" in ask.failed("rollback")
    gateway.script.release.labels = {"stable": 2, "previous": 1}
    out = ask.ok("rollback")
    assert "rollback: stable 2 → 1, previous 1 → 2" in out
    # It names the release that it has seen, so that two who go back at once do not undo each other.
    request = gateway.script.requests[-1]
    assert isinstance(request, model_pb2.RollbackModelRequest)
    assert request.etag


def test_canary_and_shadow_leave_each_other_alone(ask: Any, gateway: FakeGateway) -> None:
    release = gateway.script.release
    ask.ok("shadow", 2)
    out = ask.ok("canary", "12.5%")
    assert "canary - → 2" in out
    assert (release.labels["canary"], release.labels["shadow"], release.canary_percent) == (2, 2, 12.5)
    ask.ok("canary", "50")
    assert (release.labels["canary"], release.canary_percent) == (2, 50)
    ask.ok("shadow", "off")
    assert (release.labels["canary"], release.canary_percent, "shadow" in release.labels) == (2, 50, False)
    ask.ok("canary", "off")
    assert "canary" not in release.labels


def test_a_canary_is_never_guessed(ask: Any, gateway: FakeGateway) -> None:
    # As after a rollback: 2 is READY, and the one that callers were just taken from.
    gateway.script.release.labels = {"stable": 1, "previous": 2}
    code, out, err = ask("canary", "10%")
    assert (code, out) == (1, "")
    assert "there is no candidate; name the version" in err
    assert "canary 10% VERSION" in err
    assert "canary" not in gateway.script.release.labels
    ask.ok("canary", "10%", 2)
    assert gateway.script.release.labels["canary"] == 2


@pytest.mark.parametrize("command", [("promote", 2), ("canary", "off"), ("shadow", "off")])
def test_what_is_so_already_is_told_and_leaves_no_trace(
    ask: Any, gateway: FakeGateway, command: tuple[object, ...]
) -> None:
    gateway.script.release.labels = {"stable": 2, "previous": 1}
    code, out, err = ask(*command)
    assert (code, err) == (0, "")
    assert out == "nothing to do: it is so already\nstable 2   previous 1   mode manual\n"
    code, out, _ = ask(*command, "--json")
    assert (code, json.loads(out)["change"]) == (0, None)
    assert gateway.script.release.changes == []


def test_the_agreement_of_the_shadow(ask: Any, gateway: FakeGateway) -> None:
    code, _, err = ask("shadow")
    assert (code, "no shadow" in err) == (1, True)
    gateway.script.release.labels["shadow"] = 2
    gateway.script.release.agreement = model_pb2.ShadowAgreement(
        stable_version=1, shadow_version=2, class_ids=["glioma", "notumor"], counts=[8, 1, 0, 3], compared=12
    )
    out = ask.ok("shadow")
    assert "91.7%" in out
    rows = [line.split() for line in out.splitlines()]
    assert ["glioma", "8", "1"] in rows
    assert ["notumor", "0", "3"] in rows
    out = ask.ok("shadow", "--json")
    assert json.loads(out)["counts"] == [8, 1, 0, 3]


def test_the_release_on_one_page(ask: Any, gateway: FakeGateway) -> None:
    ask("promote", 2, "-m", "better on glioma")
    gateway.script.release.guards.append(
        model_pb2.GuardState(
            name="latency", version=2, value=36, limit=10000, breaches=1, breaches_to_fire=3, images=412
        )
    )
    out = ask.ok("release")
    assert out.splitlines()[0].split() == ["stable", "2", "previous", "1", "mode", "manual"]
    latency = next(line.split() for line in out.splitlines() if line.startswith("latency"))
    assert latency[3:] == ["36", "10000", "1", "of", "3", "412"]
    assert "stable 1→2, candidate 2→-, previous -→1" in out
    assert "better on glioma" in out
    out = ask.ok("release", "--json", "--changes", 1)
    assert [each["action"] for each in json.loads(out)["changes"]] == ["PROMOTE"]


def test_evaluate_tells_by_its_status(ask: Any, gateway: FakeGateway) -> None:
    out = ask.ok("evaluate", 2)
    assert "93.0%" in out
    gateway.script.release.reports[2] = gate_report(2, accepted=False)
    code, out, _ = ask("evaluate", 2, "--json")
    assert code == 1
    assert json.loads(out)["accepted"] is False


def test_compare_puts_figures_and_answers_side_by_side(
    ask: Any, gateway: FakeGateway, tmp_path: Path
) -> None:
    gateway.script.versions[1].manifest.metrics.accuracy = 0.9625
    gateway.script.other_opinion = {2: {b"glioma 1": "notumor"}}
    for name in CLASSES:
        (tmp_path / name).mkdir()
        for number in range(2):
            (tmp_path / name / f"{number}.jpg").write_bytes(f"{name} {number}".encode())
    out = ask.ok("compare", 1, 2, tmp_path)
    rows = [line.split() for line in out.splitlines()]
    assert ["accuracy", "91.2%", "96.2%", "+5.0%"] in rows
    assert "the same class for 7 of 8 (87.5%)" in out
    assert "version 1 8 (100.0%), version 2 7 (87.5%) of 8" in out
    assert ["glioma/1.jpg", "glioma", "91.0%", "notumor", "91.0%"] in rows
    (tmp_path / "glioma" / "z.jpg").write_bytes(b"corrupt")
    code, out, err = ask("compare", 1, 2, tmp_path, "--json")
    assert code == 1
    assert "IMAGE_CORRUPT" in err
    found = json.loads(out)["agreement"]
    assert (found["compared"], found["same"], found["failed"]) == (8, 7, 1)
    assert [each["image"] for each in found["disagreements"]] == ["glioma/1.jpg"]
