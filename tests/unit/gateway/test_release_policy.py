"""The policy file, and the policy that a retraining adds to it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from neurogate_gateway.release.policy import (
    GatePolicy,
    GuardPolicy,
    Policy,
    PolicyError,
    parse_extra_policy,
    parse_policy,
    read_policy,
)


def test_a_policy_file(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(
        "[gate]\nmin_accuracy = 0.9\nresamples = 500\n[gate.recall]\nglioma = 0.95\n"
        "[guards]\nwindow = 50\nmax_error_rate = 0\n"
    )
    policy = read_policy(path)
    assert (policy.gate.min_accuracy, policy.gate.resamples) == (0.9, 500)
    assert policy.gate.recall == {"glioma": 0.95}
    assert (policy.guards.window, policy.guards.max_error_rate) == (50, 0)
    assert policy.gate.max_ece == GatePolicy().max_ece
    assert policy.digest != Policy().digest
    assert parse_policy("") == Policy()
    # What the gate does not ask does not change its digest.
    assert parse_policy("[guards]\nwindow = 7").digest == Policy().digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[gate]\nmin_acuracy = 1", "unknown key gate.min_acuracy; did you mean gate.min_accuracy?"),
        ("[gates]", "unknown key gates; did you mean gate?"),
        ("xyz = 1", "unknown key xyz; known: gate, guards"),
        ("[guards]\nwindow = 20.5", "guards.window is 20.5, expected a whole number"),
        ("[guards]\nwindow = true", "guards.window is True, expected a number"),
        ("[gate]\nmin_accuracy = 1.5", "gate.min_accuracy is 1.5, expected 0 to 1"),
        ("[gate]\nmin_accuracy = nan", "gate.min_accuracy is nan, expected a number"),
        ('[gate]\nmin_accuracy = "0.5"', "gate.min_accuracy is '0.5', expected a number"),
        ("gate = 3", "gate is 3, expected a table"),
        ("[gate]\nrecall = 0.5", "gate.recall is 0.5, expected a table"),
        ("[gate.recall]\nglioma = 2", "gate.recall.glioma is 2, expected 0 to 1"),
        ("[gate", "not TOML"),
        ("a=" + "[" * 5000, "not TOML"),
        ("a=" + "9" * 5000, "not TOML"),
        ("[gate]\nmin_accuracy = inf", "gate.min_accuracy is inf, expected 0 to 1"),
        (f"[gate]\nmin_accuracy = 1{'0' * 400}", f"gate.min_accuracy is 1{'0' * 58}…, expected 0 to 1"),
        (
            f"[gate]\nmin_accuracy = 0x{'f' * 4000}",
            "gate.min_accuracy is too long to be shown, expected 0 to 1",
        ),
        (f"[gate]\n{'x' * 100} = 1", f"unknown key gate.{'x' * 59}…; known: min_accuracy, "),
        ('[gate]\n"a\\nb" = 1', r"unknown key gate.'a\nb'; known"),
    ],
)
def test_a_policy_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(PolicyError) as error:
        read_policy(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)


def test_a_policy_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="cannot be read"):
        read_policy(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(PolicyError):
        read_policy(tmp_path / "bytes.toml")
    (tmp_path / "huge.toml").write_bytes(b"#" * (1 << 21))
    with pytest.raises(PolicyError, match="larger"):
        read_policy(tmp_path / "huge.toml")


GATEWAYS = Policy(
    gate=GatePolicy(
        min_accuracy=0.8, min_recall=0.6, recall={"glioma": 0.9, "notumor": 0.5}, max_regression=1
    ),
    guards=GuardPolicy(window=50),
)


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("[gate]\nmin_accuracy = 0.95", {"min_accuracy": 0.95}),
        ("[gate.recall]\nnotumor = 0.7", {"recall": {"glioma": 0.9, "notumor": 0.7}}),
        # For every class, so what the gateway says of single ones is not in its way.
        ("[gate]\nmin_recall = 0.95", {"min_recall": 0.95, "recall": {}}),
        (
            "[gate]\nmin_recall = 0.95\n[gate.recall]\nglioma = 0.99",
            {"min_recall": 0.95, "recall": {"glioma": 0.99}},
        ),
    ],
)
def test_what_a_policy_of_its_own_does_not_name_is_as_the_gateway_has_it(
    text: str, gate: dict[str, object]
) -> None:
    own = parse_extra_policy(text, GATEWAYS)
    assert own.gate == dataclasses.replace(GATEWAYS.gate, **gate)
    assert own.digest != GATEWAYS.digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[guards]\nwindow = 7", "unknown key guards; known: gate"),
        ("min_accuracy = 0.9", "unknown key min_accuracy; known: gate"),
        ("[gate]\nmin_acuracy = 1", "unknown key gate.min_acuracy; did you mean gate.min_accuracy?"),
        ("[gate]\nresamples = 1", "gate.resamples is 1, expected 100 to 100000"),
        (" \n# nothing", "it asks for nothing, expected a table [gate] with a key, as in min_accuracy = 0.9"),
        ("[gate]", "it asks for nothing"),
        ("[gate.recall]", "it asks for nothing"),
        ("[gate]\nmin_accuracy = 1\n" + "#" * 4096, "it has 4120 characters, expected at most 4096"),
        ("{}", "not TOML"),
    ],
)
def test_a_policy_of_its_own_that_cannot_be_used(text: str, message: str) -> None:
    with pytest.raises(PolicyError) as error:
        parse_extra_policy(text, GATEWAYS)
    assert message in str(error.value)
