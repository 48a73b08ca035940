"""The notebooks: each runs from top to bottom, and is kept with the outputs of such a run.

One that measures has a cell with the tag ``parameters``, as papermill has it: the tests put small values in its place.
"""

from __future__ import annotations

import asyncio
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

import lmdbpipe

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))
SMALL = {"streaming_throughput.ipynb": "import gc, lmdbpipe\ngc.freeze()\nfull, folder = False, None"}
"""What the notebooks that measure run with here; what they then say is not what is kept.

They ask for many collections of garbage, from which what the imports made is kept out.
"""


def read(name: str) -> Any:
    """Read a notebook."""
    return nbformat.read(FOLDER / name, as_version=4)  # type: ignore[no-untyped-call]


def said(notebook: Any) -> list[list[str]]:
    """What each cell prints and returns as text, and what kinds of pictures it shows."""
    return [[text for output in cell.get("outputs", []) for text in _said(output)] for cell in notebook.cells]


def _said(output: Mapping[str, Any]) -> list[str]:
    if output["output_type"] == "stream":
        return [output["text"]] if output["name"] == "stdout" else []  # stderr holds progress bars
    pictures = sorted(kind for kind in output["data"] if kind.startswith("image/"))
    return pictures or [output["data"]["text/plain"]]


async def run(name: str, folder: Path) -> Any:
    """Run a notebook in a folder, with small values if it measures."""
    notebook = read(name)
    if small := SMALL.get(name):
        (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
        cell.source = small
    resources = {"metadata": {"path": str(folder)}}
    await NotebookClient(notebook, timeout=240, kernel_name="python3", resources=resources).async_execute()
    return notebook


async def run_all(folders: Mapping[str, Path]) -> dict[str, Any]:
    """Run notebooks side by side; each as it was run, or the exception that it ended with."""
    found = await asyncio.gather(*(run(name, folder) for name, folder in folders.items()), return_exceptions=True)
    return dict(zip(folders, found, strict=True))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An empty folder for each notebook."""
    return {name: tmp_path_factory.mktemp("notebook") for name in NOTEBOOKS}


@pytest.fixture(scope="module")
def runs(folders: dict[str, Path]) -> dict[str, Any]:
    """All notebooks as they were run, or the exceptions that they ended with."""
    paths = [str(Path(lmdbpipe.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        warnings.simplefilter("default")  # the client has its own
        return asyncio.run(run_all(folders))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_runs_and_says_what_is_kept(name: str, runs: dict[str, Any], folders: dict[str, Path]) -> None:
    """A fresh run succeeds, with the text and the pictures that are kept in the notebook, and leaves no file behind."""
    if isinstance(runs[name], BaseException):
        raise runs[name]
    found, kept = said(runs[name]), said(read(name))
    if name in SMALL:  # figures differ from run to run: which cells show pictures does not
        found, kept = (
            [[text for text in texts if text.startswith("image/")] for texts in outputs] for outputs in (found, kept)
        )
    assert found == kept
    assert not list(folders[name].iterdir())


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_is_kept_clean(name: str) -> None:
    """It was run once in order, shows pictures, and tells nothing of the machine on which it ran."""
    cells = [cell for cell in read(name).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.get("name") == "stderr" or output.output_type == "error"]
    assert sum(any(kind.startswith("image/") for kind in output.get("data", {})) for output in outputs) >= 4
    texts = [output["text"] for output in outputs if output.output_type == "stream"]
    texts += [output["data"].get("text/plain", "") for output in outputs if "data" in output]
    assert not [text for text in texts if re.search(r"(^|[\s'\"])(/\w+/|[A-Z]:\\)", text)]
