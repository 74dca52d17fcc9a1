"""Imports regnet_backbones when detectron2 is imported, in the environment of `make install`.

Detectron2 0.6 from the package index can only be imported with the fixes of regnet_backbones.
`make install` copies this file, and the `.pth` file that loads it when Python starts, into `.venv`:
`import detectron2` may then come before `import regnet_backbones`. Nothing is imported before
detectron2 is, and nothing happens where regnet_backbones was uninstalled.
"""

import sys


class WithDetectron2:
    """A finder that finds nothing: it sees that detectron2 is looked for."""

    def __init__(self):
        self.waits = True

    def find_spec(self, fullname, path=None, target=None):
        """Import regnet_backbones once, before detectron2."""
        if self.waits and fullname == "detectron2":
            self.waits = False
            try:
                import regnet_backbones  # noqa: F401
            except ModuleNotFoundError as error:
                if error.name != "regnet_backbones":
                    raise
        return None


sys.meta_path.insert(0, WithDetectron2())
