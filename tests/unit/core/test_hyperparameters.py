from __future__ import annotations

import pytest
from neurogate_core.hyperparameters import HYPERPARAMETERS, HyperparameterError, parse_hyperparameters


def test_values_come_in_their_kinds() -> None:
    texts = {"epochs": "12", "learning_rate": "1e-4", "class_weights": "false", "dropout_hidden": "0"}
    values = parse_hyperparameters(texts)
    assert values == {"epochs": 12, "learning_rate": 1e-4, "class_weights": False, "dropout_hidden": 0.0}
    assert isinstance(values["epochs"], int)
    assert isinstance(values["dropout_hidden"], float)


@pytest.mark.parametrize("name", sorted(HYPERPARAMETERS))
def test_the_ends_of_a_range_belong_to_it_and_nothing_beyond(name: str) -> None:
    known = HYPERPARAMETERS[name]
    if known.kind is bool:
        assert parse_hyperparameters({name: "true"}) == {name: True}
        return
    for end in (known.low, known.high):
        assert parse_hyperparameters({name: str(known.kind(end))}) == {name: end}
    for beyond in (known.low - 1, known.high + 1):
        with pytest.raises(HyperparameterError, match=name) as refusal:
            parse_hyperparameters({name: str(known.kind(beyond))})
        assert refusal.value.name == name


@pytest.mark.parametrize(
    "text", ["", " 3", "3 ", "1_0", "3.5", "nan", "inf", "1e99", "true", "٣", "0x10", "-"]
)
def test_what_is_no_whole_number_is_refused(text: str) -> None:
    with pytest.raises(HyperparameterError):
        parse_hyperparameters({"epochs": text})


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999", "", "1,5", "True"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(HyperparameterError):
        parse_hyperparameters({"learning_rate": text})


def test_an_unknown_name_is_told_those_that_are_known() -> None:
    with pytest.raises(HyperparameterError, match="learning_rate"):
        parse_hyperparameters({"learningrate": "1"})
