"""What a newcomer gets wrong with the other tools: one line that says what to do."""

import json
import resource
import runpy
import signal
from pathlib import Path

import pytest
from troubleshooting import assert_documented

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
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("benchmark --variants regnety_31", "'regnety_032'"),
        ("benchmark --sizes x12", "'x12'"),
        ("benchmark --device cuda", "--device"),
        ("benchmark --runs 0", "--runs"),
        ("benchmark --entries ourz", "'ours'"),
        ("benchmark --output file/x", "--output"),
        ("export regnety_31 --output x.onnx", "'regnety_032'"),
        ("export regnetx_002 --output none/x.onnx", "'none'"),
        ("export regnetx_002 --output file/x.onnx", "'file'"),
        ("export regnetx_002 --output x.pt2 --image-size 0 32", "image_size"),
        ("export other --output x.onnx", "'other'"),
        ("design show regnety_31", "'regnety_032'"),
        ("design show regnetx_002 --picture file/x.png", "--picture"),
        ("design show regnetx_002 --picture x.abc", "'x.abc'"),
        ("design show --w0 48 --wa 28 --wm 0.8 --depth 7 --group-width 8", "w_m"),
        ("design show --from none.json", "none.json"),
        ("design edf text.json", "text.json"),
        ("design show --from none_kept.json", "none_kept.json"),
        ("design scale --factor 2 --from cut.json", "cut.json"),
        ("design sample --space RegNetQ --count 2", "'RegNetY'"),
        ("convert_weights page.pth x.pth --to timm", "page.pth"),
        ("convert_weights none.pth x.pth --to timm", "none.pth"),
        ("convert_weights page.pth x.pth --to tim", "timm"),
        ("convert_weights page.pth file/x.pth --to timm", "'file'"),
        ("make_shapes --output other", "other"),
        ("make_shapes --output file/x", "--output"),
        ("make_shapes --output x --image-size 4", "image_size"),
        ("prepare_ade20k other", "'other/annotations/training'"),
        ("train_net --config-file none/x.yaml", "none/x.yaml"),
        ("evaluate none", "'none'"),
        ("predict other file", "'other'"),
        ("report none", "'none'"),
    ],
)
def test_a_wrong_command_line_ends_in_a_line_that_names_what_is_wrong(line, named, here, capfd):
    assert run(*line.split()) == 2
    assert named in assert_documented(capfd.readouterr().err)


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
    assert "File too large" in assert_documented(capfd.readouterr().err)
    assert file.read_bytes() == b"before"
    assert [path.name for path in here.glob("*x.*")] == [file.name]


def test_ctrl_c_ends_in_a_line(monkeypatch, capfd):
    def interrupt(_):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("regnet_backbones.cli.export._find", interrupt)
    assert run("export", "regnetx_002", "--output", "x.ts") == 130
    assert capfd.readouterr().err == "interrupted\n"
