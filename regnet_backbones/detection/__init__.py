"""Training and using detectron2's models: data and its checks, training, evaluation, prediction."""

import logging
import warnings
from importlib.util import find_spec

from regnet_backbones.errors import MissingPackageError

if find_spec("detectron2") is None:
    raise MissingPackageError(
        "detectron2 is not installed; install it with `regnet-backbones install-detectron2`"
    )

# Deprecation warnings that only detectron2 can fix.
warnings.filterwarnings("ignore", message="`torch.jit.script", category=FutureWarning)
warnings.filterwarnings("ignore", message="`broadcast_buffers` is", category=FutureWarning)
warnings.filterwarnings("ignore", message="torch.meshgrid", category=UserWarning)
warnings.filterwarnings("ignore", message="TypedStorage is", category=UserWarning)
# That there is no GPU, which we print ourselves.
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
