"""Detectron2's engine without a GPU, and the training state that 0.6 leaves out of a checkpoint.

Child processes of `launch` are fresh interpreters that unpickle detectron2 objects before any
other code of ours would run. The worker they start with is therefore a function of this package:
to unpickle it imports us, and with us the fixes. Checkpoints look as upstream main writes them.
"""

import importlib
import logging
from types import ModuleType

from regnet_backbones.adapters.detectron2.compat.hook import replaces

LAUNCH = "detectron2.engine.launch"

logger = logging.getLogger("regnet_backbones.adapters.detectron2.compat")


def child_processes_lack_fixes_and_gloo(module: ModuleType) -> None:
    """Child processes start without the fixes, and only with CUDA and NCCL."""
    module._stock_distributed_worker = module._distributed_worker
    module._distributed_worker = run_worker


def run_worker(*arguments) -> None:
    """Run one of several processes, as detectron2's worker does: over gloo without a GPU."""
    import torch

    # import_module gives the module, where attribute access gives the function of the same name.
    stock = importlib.import_module(LAUNCH)._stock_distributed_worker
    (stock if torch.cuda.is_available() else _run_gloo_worker)(*arguments)


def _run_gloo_worker(
    local_rank, main_func, world_size, processes_per_machine, machine_rank, dist_url, args, timeout
) -> None:
    """Join the process group over gloo, make the groups within each machine, and run."""
    import torch.distributed as dist
    from detectron2.utils import comm

    rank = machine_rank * processes_per_machine + local_rank
    dist.init_process_group(
        "gloo", init_method=dist_url, world_size=world_size, rank=rank, timeout=timeout
    )
    make_local_groups(processes_per_machine)
    comm.synchronize()
    main_func(*args)
    leave_groups()


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


def leave_groups() -> None:
    """Leave all groups: threads of gloo that live until the interpreter ends can abort it."""
    import torch.distributed as dist
    from detectron2.utils import comm

    comm._LOCAL_PROCESS_GROUP = None
    dist.destroy_process_group()


def device_ids_given_for_cpu_model(module: ModuleType) -> None:
    """DDP refuses device_ids for a model on the CPU: name none."""

    stock = module.DistributedDataParallel

    def distributed(model, device_ids=None, **options):
        return stock(model, device_ids=None if _is_on_cpu(model) else device_ids, **options)

    module.DistributedDataParallel = distributed


def amp_without_cuda(module: ModuleType) -> None:
    """AMP on the CPU stops at an assertion after everything was built: say before what to set."""

    @replaces(module.AMPTrainer)
    def __init__(stock, self, model, *args, **kwargs):  # noqa: N807
        if _is_on_cpu(model):
            raise ValueError(
                "automatic mixed precision needs CUDA, and this model is on the CPU: set "
                "SOLVER.AMP.ENABLED to False, or MODEL.DEVICE to cuda; in a LazyConfig these are "
                "train.amp.enabled and train.device"
            )
        stock(self, model, *args, **kwargs)


def optimizer_left_out_of_checkpoint(module: ModuleType) -> None:
    """0.6 saves no optimizer, so momentum restarts; main cannot resume from what 0.6 saved."""
    base = module.TrainerBase

    def state_dict(self):
        return {**base.state_dict(self), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict):
        base.load_state_dict(self, state_dict)
        if "_trainer" in state_dict:
            self._trainer.load_state_dict(state_dict["_trainer"])
        else:
            logger.warning(
                "the checkpoint holds no optimizer state (detectron2 0.6 wrote none): training "
                "resumes at iteration %d with a fresh optimizer",
                self.iter + 1,
            )

    module.DefaultTrainer.state_dict = state_dict
    module.DefaultTrainer.load_state_dict = load_state_dict


def torch_scheduler_left_out_of_checkpoint(module: ModuleType) -> None:
    """The LR hook knows torch's schedulers by a base class that they no longer have."""
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
