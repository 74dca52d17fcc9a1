"""Our architectures among those of SMP: `smp.OCRNet`, `smp.create_model`, `smp.from_pretrained`."""

from types import ModuleType

from regnet_backbones.adapters.smp.ocrnet import OCRNet
from regnet_backbones.adapters.smp.unet3plus import UNet3Plus

ARCHITECTURES = (OCRNet, UNet3Plus)


def register_architectures(smp: ModuleType) -> None:
    """Add our architectures to `segmentation_models_pytorch`; SMP's own of that name stays."""
    for architecture in ARCHITECTURES:
        name = architecture.__name__
        if not hasattr(smp, name):
            setattr(smp, name, architecture)
            smp.MODEL_ARCHITECTURES_MAPPING[name.lower()] = architecture
