"""The notebook tells its story from a clean kernel to a report, on a small phantom and a tiny network."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from neurogate_core.manifest import verify_version

NOTEBOOK = Path(__file__).parents[2] / "trainer" / "notebooks" / "brain_tumor_mri.ipynb"
SMALL = {"PER_CLASS": "24", "IMAGE_SIZE": "64", "EPOCHS": "1", "FOREIGN": "6", "WEIGHTS": "offline"}


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_is_committed_without_outputs(notebook):
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}


def test_uses_public_names_only(notebook):
    source = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert "._" not in source
    assert "import _" not in source


@pytest.mark.slow
@pytest.mark.timeout(600)
# The kernel's client sets file modes and event loops in ways that newer libraries deprecate.
@pytest.mark.filterwarnings("ignore::DeprecationWarning:(jupyter_client|nbclient|zmq|tornado|traitlets).*")
def test_runs_to_the_report(notebook, tmp_path, monkeypatch):
    for name, value in SMALL.items():
        monkeypatch.setenv(f"NEUROGATE_NOTEBOOK_{name}", value)
    monkeypatch.setenv("NEUROGATE_NOTEBOOK_WORK", str(tmp_path / "work"))
    client = NotebookClient(
        notebook, timeout=280, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()

    version = tmp_path / "work" / "repository" / "brain_tumor" / "1"
    manifest = verify_version(version)
    assert [entry.id for entry in manifest.classes] == ["glioma", "meningioma", "notumor", "pituitary"]
    [run] = (tmp_path / "work").glob("notebook-*")
    assert manifest.lineage.run_id == run.name
    assert manifest.metrics.support == len(np.load(run / "predictions.npz")["paths"]) > 0
    assert json.loads((run / "metrics.json").read_text())["ood"]["sources"]
    report = (run / "report.html").read_text(encoding="utf-8")
    assert "brain_tumor, version 1" in report
    assert "teaches nothing about patients" in report
    assert "missing" not in report
    images = sum(
        "image/png" in output.get("data", {})
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )
    assert images >= 15
