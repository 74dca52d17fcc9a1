"""What belongs to a process and not to a test: kept as it was, whatever a test does to it."""

import contextlib
import logging
import os

import torch


@contextlib.contextmanager
def process_state_kept():
    """Put environment, detectron2's datasets, loggers and torch's switches back as they were.

    A run in this process seeds Lightning for the rest of it (`PL_GLOBAL_SEED`) and registers its
    data under fixed names: tests would find what they do or do not by what ran before them.
    """
    # Here, after conftest's import of regnet_backbones, which it needs.
    from detectron2.data import DatasetCatalog, MetadataCatalog

    environment = dict(os.environ)
    datasets = dict(DatasetCatalog.data)
    metadata = {name: (each, dict(vars(each))) for name, each in MetadataCatalog.data.items()}
    loggers = [
        (logger, logger.level, logger.propagate, logger.disabled)
        for logger in logging.root.manager.loggerDict.values()
        if isinstance(logger, logging.Logger)  # and not the place of one
    ]
    precision = torch.get_float32_matmul_precision()
    deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        DatasetCatalog.data = datasets
        MetadataCatalog.data = {name: each for name, (each, _) in metadata.items()}
        for each, attributes in metadata.values():
            vars(each).clear()
            vars(each).update(attributes)
        for logger, level, logger.propagate, logger.disabled in loggers:
            logger.setLevel(level)
        torch.set_float32_matmul_precision(precision)
        torch.use_deterministic_algorithms(deterministic)
