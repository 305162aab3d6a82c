"""The flags that are shipped: the same ones everywhere, and all of them known to the embedded server."""

from __future__ import annotations

import json
import re
from pathlib import Path

from neurogate_cli.local_stack.servers import MODEL_SERVER_ENVIRONMENT, MODEL_SERVER_FLAGS
from neurogate_model_server.flags import parse_flags

ROOT = Path(__file__).resolve().parents[3]


def test_the_image_is_started_with_the_same_flags_and_environment() -> None:
    dockerfile = (ROOT / "serving" / "Dockerfile").read_text(encoding="utf-8")
    command = re.search(r"^CMD (\[.*?\])$", dockerfile, re.MULTILINE | re.DOTALL)
    assert command is not None
    given = json.loads(command[1].replace("\\\n", ""))
    assert set(MODEL_SERVER_FLAGS) <= set(given)
    for name, value in MODEL_SERVER_ENVIRONMENT.items():
        assert f"\nENV {name}={value}\n" in dockerfile
    # Never below 16: then a server that is not busy refuses calls too.
    assert all(int(each.partition("=")[2]) >= 64 for each in given if each.startswith("--grpc_max_threads="))


def test_the_documentation_has_a_reason_for_each() -> None:
    text = (ROOT / "docs" / "model-server.md").read_text(encoding="utf-8")
    section = text.partition("## Settings that matter")[2].partition("\n## ")[0]
    for flag in MODEL_SERVER_FLAGS:
        assert f"`{flag}`" in section


def test_the_embedded_server_knows_each() -> None:
    flags, unknown = parse_flags(MODEL_SERVER_FLAGS)
    assert unknown == []
    assert (flags.max_num_load_retries, flags.num_load_threads, flags.num_unload_threads) == (0, 2, 2)
