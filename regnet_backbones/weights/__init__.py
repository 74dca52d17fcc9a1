"""Weights of a RegNet from any dialect: all of them, or an error with the reason.

`load` puts weights into a model, `convert` renames them, `detect` returns their dialect;
`read_checkpoint` and `write_checkpoint` are the files. `dialects` has the table.
"""

from regnet_backbones.weights.checkpoints import (
    Checkpoint,
    detect,
    read_checkpoint,
    write_checkpoint,
)
from regnet_backbones.weights.conversion import convert
from regnet_backbones.weights.dialects import DIALECTS
from regnet_backbones.weights.loading import Report, load
from regnet_backbones.weights.sources import find_source, local_file

__all__ = [
    "DIALECTS",
    "Checkpoint",
    "Report",
    "convert",
    "detect",
    "find_source",
    "load",
    "local_file",
    "read_checkpoint",
    "write_checkpoint",
]
