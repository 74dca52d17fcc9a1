"""Training and using detectron2's models: data and its checks, training, evaluation, prediction."""

from importlib.util import find_spec

if find_spec("detectron2") is None:
    raise ModuleNotFoundError(
        "detectron2 is not installed; `make install` installs it, and the README says how to do so "
        "in another environment (section 'Detectron2 on today's libraries')",
        name="detectron2",
    )
