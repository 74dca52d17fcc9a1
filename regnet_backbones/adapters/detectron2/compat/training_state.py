"""Training state that detectron2 0.6 leaves out of a checkpoint, or cannot read back from one.

Nothing here changes the format: checkpoints look as upstream main writes them, and those that 0.6
wrote load.
"""

import functools
import io
import logging
import pickle
from types import ModuleType, SimpleNamespace

logger = logging.getLogger("regnet_backbones.adapters.detectron2.compat")


def trainer_saves_no_optimizer(module: ModuleType) -> bool:
    """Tell whether DefaultTrainer's state is its base class's: iteration and hooks only."""
    return "state_dict" not in vars(module.DefaultTrainer)


def optimizer_left_out_of_checkpoint(module: ModuleType) -> None:
    """Save and restore the state of the inner trainer: optimizer, and grad scaler with AMP."""
    base = module.TrainerBase

    def state_dict(self):
        return {**base.state_dict(self), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict):
        base.load_state_dict(self, state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

    module.DefaultTrainer.state_dict = state_dict
    module.DefaultTrainer.load_state_dict = load_state_dict


def trainer_demands_optimizer(module: ModuleType) -> bool:
    """Tell whether DefaultTrainer cannot load a state without an optimizer in it."""
    trainer = module.DefaultTrainer.__new__(module.DefaultTrainer)
    trainer._hooks, trainer._trainer = [], SimpleNamespace(load_state_dict=lambda state: None)
    try:
        trainer.load_state_dict({"iteration": 0})
    except KeyError:
        return True
    return False


def checkpoint_without_optimizer_refused(module: ModuleType) -> None:
    """Resume from such a checkpoint too, as 0.6 did, and say what is lost."""
    stock = module.DefaultTrainer.load_state_dict

    def load_state_dict(self, state_dict):
        if "_trainer" in state_dict:
            stock(self, state_dict)
            return
        module.TrainerBase.load_state_dict(self, state_dict)
        logger.warning(
            "the checkpoint holds no optimizer state (detectron2 0.6 wrote none): training "
            "resumes at iteration %d with a fresh optimizer",
            self.iter + 1,
        )

    module.DefaultTrainer.load_state_dict = load_state_dict


def hook_ignores_torch_scheduler(module: ModuleType) -> bool:
    """Tell whether the LR hook takes one of torch's own schedulers for stateless."""
    from torch.optim.lr_scheduler import StepLR

    scheduler = StepLR.__new__(StepLR)  # no optimizer needed to have a state
    scheduler.last_epoch = 0
    return not module.LRScheduler(optimizer=None, scheduler=scheduler).state_dict()


def torch_scheduler_left_out_of_checkpoint(module: ModuleType) -> None:
    """Save and restore every torch scheduler; fvcore's have no state."""
    from torch.optim.lr_scheduler import LRScheduler

    def state_dict(self):
        return self.scheduler.state_dict() if isinstance(self.scheduler, LRScheduler) else {}

    def load_state_dict(self, state_dict):
        if isinstance(self.scheduler, LRScheduler):
            self.scheduler.load_state_dict(state_dict)

    module.LRScheduler.state_dict = state_dict
    module.LRScheduler.load_state_dict = load_state_dict


def refuses_numpy_scalars(_module: ModuleType) -> bool:
    """Tell whether torch.load, as detectron2 calls it, refuses a numpy scalar."""
    import numpy as np
    import torch

    file = io.BytesIO()
    torch.save(np.float64(1), file)
    file.seek(0)
    try:
        torch.load(file)
    except pickle.UnpicklingError:
        return True
    return False


def numpy_scalars_refused(module: ModuleType) -> None:
    """Load checkpoints with numpy's scalars and arrays allowed, and still nothing else."""
    stock = module.DetectionCheckpointer._load_file

    @functools.wraps(stock)
    def _load_file(self, filename):
        from torch.serialization import safe_globals

        with safe_globals(_numpy_globals()):
            return stock(self, filename)

    module.DetectionCheckpointer._load_file = _load_file


def _numpy_globals() -> list:
    """List what a pickled numpy scalar or array is made of, unless of objects."""
    import _codecs

    import numpy as np

    multiarray = (np._core if hasattr(np, "_core") else np.core).multiarray
    dtypes = {type(np.dtype(code)) for code in np.typecodes["All"] if code not in "OV"}
    # numpy 2 moved numpy.core to numpy._core: files exist with either name.
    renamed = [
        (getattr(multiarray, name), f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for name in ("scalar", "_reconstruct")
    ]
    return [*renamed, np.dtype, np.ndarray, _codecs.encode, *dtypes]
