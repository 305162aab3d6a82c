"""Versions that are wrong, each in its own way, in a real repository before a real model server."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from neurogate.tfs.v1 import tfs_pb2
from neurogate.v1 import manifest_pb2, model_pb2
from neurogate_cli.local_stack.servers import MODEL_SERVER_FLAGS
from neurogate_core.manifest import MANIFEST_FILE, read_manifest, serialize_manifest, write_manifest
from neurogate_core.model_config import default_config, write_config
from neurogate_testing.callers import KINDS, Callers, steady_callers
from neurogate_testing.processes import running, script
from neurogate_testing.serving_process import running_model_server
from neurogate_testing.stack import MODEL

READY = model_pb2.MODEL_VERSION_STATE_READY
REJECTED = model_pb2.MODEL_VERSION_STATE_REJECTED

Manifest = manifest_pb2.ModelManifest


def half_copied(folder: Path, _: Manifest) -> None:
    (folder / "saved_model.pb").unlink()


def tampered(folder: Path, _: Manifest) -> None:
    """A graph that loads and answers as before: only its digest tells."""
    with (folder / "saved_model.pb").open("ab") as file:
        file.write(b"\xfa\x3e\x03new")


def without_weights(folder: Path, _: Manifest) -> None:
    """Variables that are missing, which the model server notices only when they are read."""
    shutil.rmtree(folder / "variables")


def unreadable_manifest(folder: Path, _: Manifest) -> None:
    (folder / MANIFEST_FILE).write_bytes(b"\xff" * 100)


def manifest_of_another_model(folder: Path, manifest: Manifest) -> None:
    manifest.model_name = "liver"
    write_manifest(folder, manifest)


def manifest_of_another_version(folder: Path, manifest: Manifest) -> None:
    manifest.version = 1
    write_manifest(folder, manifest)


def unknown_transform(folder: Path, manifest: Manifest) -> None:
    manifest.transform.revision = 99
    # Not by write_manifest, which would not write it.
    (folder / MANIFEST_FILE).write_bytes(serialize_manifest(manifest))


def other_goldens(folder: Path, manifest: Manifest) -> None:
    probabilities = list(manifest.goldens[0].probabilities)
    manifest.goldens[0].probabilities[:] = probabilities[1:] + probabilities[:1]
    write_manifest(folder, manifest)


CASES: list[tuple[Callable[[Path, Manifest], None], str]] = [
    (half_copied, "the model server could not load it: NOT_FOUND"),
    (tampered, "the files differ from the manifest: saved_model.pb has"),
    (without_weights, "the files differ from the manifest: variables/"),
    (unreadable_manifest, "the manifest is not valid: the manifest's 100 bytes are not a serialized"),
    (manifest_of_another_model, "the manifest is of liver version"),
    (manifest_of_another_version, f"the manifest is of {MODEL} version 1, but the model server gave it for"),
    (unknown_transform, "transform.revision is 99, this code implements 1 and 2"),
    (other_goldens, "1 of 4 goldens differ: glioma-0: a probability is off by"),
]


def publish(root: Path, number: int, change: Callable[[Path, Manifest], None]) -> None:
    """Puts a copy of version 1, changed, into the repository by one rename."""
    staged = root / MODEL / f".staging-{number}"
    shutil.copytree(root / MODEL / "1", staged)
    manifest = read_manifest(staged)
    manifest.version = number
    write_manifest(staged, manifest)
    change(staged, manifest)
    staged.rename(root / MODEL / str(number))


async def test_each_has_its_own_reason_and_stable_goes_on(toy_repository: Path, tmp_path: Path) -> None:
    root = tmp_path / "models"
    shutil.copytree(toy_repository, root)
    config = default_config(MODEL, root / MODEL)
    model = config.model_config_list.config[0]
    model.model_version_policy.all.CopyFrom(tfs_pb2.ServableVersionPolicy.All())
    write_config(root / "models.config", config)
    flags = [f"--model_config_file={root / 'models.config'}", *MODEL_SERVER_FLAGS]
    with running_model_server(flags, tmp_path) as server:
        command = [
            script("neurogate-gateway"),
            "--listen=127.0.0.1:0",
            f"--backend-address={server.address}",
            f"--repository={root}",
            "--release-mode=latest",
        ]
        with running(command) as gateway:
            target = gateway.wait_for(r'"event": "listening".*"address": "([^"]+)"').group(1)
            early = Callers(target)
            await early.until_there(server.address, 1, READY)
            await early.close()
            async with steady_callers(target, count=2, streams=0) as callers:
                for number, (change, expected) in enumerate(CASES, start=2):
                    publish(root, number, change)
                    reason = await callers.until_there(server.address, number, REJECTED)
                    assert expected in reason
                    assert str(root) not in reason
                await callers.until_answered(10)
                publish(root, len(CASES) + 2, lambda *_: None)
                await callers.until_there(server.address, len(CASES) + 2, READY)
                await callers.until_answered(10)
            assert callers.failures == []
            assert {version for _, version, _, _ in callers.answers} == {1, len(CASES) + 2}
            # The good one that came last is a copy of the first.
            assert len({(kind, scores) for kind, _, _, scores in callers.answers}) == min(KINDS, 2)
        for kind in (
            *("load_failed", "files_differ", "manifest_invalid", "manifest_of_another"),
            *("transform_unknown", "goldens_differ"),
        ):
            assert f'"event": "version_rejected", "kind": "{kind}"' in gateway.output
