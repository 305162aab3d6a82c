"""How a model server is brought to what a release says, by configurations that it accepts one after another.

TensorFlow Serving takes a label only for a version that is loaded, and drops a label at once when a
configuration leaves it out. So a label moves by two configurations: the first loads the new version and
leaves the label where it is, the second moves it, and only then lets go of what nobody wants any more.
Loading takes time, and versions may fail; therefore the plan is made anew whenever something has changed,
and only its first step counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from neurogate.tfs.v1 import tfs_pb2
from neurogate_core import model_config
from neurogate_core.release_store import State


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one configuration says about a model.

    Attributes:
        versions: To be loaded, ascending; empty for the newest in the folder, whichever that is.
        labels: Version by label, each one loaded.
    """

    versions: tuple[int, ...] = ()
    labels: Mapping[str, int] = dataclasses.field(default_factory=dict)


def wanted_step(state: State, published: frozenset[int], broken: frozenset[int] = frozenset()) -> Step:
    """What the model server should come to.

    Args:
        state: The release.
        published: Versions that are in the repository; the server could not load others.
        broken: Versions that it failed to load. It would not try them again, and a server that starts with
            one in its configuration ends.
    """
    usable = published - broken
    labels = {label: version for label, version in state.labels.items() if version in usable}
    return Step(versions=tuple(sorted({*labels.values(), *(usable & state.draining.keys())})), labels=labels)


def plan(wanted: Step, loaded: frozenset[int], present: Step) -> tuple[Step, ...]:
    """The steps from here to what is wanted, as far as can be known now.

    Args:
        wanted: Where to go.
        loaded: Versions that are loaded on every model server.
        present: What the model servers were told last.

    Returns:
        The steps. All but the first count on versions that are not loaded yet.
    """
    if not wanted.versions:
        return (wanted,)
    # Without a version of the wanted ones, the server keeps what serves now.
    settled = Step(versions=wanted.versions, labels=_loaded(wanted.labels, loaded))
    if loaded.issuperset(wanted.versions):
        return (settled,)
    meanwhile = {**_loaded(present.labels, loaded), **settled.labels}
    kept = {label: version for label, version in meanwhile.items() if label in wanted.labels}
    loading = Step(versions=tuple(sorted({*wanted.versions, *kept.values()})), labels=kept)
    return (loading, wanted)


def apply_step(config: tfs_pb2.ModelServerConfig, model: str, step: Step) -> tfs_pb2.ModelServerConfig:
    """The configuration with the model's part as the step says; everything else stays as it is."""
    changed = tfs_pb2.ModelServerConfig()
    changed.CopyFrom(config)
    if step.versions:
        model_config.serve_versions(changed, model, step.versions)
    else:
        model_config.serve_latest(changed, model, 1)
    entry = model_config.find_model(changed, model)
    entry.version_labels.clear()
    for label, version in sorted(step.labels.items()):
        model_config.set_label(changed, model, label, version)
    return changed


def _loaded(labels: Mapping[str, int], loaded: frozenset[int]) -> dict[str, int]:
    return {label: version for label, version in labels.items() if version in loaded}
