"""Loggers of Lightning in the training of a detector, and pictures in them."""

import csv
import sys
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import yaml
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from small_training import draw_images, rows, small_config, train

from regnet_backbones.detection.config import read_config
from regnet_backbones.detection.config_checks import check_config
from regnet_backbones.detection.training.loggers import build_loggers
from regnet_backbones.detection.training.trainer import WriteMetrics
from regnet_backbones.errors import UserError
from regnet_backbones.runs.look import log_picture

CSV = "lightning.pytorch.loggers.CSVLogger"


class PictureLogger(CSVLogger):
    """A logger that takes pictures, as W&B's does."""

    pictures: ClassVar = []

    def log_image(self, key, images, step=None):
        self.pictures += [(key, np.asarray(image).shape, step) for image in images]


@pytest.fixture(scope="module", autouse=True)
def images(tmp_path_factory):
    draw_images(tmp_path_factory.mktemp("images"))


def logged(folder):
    """Return the values of CSV files, of all versions, by step: a list, to see repeated ones."""
    found = {}
    for file in sorted(folder.rglob("metrics.csv")):
        for row in csv.DictReader(file.open()):
            found.setdefault(int(row.pop("step")), []).append({k: v for k, v in row.items() if v})
    return found


def test_a_csv_logger_has_what_metrics_json_has(tmp_path):
    train(small_config(tmp_path, "LOGGERS", [CSV]))
    found = logged(tmp_path)
    for row in rows(tmp_path):
        ((values),) = found[row["iteration"]]
        for name in ("total_loss", "lr"):
            assert float(values[name]) == row[name]
    assert "BASE_LR" in (tmp_path / "lightning_logs/version_0/hparams.yaml").read_text()


def test_a_resumed_run_gives_nothing_twice(tmp_path, monkeypatch):
    before_train = WriteMetrics.before_train

    def write_every_iteration(self):
        before_train(self)
        self._period = 1

    monkeypatch.setattr(WriteMetrics, "before_train", write_every_iteration)
    cfg = small_config(tmp_path, "LOGGERS", [CSV], "SOLVER.CHECKPOINT_PERIOD", 2)
    train(cfg, stop_after=3)
    train(cfg, resume=True)
    found = logged(tmp_path)
    assert {step: len(values) for step, values in found.items()} == dict.fromkeys(range(5), 1)


def test_a_stopped_run_is_not_a_success(tmp_path, monkeypatch):
    ends = []
    monkeypatch.setattr(CSVLogger, "finalize", lambda self, status: ends.append(status))
    cfg = small_config(tmp_path, "LOGGERS", [CSV])
    train(cfg, signal_in=2)
    train(cfg, resume=True)
    assert ends == ["failed", "success"]


def test_losses_do_not_change(tmp_path):
    plain, _ = train(small_config(tmp_path / "plain"))
    assert train(small_config(tmp_path / "csv", "LOGGERS", [CSV]))[0] == plain


def test_pictures_of_an_evaluation_reach_the_logger(tmp_path, monkeypatch):
    monkeypatch.setattr(PictureLogger, "pictures", [])
    entry = {"class_path": f"{__name__}.PictureLogger", "init_args": {"name": "mine"}}
    cfg = small_config(tmp_path, "LOGGERS", [entry], "VIS_PERIOD", 2)
    train(cfg)
    assert (tmp_path / "mine").is_dir()
    assert {step for _, _, step in PictureLogger.pictures} == {0, 2, 4}
    assert {len(shape) for _, shape, _ in PictureLogger.pictures} == {3}


def test_a_yaml_file_names_loggers_with_arguments(tmp_path):
    entry = {"class_path": "CSVLogger", "init_args": {"name": "here", "save_dir": str(tmp_path)}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"LOGGERS": [entry]}))
    (built,) = build_loggers(read_config(tmp_path / "config.yaml"))
    assert (type(built), built.name) == (CSVLogger, "here")


@pytest.mark.parametrize(
    "entry",
    [
        "no_such_package.Logger",
        "lightning.pytorch.loggers.NoLogger",
        "builtins.print",
        {"class_path": CSV, "init_args": {"nonsense": 1}},
        {"init_args": {}},
        {"class_path": CSV, "arguments": {}},
        3,
    ],
)
def test_a_wrong_logger_is_an_error_of_a_training_alone(entry, tmp_path):
    cfg = small_config(tmp_path, "LOGGERS", [entry])
    with pytest.raises(UserError, match="LOGGERS"):
        check_config(cfg, training=True)
    check_config(cfg, training=False)
    assert "no_such_package" not in sys.modules


def test_pictures_go_to_the_loggers_that_take_them(tmp_path):
    picture, seen = Image.new("RGB", (8, 4)), []
    log_picture(CSVLogger(tmp_path), "name", picture, 1)  # it takes none
    board = TensorBoardLogger(tmp_path)
    log_picture(board, "name", picture, 1)
    board.experiment.flush()
    client = SimpleNamespace(log_image=lambda *given, **options: seen.append((given, options)))
    log_picture(SimpleNamespace(run_id="run", experiment=client), "name", picture, 7)
    assert seen == [(("run", picture), {"artifact_file": "name/7.png"})]


def test_mlflow_has_numbers_config_and_pictures(tmp_path, monkeypatch):
    client = pytest.importorskip("mlflow.tracking").MlflowClient
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    options = {"experiment_name": "mine", "tracking_uri": f"file:{tmp_path}/runs"}
    entry = {"class_path": "MLFlowLogger", "init_args": options}
    train(small_config(tmp_path / "run", "LOGGERS", [entry], "VIS_PERIOD", 2))
    known = client(options["tracking_uri"])
    (run,) = known.search_runs([known.get_experiment_by_name("mine").experiment_id])
    assert run.data.metrics["total_loss"] == rows(tmp_path / "run")[-1]["total_loss"]
    assert run.data.params["SOLVER.MAX_ITER"] == "5"
    assert list(tmp_path.rglob("artifacts/**/*.png"))
