"""The demo dataset where detectron2 looks for it: in a folder of a test; or as custom data."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from regnet_backbones.adapters.detectron2 import shapes
from regnet_backbones.shapes import ShapesDataset


@contextmanager
def looked_for_in(folder: Path) -> Iterator[Path]:
    """Let detectron2 look for its datasets in a folder, and register the demo's from there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(folder))
        _register_anew()
        yield folder
    _register_anew()


def own_data(dataset: ShapesDataset) -> list[str]:
    """Return the options by which a detector is trained on a drawn dataset as on custom data."""
    return [
        *("--train-json", str(dataset.instances_json("train"))),
        *("--train-images", str(dataset.images("train"))),
        *("--val-json", str(dataset.instances_json("val"))),
        *("--val-images", str(dataset.images("val"))),
    ]


def names_of_all_classes_are_thing_classes(name: str) -> None:
    """Give a panoptic dataset COCO's combined form, until the test ends."""
    metadata = MetadataCatalog.get(name)
    for kind in ("classes", "colors"):
        delattr(metadata, f"thing_{kind}")  # a value that is set cannot be changed
        metadata.set(**{f"thing_{kind}": metadata.get(f"stuff_{kind}")})


def _register_anew() -> None:
    for name in [name for name in DatasetCatalog.list() if name.startswith("shapes_")]:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
        MetadataCatalog.pop(f"{name}_instances", None)
    shapes.register_on_import(None)
