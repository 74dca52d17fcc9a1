"""What a newcomer gets wrong with the other tools: one line that says what to do."""

import json
import os
import resource
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from troubleshooting import assert_documented

from regnet_backbones import failures

# A row whose lists are not of one length.
ANYNET = {
    "stage_width": [8, 16, 24, 32],
    "stage_depth": [1, 2],
    "stage_stride": [2, 2, 2, 2],
    "stage_group_width": [8, 8, 8, 8],
    "stage_bottleneck_width": [8, 16, 24, 32],
}

TOOLS = Path(__file__).parents[1] / "tools"


def run(tool, *arguments):
    """Run a tool in this process and return its exit status."""
    return runpy.run_path(str(TOOLS / f"{tool}.py"))["main"]([str(each) for each in arguments])


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Return a folder to be in, with a file that is no folder, a page, and an empty folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "page.pth").write_text("<html>not found</html>")
    (tmp_path / "text.json").write_text("no json")
    for name, content in (
        ("none_kept", {"designs": [{"kept": False}], "chosen": None}),
        ("cut", {"designs": [{"kept": True}], "chosen": 7}),
        ("anynet", [ANYNET]),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("benchmark --variants regnety_31", "did you mean 'regnety_032'"),
        ("benchmark --sizes x12", "a size is a side, 512, or height x width, 800x1344; got 'x12'"),
        ("benchmark --device cuda", "--device cuda: torch sees no GPU here; use --device cpu"),
        ("benchmark --runs 0", "--runs must be at least 1, got 0"),
        ("benchmark --entries ourz", "--entries: no row 'ourz'; did you mean 'ours'"),
        ("benchmark --output file/x", "the folder of --output must be a folder, got 'file'"),
        ("export regnety_31 --output x.onnx", "did you mean 'regnety_032'"),
        ("export regnetx_002 --output x.tflite", "--output must end in one of .onnx, .pt2, .ts"),
        ("export regnetx_002 --output none/x.onnx", "no folder 'none' to write 'x.onnx' in; make"),
        ("export regnetx_002 --output file/x.onnx", "the folder of the file must be a folder, got"),
        (
            "export regnetx_002 --output x.pt2 --image-size 0 32",
            "image_size must be multiples of 1",
        ),
        ("export other --output x.onnx", "no checkpoint in 'other'"),
        ("design show regnety_31", "did you mean 'regnety_032'"),
        (
            "design show regnetx_002 --picture file/x.png",
            "the folder of --picture must be a folder",
        ),
        ("design show regnetx_002 --picture x.abc", "a chart ends in .png or .svg, got '.abc' in"),
        ("design show --w0 48 --wa 28 --wm 0.8 --depth 7 --group-width 8", "w_m must be above 1"),
        ("design show --from none.json", "No such file or directory: 'none.json'"),
        ("design edf text.json", "is not a JSON file: "),
        ("design show --from none_kept.json", "search of none_kept.json has chosen no row; give"),
        ("design scale --factor 2 --from cut.json", '"chosen" of cut.json must be a row, 0 to 0,'),
        ("design show --from anynet.json", "stage_depth must be a list of 4 numbers, got [1, 2]"),
        ("design sample --space RegNetQ --count 2", "'RegNetQ'; did you mean 'RegNetY'? known are"),
        ("convert_weights page.pth x.pth --to timm", "is a web page, not the weights; download"),
        ("convert_weights none.pth x.pth --to timm", "no weights file at 'none.pth'"),
        ("convert_weights page.pth file/x.pth --to timm", "the folder of the output must be a fol"),
        ("make_shapes --output other", "exists and is not a shapes dataset"),
        ("make_shapes --output file/x", "the folder of --output must be a folder, got 'file'"),
        ("make_shapes --output x --image-size 4", "image_size must be a whole number of at least"),
        ("prepare_ade20k other", "there are no masks *.png in 'other/annotations/training'; give"),
    ],
)
def test_a_command_line_is_mended_by_what_is_said_of_it(line, said, here, capfd):
    assert run(*line.split()) == 2
    assert said in assert_documented(capfd.readouterr().err)


@pytest.mark.parametrize(
    ("missing", "line"),
    [
        ("tabulate", "design sample --count 2 --output x"),
        ("tabulate", "design search --count 2 --output x"),
        ("tqdm", "design sample --count 2 --output x"),
        ("tqdm", "design search --count 2 --output x"),
    ],
)
def test_what_prints_results_is_missed_before_there_are_any(missing, line, monkeypatch, capfd):
    def work(*_, **__):
        raise AssertionError("the work has begun")

    monkeypatch.setitem(sys.modules, missing, None)
    for name in ("sample", "_search"):
        monkeypatch.setattr(f"regnet_backbones.cli.design_search.{name}", work)
    assert run(*line.split()) == 2
    said = assert_documented(capfd.readouterr().err)
    assert f"take {missing}, which is not installed; `pip install 'regnet_backbones[" in said


def test_an_export_that_needs_too_much_memory(here, capfd):
    size = ("--image-size", 800_000, 800_000)
    assert run("export", "regnetx_002", "--output", "x.ts", *size) == 2
    said = assert_documented(capfd.readouterr().err)
    assert said.startswith("out of memory (")
    assert said.endswith("take a smaller --image-size")
    assert not (here / "x.ts").exists()


@pytest.mark.parametrize("suffix", [".ts", ".pt2"])  # whose writers in torch abort the process
def test_a_full_disk_leaves_no_half_of_a_file(suffix, here, capfd):
    file = here / f"x{suffix}"
    file.write_bytes(b"before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        assert run("export", "regnetx_002", "--output", file, "--image-size", 64, 64) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "make space" in assert_documented(capfd.readouterr().err)
    assert file.read_bytes() == b"before"
    assert [path.name for path in here.glob("*x.*")] == [file.name]


@pytest.mark.parametrize(
    ("tool", "patched", "arguments"),
    [
        ("design", "cli.design._variant_row", ("list",)),
        ("benchmark", "benchmark.command._benchmark", ("--runs", "1")),
        ("export", "inference.export._export", ("regnetx_002", "--output", "x.ts")),
    ],
)
def test_ctrl_c_ends_in_a_line(tool, patched, arguments, monkeypatch, capfd):
    def interrupt(*_):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(f"regnet_backbones.{patched}", interrupt)
    assert run(tool, *arguments) == 130
    printed = capfd.readouterr().err.strip()
    assert printed.startswith("interrupted")
    assert "\n" not in printed


def test_what_nobody_reads_ends_as_other_tools_do():
    command = [sys.executable, str(TOOLS / "design.py"), "show", "regnety_032"]
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write) as stdout:
        ended = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_a_broken_pipe_between_processes_is_no_reader_that_has_ended(capfd):
    def command():
        raise BrokenPipeError(32, "Broken pipe")

    assert failures.reported(command) == 2
    assert capfd.readouterr().err == "error: Broken pipe\n"
