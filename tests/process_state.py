"""What belongs to a process and not to a test: kept as it was, whatever a test does to it."""

import contextlib
import os

import torch


@contextlib.contextmanager
def process_state_kept():
    """Put the environment, detectron2's datasets and torch's switches back as they were.

    A run in this process seeds Lightning for the rest of it (`PL_GLOBAL_SEED`) and registers its
    data under fixed names: tests would find what they do or do not by what ran before them.
    """
    # Here, after conftest's import of regnet_backbones, which it needs.
    from detectron2.data import DatasetCatalog, MetadataCatalog

    environment = dict(os.environ)
    datasets = dict(DatasetCatalog.data)
    metadata = {name: (each, dict(vars(each))) for name, each in MetadataCatalog.data.items()}
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
        torch.set_float32_matmul_precision(precision)
        torch.use_deterministic_algorithms(deterministic)
