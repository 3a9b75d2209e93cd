"""Every notebook runs from top to bottom, and the pictures it shows are there."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
# What a cell with the tag `parameters` is replaced by, where the notebook as it is takes minutes; in `make test-all`.
QUICK = {"02_modes_of_a_real_posterior": "WIDTHS, NUM_CHAINS, NUM_WARMUP, NUM_DRAWS = (2,), 4, 100, 100"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.slow if path.stem in QUICK else (), id=path.stem) for path in NOTEBOOKS],
)
def test_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MANYMODES_DATA", raising=False)
    notebook = nbformat.read(path, as_version=4)
    parameters = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(parameters) == (path.stem in QUICK)
    for cell in parameters:
        cell.source = QUICK[path.stem]
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in shown)
    assert not [output["text"] for output in shown if output.get("name") == "stderr"]


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS
