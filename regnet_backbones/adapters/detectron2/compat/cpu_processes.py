"""Detectron2's engine where there is no GPU: several processes, DDP, and AMP.

Child processes of `launch` are fresh interpreters that unpickle detectron2 objects before any
other code of ours would run. The worker they start with is therefore a function of this package:
to unpickle it imports us, and with us the fixes.

Reference: detectron2/engine/launch.py, detectron2/engine/defaults.py.
"""

import functools
import importlib
from collections.abc import Callable
from datetime import timedelta
from types import ModuleType

LAUNCH = "detectron2.engine.launch"
STOCK_WORKER = "_stock_distributed_worker"


def starts_stock_worker(module: ModuleType) -> bool:
    """Tell whether child processes start with detectron2's own worker."""
    return module._distributed_worker is not run_worker


def child_processes_lack_fixes_and_gloo(module: ModuleType) -> None:
    """Start child processes with our worker."""
    setattr(module, STOCK_WORKER, module._distributed_worker)
    module._distributed_worker = run_worker


def run_worker(
    local_rank: int,
    main_func: Callable[..., None],
    world_size: int,
    processes_per_machine: int,
    machine_rank: int,
    dist_url: str,
    args: tuple,
    timeout: timedelta,
) -> None:
    """Run `main_func(*args)` as one of `world_size` processes: over gloo without a GPU."""
    import torch

    # import_module gives the module, where attribute access gives the function of the same name.
    stock = getattr(importlib.import_module(LAUNCH), STOCK_WORKER)
    if not torch.cuda.is_available() and not _knows_gloo(stock):
        stock = _run_gloo_worker
    stock(
        local_rank,
        main_func,
        world_size,
        processes_per_machine,
        machine_rank,
        dist_url,
        args,
        timeout,
    )


def passes_device_ids(module: ModuleType) -> bool:
    """Tell whether `create_ddp_model` names a device whatever the model is on."""
    code = module.create_ddp_model.__code__
    return "device_ids" in code.co_consts and "DistributedDataParallel" in code.co_names


def device_ids_given_for_cpu_model(module: ModuleType) -> None:
    """Name no device to DDP for a model on the CPU."""
    stock = module.DistributedDataParallel

    def distributed(model, device_ids=None, **options):
        return stock(model, device_ids=None if _is_on_cpu(model) else device_ids, **options)

    module.DistributedDataParallel = distributed


def amp_asserts_cuda(module: ModuleType) -> bool:
    """Tell whether AMPTrainer stops, in its first step, for want of CUDA."""
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


def _knows_gloo(worker: Callable[..., None]) -> bool:
    return any(isinstance(c, str) and c.lower() == "gloo" for c in worker.__code__.co_consts)


def _is_on_cpu(model) -> bool:
    parameter = next(iter(model.parameters()), None)
    return parameter is not None and parameter.device.type == "cpu"
