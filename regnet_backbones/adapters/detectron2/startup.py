"""Imports regnet_backbones when detectron2 is imported, where `install-detectron2` installed it.

Detectron2 0.6 can only be imported with the fixes of regnet_backbones. `installing.py` puts this
file into the wheel of Detectron2 as `regnet_backbones_with_detectron2.py`, with a `.pth` file that
loads it when Python starts: `import detectron2` may then come before `import regnet_backbones`.
Nothing is imported before detectron2 is, and nothing happens if regnet_backbones was uninstalled.
"""

import sys


class WithDetectron2:
    """A finder that finds nothing, and imports regnet_backbones before detectron2."""

    def __init__(self) -> None:
        self.waits = True

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        """Import regnet_backbones once, before detectron2."""
        if self.waits and fullname == "detectron2":
            self.waits = False
            try:
                import regnet_backbones  # noqa: F401
            except ModuleNotFoundError as error:
                if error.name != "regnet_backbones":
                    raise


if __name__ == "regnet_backbones_with_detectron2":
    sys.meta_path.insert(0, WithDetectron2())
