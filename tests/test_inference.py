"""What a command line means: which model, which images; and results as JSON."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from regnet_backbones.cli.models import check_options, evaluate_command, predict_command
from regnet_backbones.errors import MissingFileError, UserError
from regnet_backbones.runs.confusion import Confusion
from regnet_backbones.runs.image_files import find_images, output_names
from regnet_backbones.runs.results import write_results
from regnet_backbones.runs.trained import Trained, find_trained


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


# Models


@pytest.fixture
def detector(tmp_path):
    run = tmp_path / "detector"
    touch(run, "config.yaml", "model_0000099.pth", "model_final.pth")
    (run / "last_checkpoint").write_text("model_final.pth")
    return run


def test_a_detectors_run_is_its_newest_checkpoint(detector):
    expected = Trained("detector", detector / "model_final.pth", detector / "config.yaml")
    assert find_trained(detector) == find_trained(str(detector)) == expected
    assert expected.run_folder == detector
    # Training went on after it was done once, and was interrupted.
    (detector / "last_checkpoint").write_text("model_0000099.pth\n")
    assert find_trained(detector).checkpoint == detector / "model_0000099.pth"


@pytest.mark.parametrize("last", ["deleted.pth", "", None])
def test_without_a_newest_checkpoint_it_is_the_final_one(detector, last):
    (detector / "last_checkpoint").unlink()
    if last is not None:
        (detector / "last_checkpoint").write_text(last)
    assert find_trained(detector).checkpoint == detector / "model_final.pth"


def test_a_last_checkpoint_is_looked_for_beside_the_file_that_names_it(detector):
    (detector / "last_checkpoint").write_text("/of/another/machine/model_0000099.pth")
    assert find_trained(detector).checkpoint == detector / "model_0000099.pth"


def test_a_segmenters_run_is_its_best_checkpoint(tmp_path):
    # With its logger switched off, Lightning writes a config.yaml there as detectron2 does.
    touch(tmp_path, "config.yaml", "checkpoints/last.ckpt")
    assert find_trained(tmp_path).checkpoint == tmp_path / "checkpoints" / "last.ckpt"
    touch(tmp_path, "checkpoints/best.ckpt")
    found = find_trained(tmp_path)
    assert found == Trained("segmenter", tmp_path / "checkpoints" / "best.ckpt", None)
    assert found.run_folder == tmp_path


def test_a_checkpoint_is_of_the_kind_that_its_suffix_says(detector, tmp_path):
    touch(tmp_path, "other/R50.PKL", "my.yaml", "one.ckpt")
    found = find_trained(tmp_path / "other" / "R50.PKL", config_file=tmp_path / "my.yaml")
    assert (found.kind, found.config_file) == ("detector", tmp_path / "my.yaml")
    assert find_trained(detector / "model_0000099.pth").config_file == detector / "config.yaml"
    assert find_trained(tmp_path / "one.ckpt").kind == "segmenter"
    assert find_trained(tmp_path / "one.ckpt").run_folder == tmp_path


@pytest.mark.parametrize(
    ("path", "options", "error", "message"),
    [
        ("gone", {}, MissingFileError, "gone'"),
        ("empty", {}, MissingFileError, "model_final.pth.*folder of a training"),
        ("best", {}, MissingFileError, r"pass \S*best/model_0000019.pth or \S*/model_best.pth"),
        ("both", {}, UserError, r"checkpoints/last.ckpt.*model_fin"),
        ("lone/model.pth", {}, MissingFileError, "--config-file"),
        ("lone/model.pth", {"config_file": "gone.yaml"}, MissingFileError, "'gone"),
        ("both/checkpoints/last.ckpt", {"config_file": "a"}, UserError, "--config-file"),
        ("both/config.yaml", {}, UserError, "config.yaml"),
    ],
)
def test_what_is_no_model_is_refused(tmp_path, path, options, error, message):
    touch(tmp_path, "empty/config.yaml", "lone/model.pth")
    touch(tmp_path, "best/config.yaml", "best/model_best.pth", "best/model_0000019.pth")
    touch(tmp_path, "both/config.yaml", "both/model_final.pth", "both/checkpoints/last.ckpt")
    with pytest.raises(error, match=message):
        find_trained(tmp_path / path, **options)


# Images


@pytest.fixture
def photos(tmp_path, monkeypatch):
    touch(tmp_path, "photos/b.png", "photos/a.JPG", "photos/notes.txt", "photos/deep/c.webp")
    touch(tmp_path, "odd[1].png", "scan.xyz", "photos/._b.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["photos"], ["photos/a.JPG", "photos/b.png"]),
        (["photos/*"], ["photos/a.JPG", "photos/b.png"]),
        (["photos/**/*"], ["photos/a.JPG", "photos/b.png", "photos/deep/c.webp"]),
        (["photos/*.png", "photos"], ["photos/b.png", "photos/a.JPG"]),
        (["photos/b.png", "photos/../photos/b.png"], ["photos/b.png"]),
        # A file is an image whatever it is called, and its name is no pattern.
        (["scan.xyz", "odd[1].png"], ["scan.xyz", "odd[1].png"]),
    ],
)
def test_images_are_found(photos, inputs, expected):
    assert find_images(inputs) == [Path(path) for path in expected]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gone.png", "'gone.png'"),
        ("photos/*.gif", r"'photos/\*.gif'"),
        ("empty", "folder 'empty'"),
    ],
)
def test_an_input_that_matches_nothing_is_named(photos, text, message):
    (photos.parent / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=message):
        find_images(["photos", text])


@pytest.mark.parametrize(
    ("images", "names"),
    [
        ([], []),
        (["photos/a.jpg"], ["a"]),
        (["photos/a.b.jpg", "photos/a.c.jpg"], ["a.b", "a.c"]),
        (["x/a.jpg", "y/a.jpg", "y/z/a.jpg"], ["x/a", "y/a", "y/z/a"]),
        (["photos/a.jpg", "photos/deep/../../b.jpg"], ["photos/a", "b"]),
        # Also where the name with suffix of one is the name without of another.
        (["a.jpg", "a.png", "a.jpg.png"], ["a.jpg", "a.png", "a.jpg.png"]),
    ],
)
def test_outputs_of_different_images_have_different_names(images, names):
    paths = [Path(image) for image in images]
    assert output_names(paths) == dict(zip(paths, map(Path, names), strict=True))


@pytest.mark.parametrize(
    ("images", "names"),
    [
        (["a.mp4", "b_000000.png"], ["a", "b_000000"]),
        (["a.mp4", "a_000000.png"], ["a.mp4", "a_000000.png"]),
        (["x/a.mp4", "y/a_1000000.png"], ["x/a", "y/a_1000000"]),
        (["a.mp4", "a_000000.mp4", "a_1.png"], ["a", "a_000000", "a_1"]),
    ],
)
def test_outputs_of_frames_have_names_of_their_own(images, names):
    paths = [Path(image) for image in images]
    videos = [path for path in paths if path.suffix == ".mp4"]
    assert output_names(paths, videos) == dict(zip(paths, map(Path, names), strict=True))


# Reports


def test_results_of_both_kinds_have_one_form(tmp_path):
    numbers = {"AP": 12.5, "APl": float("nan"), "list": [float("inf"), (1, "x")], "n": None}
    for kind, frameworks in (
        ("detector", {"detectron2"}),
        ("segmenter", {"lightning", "segmentation_models_pytorch"}),
    ):
        touch(tmp_path, "b.c")
        trained = Trained(kind, tmp_path / "b.c")
        matrix = {"x": Confusion(("a", "b"), [[1, 2], [3, 4]], "pixels")}
        given = {"results": numbers, "settings": {"flip": True}, "confusion": matrix}
        write_results(tmp_path / kind, trained, **given)
        text = (tmp_path / kind / "results.json").read_text()
        content = json.loads(text, parse_constant=pytest.fail)
        assert content.pop("versions").keys() == {"regnet_backbones", "torch"} | frameworks
        assert content == {
            "kind": kind,
            "checkpoint": str(tmp_path / "b.c"),
            "checkpoint_sha256": hashlib.sha256().hexdigest(),
            "results": {"AP": 12.5, "APl": None, "list": [None, [1, "x"]], "n": None},
            "settings": {"flip": True},
            "confusion": {
                "x": {"labels": ["a", "b"], "counts": [[1, 2], [3, 4]], "unit": "pixels"}
            },
        }


# Command lines


@pytest.mark.parametrize(
    ("kind", "parser", "line", "option"),
    [
        ("detector", evaluate_command.parser, "run --flip", "--flip"),
        ("detector", predict_command.parser, "run a.png --scales 2", "--scales"),
        ("segmenter", predict_command.parser, "run a.png --min-score 0", "--min-score"),
        ("segmenter", evaluate_command.parser, "run --val-json a", "--val-json"),
    ],
)
def test_an_option_of_the_other_kind_is_refused(kind, parser, line, option):
    args = parser("").parse_args(line.split())
    check_options(args, "segmenter" if kind == "detector" else "detector")
    with pytest.raises(UserError, match=f"{option} .*{kind}"):
        check_options(args, kind)


def test_an_evaluation_takes_opts_for_both():
    args = evaluate_command.parser("").parse_args(["run", "--opts", "A", "-1"])
    assert args.opts == ["A", "-1"]
    check_options(args, "detector")
    check_options(args, "segmenter")


WITHOUT = """
import importlib.util, sys
stock = importlib.util.find_spec
absent, predicts, *checkpoints = sys.argv[1:]
absent = absent.split(",")
class Finder:
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
sys.meta_path.insert(0, Finder)
importlib.util.find_spec = lambda name, *rest: None if name in absent else stock(name, *rest)
from regnet_backbones.cli.models import evaluate_command
print([evaluate_command([checkpoint], "evaluate") for checkpoint in checkpoints])
importlib.import_module(predicts)
"""


def test_detectron2_is_enough(tmp_path):
    """A segmenter is refused; of a detector its own contents are what is wrong."""
    touch(tmp_path, "a.pth", "a.ckpt")
    (tmp_path / "config.yaml").write_text("DATASETS: {TEST: []}")
    absent = "lightning,jsonargparse,segmentation_models_pytorch,torchmetrics"
    words = [
        absent,
        "regnet_backbones.detection.prediction",
        tmp_path / "a.ckpt",
        tmp_path / "a.pth",
    ]
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT, *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "[2, 2]\n"
    first, second = [x for x in result.stderr.splitlines() if x.startswith("error: ")]
    assert "No module named 'lightning'" in first
    assert "DATASETS.TEST is empty" in second
