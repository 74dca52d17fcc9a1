"""What a test does to its process is undone after it."""

import logging
import os

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from process_state import process_state_kept

NAME = "of_a_test_of_the_process"


def test_what_was_changed_is_as_it_was(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    precision = torch.get_float32_matmul_precision()
    DatasetCatalog.register(NAME, list)
    MetadataCatalog.get(NAME).thing_classes = ["one"]
    logger = logging.getLogger(NAME)
    logger.setLevel(logging.INFO)
    with process_state_kept():
        logger.setLevel(logging.ERROR)
        logger.propagate = False
        os.environ["PL_GLOBAL_SEED"] = "4"
        os.environ[NAME] = "new"
        torch.set_float32_matmul_precision("medium")
        torch.use_deterministic_algorithms(True)
        DatasetCatalog.remove(NAME)
        DatasetCatalog.register(f"{NAME}_2", list)
        MetadataCatalog.get(NAME).json_file = "leaked.json"
        MetadataCatalog.get(f"{NAME}_2").json_file = "leaked.json"
    assert (logger.level, logger.propagate) == (logging.INFO, True)
    assert os.environ["PL_GLOBAL_SEED"] == "3"
    assert NAME not in os.environ
    assert torch.get_float32_matmul_precision() == precision
    assert not torch.are_deterministic_algorithms_enabled()
    assert DatasetCatalog.get(NAME) == []
    assert MetadataCatalog.get(NAME).as_dict() == {"name": NAME, "thing_classes": ["one"]}
    assert f"{NAME}_2" not in {*DatasetCatalog.list(), *MetadataCatalog.list()}
