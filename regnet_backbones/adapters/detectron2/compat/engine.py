"""Detectron2's engine without a GPU, and the training state that 0.6 leaves out of a checkpoint.

Child processes of `launch` are fresh interpreters that unpickle detectron2 objects before any
other code of ours would run. The worker they start with is therefore a function of this package:
to unpickle it imports us, and with us the fixes. Checkpoints look as upstream main writes them, and
those that 0.6 wrote load.

Reference: detectron2/engine/launch.py, detectron2/engine/defaults.py.
"""

import functools
import importlib
import logging
from types import ModuleType, SimpleNamespace

LAUNCH = "detectron2.engine.launch"
STOCK_WORKER = "_stock_distributed_worker"

logger = logging.getLogger("regnet_backbones.adapters.detectron2.compat")


def starts_stock_worker(module: ModuleType) -> bool:
    """Return whether child processes start with detectron2's own worker."""
    return module._distributed_worker is not run_worker


def child_processes_lack_fixes_and_gloo(module: ModuleType) -> None:
    """Start child processes with our worker."""
    setattr(module, STOCK_WORKER, module._distributed_worker)
    module._distributed_worker = run_worker


def run_worker(*arguments) -> None:
    """Run one of several processes, as detectron2's worker does: over gloo without a GPU."""
    import torch

    # import_module gives the module, where attribute access gives the function of the same name.
    worker = getattr(importlib.import_module(LAUNCH), STOCK_WORKER)
    constants = [c.lower() for c in worker.__code__.co_consts if isinstance(c, str)]
    if not torch.cuda.is_available() and "gloo" not in constants:
        worker = _run_gloo_worker
    worker(*arguments)


def _run_gloo_worker(
    local_rank, main_func, world_size, processes_per_machine, machine_rank, dist_url, args, timeout
) -> None:
    """Join the process group over gloo, make the groups within each machine, and run."""
    import torch.distributed as dist
    from detectron2.utils import comm

    dist.init_process_group(
        "gloo",
        init_method=dist_url,
        world_size=world_size,
        rank=machine_rank * processes_per_machine + local_rank,
        timeout=timeout,
    )
    make_local_groups(processes_per_machine)
    comm.synchronize()
    main_func(*args)


def make_local_groups(processes_per_machine: int) -> None:
    """Make the groups within each machine, which detectron2 asks for the local rank."""
    import torch.distributed as dist
    from detectron2.utils import comm

    # Every process takes part in making every group.
    for first in range(0, dist.get_world_size(), processes_per_machine):
        ranks = list(range(first, first + processes_per_machine))
        group = dist.new_group(ranks)
        if dist.get_rank() in ranks:
            comm._LOCAL_PROCESS_GROUP = group


def passes_device_ids(module: ModuleType) -> bool:
    """Return whether `create_ddp_model` names a device whatever the model is on."""
    code = module.create_ddp_model.__code__
    return "device_ids" in code.co_consts and "DistributedDataParallel" in code.co_names


def device_ids_given_for_cpu_model(module: ModuleType) -> None:
    """Name no device to DDP for a model on the CPU."""
    stock = module.DistributedDataParallel

    def distributed(model, device_ids=None, **options):
        return stock(model, device_ids=None if _is_on_cpu(model) else device_ids, **options)

    module.DistributedDataParallel = distributed


def amp_asserts_cuda(module: ModuleType) -> bool:
    """Return whether AMPTrainer stops, in its first step, for want of CUDA."""
    return "is_available" in module.AMPTrainer.run_step.__code__.co_names


def amp_without_cuda(module: ModuleType) -> None:
    """Say so when the trainer is built, and what to set."""
    stock = module.AMPTrainer.__init__

    @functools.wraps(stock)
    def __init__(self, model, *args, **kwargs):  # noqa: N807
        if _is_on_cpu(model):
            raise ValueError(
                "automatic mixed precision needs CUDA, and this model is on the CPU: set "
                "SOLVER.AMP.ENABLED to False, or MODEL.DEVICE to cuda; in a LazyConfig these are "
                "train.amp.enabled and train.device"
            )
        stock(self, model, *args, **kwargs)

    module.AMPTrainer.__init__ = __init__


def trainer_saves_no_optimizer(module: ModuleType) -> bool:
    """Return whether DefaultTrainer's state is its base class's: iteration and hooks only."""
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
    """Return whether DefaultTrainer cannot load a state without an optimizer in it."""
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
    """Return whether the LR hook takes one of torch's own schedulers for stateless."""
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


def _is_on_cpu(model) -> bool:
    parameter = next(iter(model.parameters()), None)
    return parameter is not None and parameter.device.type == "cpu"
