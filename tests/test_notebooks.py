"""The notebooks run from beginning to end on the demo's data, and are stored without outputs."""

import os
import sys
from pathlib import Path

import nbformat
import pytest
from documents import ROOT
from nbclient import NotebookClient

FOLDER = ROOT / "notebooks"

# What is shorter here.
SHORTER = {
    "--num-train 40 --num-val 8": "--num-train 16 --num-val 2",
    "SOLVER.MAX_ITER 10": "SOLVER.MAX_ITER 2",
    "--trainer.max_steps 10": "--trainer.max_steps 2",
}

# What each leaves, and how many pictures it shows.
LEFT = {
    "detector_on_your_json": ("output/detector/evaluation/results.json", 2),
    "segmenter_on_your_masks": ("output/segmenter/checkpoints/best.ckpt", 2),
    "design_to_detector": ("output/mine/model_final.pth", 2),
}


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def test_they_are_these():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(LEFT)


@pytest.mark.parametrize("name", LEFT)
def test_no_outputs_are_stored(name):
    notebook = read(name)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.outputs for cell in code] == [[]] * len(code)
    assert {cell.execution_count for cell in code} == {None}


@pytest.mark.parametrize("name", LEFT)
def test_it_runs(name, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / "jupyter"))
    notebook = read(name)
    for cell in notebook.cells:
        for long, short in SHORTER.items():
            cell.source = cell.source.replace(long, short)
    place = {"metadata": {"path": str(tmp_path)}}
    client = NotebookClient(notebook, kernel_name="python3", resources=place, allow_errors=True)
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    printed = "".join(output.get("text", "") for output in outputs)  # by commands, too
    assert not [output for output in outputs if output.output_type == "error"], printed
    file, count = LEFT[name]
    assert (tmp_path / file).is_file(), printed
    assert sum("image/png" in output.get("data", ()) for output in outputs) == count
