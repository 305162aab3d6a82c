"""Pytest fixtures around model servers, for the conftest files of the folders that want them."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def serving_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of small models that the transcripts were recorded with; made once in a test run."""
    store = tmp_path_factory.getbasetemp() / "serving-store"
    if not store.exists():
        from neurogate_testing.serving_models import build_store

        build_store(store)
    return store
