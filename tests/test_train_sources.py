"""`train-detector --train FORMAT:PATH`: trained, resumed and evaluated on data in any format."""

import json
from pathlib import Path

import labelled_folders as folders
import pytest

from regnet_backbones import config_path
from regnet_backbones.cli.main import main
from regnet_backbones.cli.train import train_detector
from regnet_backbones.detection.run import read_run_config
from regnet_backbones.errors import UserError

CONFIG = ["--config-file", str(config_path("detectron2/quick/faster_rcnn_regnet_small_fpn.yaml"))]
SMALL = ["SOLVER.IMS_PER_BATCH", "2", "TEST.PICTURES", "0", "DATALOADER.NUM_WORKERS", "0"]
SMALL += ["INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64", "MODEL.DEVICE", "cpu"]
SPLIT = ["--val-fraction", "0.5", "--group", "^([ab])_"]


def read(output, *options):
    """Return the config and the data of a run."""
    args = [*CONFIG, *map(str, options), *SMALL, "OUTPUT_DIR", str(output)]
    return read_run_config(train_detector.parser("").parse_args(args))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return folders.write_yolo(tmp_path_factory.mktemp("data"), ("train", "val"))


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Return the folder of a training on a split of YOLO data."""
    output = tmp_path_factory.mktemp("run") / "output"
    options = [*SMALL, "OUTPUT_DIR", str(output), "SOLVER.MAX_ITER", "2"]
    assert main(["train-detector", *CONFIG, "--train", f"yolo:{data}", *SPLIT, *options]) == 0
    return output


def test_a_split_is_kept_with_the_run(trained, data):
    files = sorted((trained / "data").iterdir())
    assert [file.name.partition("-")[0] for file in files] == ["train", "val"]
    names = [{i["file_name"] for i in json.loads(file.read_text())["images"]} for file in files]
    assert set.union(*names) == {f"{name}.png" for name in folders.OBJECTS}
    assert sorted(len({name[0] for name in part}) for part in names) == [1, 1]
    config = (trained / "config.yaml").read_text()
    assert all(str(file) in config for file in files)


@pytest.mark.parametrize("evaluator", ["pycocotools", "faster-coco-eval", None])
def test_an_evaluation_finds_the_split_again_and_names_its_evaluator(
    trained, tmp_path, evaluator, capsys
):
    chosen = [] if evaluator is None else ["--evaluator", evaluator]
    assert main(["evaluate", str(trained), "--output", str(tmp_path), *chosen]) == 0
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["settings"]["evaluator"] == (evaluator or "faster-coco-eval")
    (val,) = (trained / "data").glob("val-*.json")
    assert written["settings"]["json_file"] == str(val)
    assert len(json.loads((tmp_path / "images.json").read_text())["images"]) == 2


def test_a_resumed_run_has_the_same_split(trained, data, capsys):
    before = {path: path.stat().st_mtime_ns for path in (trained / "data").iterdir()}
    options = [*SMALL, "OUTPUT_DIR", str(trained), "SOLVER.MAX_ITER", "3"]
    source = ["--train", f"yolo:{data}", *SPLIT]
    assert main(["train-detector", *CONFIG, *source, "--resume", *options]) == 0
    assert {path: path.stat().st_mtime_ns for path in (trained / "data").iterdir()} == before
    assert "screw" in capsys.readouterr().out  # the table of classes


@pytest.mark.parametrize("name", ["yolo", "voc", "labelme", "coco"])
def test_every_format_becomes_the_data_of_a_config(name, data, tmp_path):
    sources = dict.fromkeys(("train", "val"), f"yolo:{data}")
    if name == "voc":
        lists = {"train": ["a_1", "b_1"], "val": ["a_2"]}
        voc = folders.write_voc(tmp_path / "voc", lists=lists)
        sources = dict.fromkeys(sources, f"voc:{voc}")
    elif name == "labelme":
        sources = {p: f"labelme:{folders.write_labelme(tmp_path / p)}" for p in sources}
    elif name == "coco":
        main(["convert-data", f"yolo:{data}", "--output", str(tmp_path / "coco")])
        images = data.parent / "images"
        sources = {part: f"coco:{tmp_path}/coco/{part}.json,{images}/{part}" for part in sources}
    given = [word for part, source in sources.items() for word in (f"--{part}", source)]
    cfg, splits = read(tmp_path / "out", *given)
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 3
    own = cfg.DATASETS.OWN
    assert (tmp_path / "out" / "data").exists() == (name != "coco")
    for part, split in zip(("TRAIN", "VAL"), splits.values(), strict=True):
        assert Path(own[f"{part}_JSON"]) == split.json_file
        assert all((split.image_root / i["file_name"]).is_file() for i in split.content["images"])
        assert not [d for d in split.defects if d.kind.severity == "error"]
    train, val = (len(split.content["annotations"]) for split in splits.values())
    assert (train, val) == ((4, 1) if name == "voc" else (5, 5))


def test_a_json_is_split(data, tmp_path):
    main(["convert-data", f"yolo:{data}", "--output", str(tmp_path)])
    json_file, images = tmp_path / "train.json", data.parent / "images/train"
    given = ["--train-json", json_file, "--train-images", images, "--val-fraction", 0.25]
    cfg, splits = read(tmp_path / "out", *given)
    assert [len(split.content["images"]) for split in splits.values()] == [3, 1]
    assert cfg.DATASETS.OWN.TRAIN_IMAGES == str(images)
    assert cfg.DATASETS.OWN.TRAIN_JSON != str(json_file)


def test_another_seed_is_another_split(tmp_path):
    """Of which the run folder then holds both, each under its own name."""
    for number in range(8):
        folders.draw(tmp_path / "data" / f"{number}.png")
        text = folders.labelme_text(str(number), [folders.shape("nut", [[1, 1], [9, 9]])])
        folders.write(tmp_path / "data" / f"{number}.json", text)
    given, names = ["--train", f"labelme:{tmp_path / 'data'}", "--val-fraction", 0.5], set()
    for seed in range(4):
        cfg, _ = read(tmp_path / "out", *given, "--split-seed", seed)
        names.add(cfg.DATASETS.OWN.VAL_JSON)
    assert len(names) > 1
    assert {str(path) for path in (tmp_path / "out" / "data").glob("val-*")} == names


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (["--train", "SOURCE"], "--val"),
        (["--val", "SOURCE"], "--train"),
        (["--train", "SOURCE", "--val", "SOURCE", "--val-fraction", "0.2"], "--val-fraction"),
        (["--train", "SOURCE", "--val", "SOURCE", "--group", "(a)"], "--group"),
        (["--train", "SOURCE", "--val-json", "a.json"], "--val-json"),
        (["--val-fraction", "0.2"], "--train"),
        (["--train", "SOURCE", "--val-fraction", "2"], "--val-fraction"),
        (["--train", "yolo:none.yaml", "--val", "SOURCE"], "none.yaml"),
        (["--train", "SOURCE,train", "--val", "SOURCE,train"], "same data"),
    ],
)
def test_sources_that_cannot_be_used_are_errors(given, match, data, tmp_path):
    given = [word.replace("SOURCE", f"yolo:{data}") for word in given]
    with pytest.raises(UserError, match=match):
        read(tmp_path, *given)
    assert not list(tmp_path.rglob("*.json"))


def test_data_are_checked_as_a_json_is(tmp_path, capsys):
    """Polygons are needed for masks; boxes alone are an error of the existing check."""
    data = folders.write_yolo(tmp_path / "data", ("train", "val"))
    masks = str(config_path("detectron2/quick/mask_rcnn_regnet_small_fpn.yaml"))
    given = ["--config-file", masks, "--train", f"yolo:{data}", "--val", f"yolo:{data}"]
    output = ["OUTPUT_DIR", str(tmp_path / "out")]
    assert main(["check-data", *given, *output]) == 2
    assert "MODEL.MASK_ON" in capsys.readouterr().err
    assert (tmp_path / "out" / "data_report.txt").is_file()
