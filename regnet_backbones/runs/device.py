"""Whether this machine has a device that a command line names."""

import torch

from regnet_backbones.errors import UserError


def check_device(name: str) -> None:
    """Raise ValueError for a device that this machine has not, such as "cuda:1"."""
    try:
        torch.empty(0, device=name)
    except (AssertionError, RuntimeError) as error:
        raise UserError(f"there is no device '{name}' here: {error}") from error
