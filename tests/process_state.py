"""What belongs to a process and not to a test: kept as it was, whatever a test does to it."""

import contextlib
import logging
import os
import sys

import torch
import wrapt

# The catalogs as detectron2 fills them, for a test that is the first to import it.
_AS_IMPORTED = []
wrapt.register_post_import_hook(lambda _: _AS_IMPORTED.append(_catalogs()), "detectron2.data")


@contextlib.contextmanager
def process_state_kept():
    """Put environment, detectron2's datasets, loggers and torch's switches back as they were.

    A run in this process seeds Lightning for the rest of it (`PL_GLOBAL_SEED`) and registers its
    data under fixed names: tests would find what they do or do not by what ran before them.
    """
    environment = dict(os.environ)
    catalogs = _catalogs() if "detectron2.data" in sys.modules else None
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
        if catalogs or _AS_IMPORTED:
            _restore(catalogs or _AS_IMPORTED[0])
        for logger, level, logger.propagate, logger.disabled in loggers:
            if logger.level != level:  # setting it empties the caches of all loggers
                logger.setLevel(level)
        torch.set_float32_matmul_precision(precision)
        torch.use_deterministic_algorithms(deterministic)


def _catalogs():
    from detectron2.data import DatasetCatalog, MetadataCatalog

    metadata = {name: (each, dict(vars(each))) for name, each in MetadataCatalog.data.items()}
    return dict(DatasetCatalog.data), metadata


def _restore(catalogs):
    from detectron2.data import DatasetCatalog, MetadataCatalog

    datasets, metadata = catalogs
    DatasetCatalog.data = dict(datasets)
    MetadataCatalog.data = {name: each for name, (each, _) in metadata.items()}
    for each, attributes in metadata.values():
        vars(each).clear()
        vars(each).update(attributes)
