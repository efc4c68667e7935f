"""The notebook that teaches the API runs from top to end in a real kernel, on real data."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("sklearn")

NOTEBOOK = Path(__file__).parents[3] / "notebooks" / "getting-started.ipynb"


@pytest.fixture(scope="module")
def executed(home):
    """The notebook after a run in a fresh kernel, in a folder of its own."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    folder = home / "notebook"
    folder.mkdir()
    client = nbclient.NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    return notebook


def _output(notebook, source: str) -> str:
    """All that the cell whose source begins so has printed or shown, as text."""
    (cell,) = [one for one in notebook.cells if one.source.startswith(source)]
    found = []
    for output in cell.outputs:
        data = output.get("data", {})
        found.append(
            output.get("text", "") + data.get("text/plain", "") + data.get("text/html", "")
        )
    return "\n".join(found)


@pytest.mark.slow
def test_the_notebook_runs_and_learns_something(executed):
    assert _output(executed, "import mlsched").strip() == "6"
    assert "accuracy 0." in _output(executed, "for line in job.logs")
    shape, accuracy = ast.literal_eval(_output(executed, "model = job.result()").strip())
    assert shape == (64, 10)
    assert accuracy > 0.9


@pytest.mark.slow
def test_the_notebook_shows_what_its_text_says(executed):
    html = _output(executed, "job")
    assert "SUCCEEDED" in html
    assert "<table" in html
    assert _output(executed, "run(plan).published").strip() == "False"
    assert "raised in job broken" in _output(executed, "def broken")
    assert "first" in _output(executed, "first = ml.submit")
    assert "Cancelled" in _output(executed, "second.cancel()")
    assert _output(executed, "again = ml.get").strip() == "('SUCCEEDED', True)"


def test_the_notebook_is_kept_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
