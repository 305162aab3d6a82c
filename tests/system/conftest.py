"""Real services for the system tests: one shared, and one for each test that changes it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from neurogate_testing.databases import postgresql_server, records_url
from neurogate_testing.stack import Stack, publish_toy, running_stack

__all__ = ["own_stack", "postgresql_server", "records_url", "stack", "toy_repository"]


@pytest.fixture(scope="session")
def toy_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with version 1; copy it rather than change it."""
    root = tmp_path_factory.mktemp("models")
    assert publish_toy(root) == 1
    return root


@pytest.fixture(scope="session")
def stack(toy_repository: Path) -> Iterator[Stack]:
    """A service that several tests share; they leave its repository alone."""
    with running_stack(toy_repository) as running:
        yield running


@pytest.fixture
def own_stack(toy_repository: Path, tmp_path: Path) -> Iterator[Stack]:
    """A service of the test's own, at version 1."""
    root = tmp_path / "models"
    shutil.copytree(toy_repository, root)
    with running_stack(root) as running:
        yield running
