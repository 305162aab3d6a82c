"""Configurations in the order that TensorFlow Serving demands, held to a model of it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neurogate_core import model_config
from neurogate_core.release_store import State
from neurogate_gateway.release.serving_config import Step, apply_step, plan, wanted_step

VERSIONS = st.integers(1, 6)
LABELS = st.dictionaries(st.sampled_from(["stable", "previous", "canary", "candidate", "shadow"]), VERSIONS)


class Server:
    """What TensorFlow Serving does with the configurations of one model, by default flags."""

    def __init__(self, loaded: set[int]) -> None:
        self.loaded = set(loaded)
        self.labels: dict[str, int] = {}
        self.aspired = set(loaded)

    def reload(self, step: Step) -> None:
        for label, version in step.labels.items():
            assert version in self.loaded, f"{label} was refused: {version} is not loaded"
        self.labels = dict(step.labels)
        self.aspired = set(step.versions)

    def poll(self) -> None:
        self.loaded |= self.aspired
        self.loaded &= self.aspired


@settings(deadline=None)
@given(before=LABELS, after=LABELS, extra=st.sets(VERSIONS))
def test_every_step_is_accepted_and_the_last_one_is_what_was_wanted(
    before: dict[str, int], after: dict[str, int], extra: set[int]
) -> None:
    """From any labels to any others, whatever else is loaded."""
    published = frozenset(range(1, 7))
    server = Server({*before.values(), *extra})
    present = Step(versions=tuple(sorted(server.loaded)), labels=before)
    server.labels = dict(before)
    wanted = wanted_step(State(labels=after), published)
    for turn in range(6):
        step = plan(wanted, frozenset(server.loaded), present)[0]
        if step == present and server.loaded == set(step.versions):
            break
        kept = {label for label in before if label in after}
        server.reload(step)
        # A label that was there and shall be there never disappears on the way.
        if wanted.versions:
            assert kept <= server.labels.keys()
        server.poll()
        present = step
        assert turn < 5
    assert server.labels == wanted.labels
    assert not after or server.loaded == set(after.values())


def test_a_label_moves_by_two_configurations() -> None:
    present = Step(versions=(1,), labels={"stable": 1})
    wanted = Step(versions=(1, 2), labels={"stable": 2, "previous": 1})
    first, second = plan(wanted, frozenset({1}), present)
    assert first == Step(versions=(1, 2), labels={"stable": 1, "previous": 1})
    assert second == wanted
    assert plan(wanted, frozenset({1, 2}), first) == (wanted,)


def test_a_version_that_failed_to_load_is_left_out() -> None:
    state = State(labels={"stable": 1, "candidate": 2}, draining={3: 0.0, 4: 0.0})
    wanted = wanted_step(state, frozenset({1, 2, 3}), frozenset({2}))
    assert wanted == Step(versions=(1, 3), labels={"stable": 1})


def test_without_a_release_the_newest_is_served() -> None:
    wanted = wanted_step(State(), frozenset({1, 2}))
    assert plan(wanted, frozenset({2}), Step(versions=(1,))) == (Step(),)


def test_other_models_and_the_base_path_stay() -> None:
    config = model_config.default_config("brain_tumor", "/models/brain_tumor")
    config.model_config_list.config.add(name="other", base_path="/x", model_platform="tensorflow")
    changed = apply_step(config, "brain_tumor", Step(versions=(1, 2), labels={"stable": 2}))
    entry = model_config.find_model(changed, "brain_tumor")
    assert entry.base_path == "/models/brain_tumor"
    assert list(entry.model_version_policy.specific.versions) == [1, 2]
    assert dict(entry.version_labels) == {"stable": 2}
    assert changed.model_config_list.config[1] == config.model_config_list.config[1]
    assert not model_config.find_model(config, "brain_tumor").version_labels
    again = apply_step(changed, "brain_tumor", Step())
    assert model_config.find_model(again, "brain_tumor").model_version_policy.latest.num_versions == 1
    assert not model_config.find_model(again, "brain_tumor").version_labels
    with pytest.raises(model_config.ModelNotConfiguredError):
        apply_step(config, "liver", Step())
