"""Real services for the system tests: one shared, and one for each test that changes it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from neurogate_testing.databases import postgresql_server, records_url
from neurogate_testing.stack import Stack, publish_toy, running_stack

__all__ = [
    "own_stack",
    "postgresql_server",
    "records_url",
    "stack",
    "toy_repository",
    "untouched_repository",
]


@pytest.fixture(scope="session")
def untouched_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with version 1, only to be copied: whatever serves one leaves its traces there."""
    root = tmp_path_factory.mktemp("untouched")
    assert publish_toy(root) == 1
    return root


@pytest.fixture
def toy_repository(untouched_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of the test's own, with version 1."""
    return Path(shutil.copytree(untouched_repository, tmp_path_factory.mktemp("models"), dirs_exist_ok=True))


@pytest.fixture(scope="session")
def stack(untouched_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A service that several tests share; they leave its repository alone."""
    root = tmp_path_factory.mktemp("shared")
    shutil.copytree(untouched_repository, root, dirs_exist_ok=True)
    with running_stack(root) as running:
        yield running


@pytest.fixture
def own_stack(toy_repository: Path) -> Iterator[Stack]:
    """A service of the test's own, at version 1."""
    with running_stack(toy_repository) as running:
        yield running
