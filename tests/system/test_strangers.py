"""A gateway that is pointed at somebody else's model server, in real processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from neurogate_cli.local_stack.servers import MODEL_SERVER_FLAGS
from neurogate_client import Client, enum_name
from neurogate_client.errors import BackendForeignError
from neurogate_core.manifest import read_manifest, write_manifest
from neurogate_testing import images
from neurogate_testing.processes import running, script
from neurogate_testing.release_stack import eventually
from neurogate_testing.serving_process import running_model_server
from neurogate_testing.stack import MODEL


def test_it_is_left_alone_and_named(toy_repository: Path, untouched_repository: Path, tmp_path: Path) -> None:
    # The same number, and another version: somebody else trained it.
    version = toy_repository / MODEL / "1"
    manifest = read_manifest(version)
    manifest.notice = "Of another trainer."
    write_manifest(version, manifest)
    theirs = [
        f"--model_name={MODEL}",
        f"--model_base_path={untouched_repository / MODEL}",
        *MODEL_SERVER_FLAGS,
    ]
    with running_model_server(theirs, tmp_path) as server:
        command = [
            script("neurogate-gateway"),
            "--listen=127.0.0.1:0",
            f"--backend-address={server.address}",
            f"--repository={toy_repository}",
        ]
        with running(command) as gateway:
            target = gateway.wait_for(r'"event": "listening".*"address": "([^"]+)"').group(1)
            gateway.wait_for('"event": "model_server_foreign"')
            with Client(target) as client:
                (named,) = client.list_model_servers()
                assert (named.address, named.connected) == (server.address, True)
                assert "its version 1 has a manifest with digest" in named.foreign_reason
                rejected = eventually(
                    lambda: [
                        each
                        for each in client.list_model_versions()
                        if enum_name(each, "state") == "REJECTED"
                    ]
                )
                assert [each.version for each in rejected] == [1]
                with pytest.raises(BackendForeignError, match="somebody else's"):
                    client.classify(images.brain_slice())
        assert '"event": "model_server_told"' not in gateway.output
        # A gateway of theirs finds its server as it was.
        command[-1] = "--release-mode=latest"
        with running(command) as gateway:
            target = gateway.wait_for(r'"event": "listening".*"address": "([^"]+)"').group(1)
            with Client(target) as client:
                client.wait_until_ready(60)
                assert client.classify(images.brain_slice()).model.version == 1
