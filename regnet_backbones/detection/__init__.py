"""Training detectors in detectron2: datasets, trainer, pictures, the run itself."""

from importlib.util import find_spec

if find_spec("detectron2") is None:
    raise ModuleNotFoundError(
        "detectron2 is not installed; `make install` installs it, and the README says how to do so "
        "in another environment (section 'Detectron2 on today's libraries')",
        name="detectron2",
    )
