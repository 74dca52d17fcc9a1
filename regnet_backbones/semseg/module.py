"""Segmenter: a decoder of segmentation-models-pytorch on a RegNet, as Lightning trains it.

A batch is a dict of `image`, float32 (N, 3, H, W), normalised; `mask`, int64 (N, H, W), the class
of each pixel or 255 where there is none; and `name`, a list of N texts for messages and pictures.
"""

import math
from pathlib import Path
from typing import Literal, get_args

import lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torchmetrics.classification import MulticlassConfusionMatrix
from torchvision.transforms.functional import pil_to_tensor

from regnet_backbones.errors import DivergedError, UserError
from regnet_backbones.files import write_whole
from regnet_backbones.optimize.options import (
    Optimization,
    log_report,
    optimize_trained,
    optimize_training,
)
from regnet_backbones.optimize.passes import FORMATS
from regnet_backbones.semseg import metrics, overlays
from regnet_backbones.semseg.inference import Inference
from regnet_backbones.semseg.labels import IGNORE, check_class_names, check_numbers
from regnet_backbones.semseg.learning import (
    LossName,
    SegmentationLoss,
    parameter_groups,
    poly_with_warmup,
)
from regnet_backbones.semseg.network import (
    build_network,
    check_statistics,
    refuse_lightnings_sync,
    start_branches_at_one,
    synchronize_norms,
)

OptimizerName = Literal["adamw", "sgd"]
Batch = dict[str, torch.Tensor | list[str]]

# What arguments of `Segmenter` may be.
CHOICES = {"loss": get_args(LossName), "optimizer": get_args(OptimizerName)}
ABOVE_ZERO = ("lr", "encoder_lr_factor", "power")
LEAST = {"num_classes": 2, "weight_decay": 0, "momentum": 0, "warmup_steps": 0, "pictures": 0}

# Where a checkpoint keeps what its hyperparameter `encoder_weights` was.
ENCODER_WEIGHTS_KEY = "segmenter_encoder_weights"

# Pixels of both sides, and images of all processes, where the data do not say it.
SIDE, BATCH = 512, 2

# What a step computes in, by the precision of the trainer; the others are measured as float32.
AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class Segmenter(lightning.LightningModule):
    """Train and validate a semantic segmenter.

    Args:
        num_classes: number of classes, 2 to 255.
        class_names: their names in that order, for metrics; None for their numbers.
        decoder: an architecture of SMP, upper or lower case: "Unet", "FPN", "DeepLabV3Plus", ...
        encoder: a name of `regnet_backbones.zoo.names()`, another encoder of SMP, or a RegNet by
            numbers: arguments of `RegNetDesign`, with `encoder_weights` a file or None.
        encoder_weights: weights of the encoder to start from, as SMP takes them; None for random.
            A checkpoint loads without them.
        zero_init_last: whether residual branches of a random encoder start at zero, as timm has it;
            false starts them at one as pycls does.
        output_stride: stride of the last map of the encoder, for architectures that let one choose
            (DeepLabV3, DeepLabV3Plus, PAN); None for that architecture's own.
        decoder_options: further arguments of the architecture, such as `decoder_channels`.
        loss: "ce" cross entropy, "dice" Dice loss (SMP's), "ce+dice" the sum of both.
        optimizer: "adamw" or "sgd".
        lr: peak learning rate, of the decoder.
        encoder_lr_factor: the encoder's rate as a part of `lr`.
        weight_decay: for weights of more than one dimension; none for norms and biases.
        momentum: of "sgd".
        warmup_steps: steps in which rates rise, in a line, to their peak.
        power: exponent of the decay after that, `(1 - part of the run) ** power`.
        sync_batchnorm: share batch statistics between processes, keeping timm's activations (GPU).
            Lightning's own `Trainer(sync_batchnorm=True)` would delete them and is refused.
        channels_last: lay weights and maps out with channels last, the same numbers at another
            speed; measure it, grouped convolutions are slower so on some GPUs.
        optimize: make the training faster (`regnet_backbones.optimize`): channels last where that
            is measured to be, unless `channels_last` says it. Checkpoints stay the same. A resumed
            run measures anew, and is exact to the last bit only if the same format is found.
        compile: in training use `torch.compile`, which takes a minute at first; means `optimize`.
        short_side: pixels of the shorter side that validation images are resized to before the
            network, None for their own size. Metrics are counted at the size of the masks.
        pictures: how many validation images are drawn at every validation.
        mean, std: what images were normalised with, RGB in 0 to 1; for pictures and predictions.

    Attributes:
        network: the model of SMP.
        loss: the loss of logits and masks.
        stride: images are padded to multiples of it.
        inference: how validation predicts, whole images at `short_side`; another one may be put in
            its place. Checkpoints do not hold it.
        typical_side: pixels of both sides of what the network often sees, None if unknown.
        optimization: how to make the network fast before a validation, None for not at all.
        last_validation: metrics of the last validation by the names they are logged with, NaN for
            the IoU of a class that was neither there nor predicted; None before the first.

    Raises:
        UserError: an argument is out of range, SMP does not know or take it, or the weights expect
            images of another mean or deviation.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        class_names: tuple[str, ...] | None = None,
        decoder: str = "Unet",
        encoder: str | dict[str, int | float | str | bool] = "regnety_032",
        encoder_weights: str | None = "imagenet",
        zero_init_last: bool = True,
        output_stride: Literal[8, 16, 32] | None = None,
        decoder_options: dict[str, object] | None = None,
        loss: LossName = "ce",
        optimizer: OptimizerName = "adamw",
        lr: float = 5e-4,
        encoder_lr_factor: float = 1.0,
        weight_decay: float = 0.01,
        momentum: float = 0.9,
        warmup_steps: int = 0,
        power: float = 0.9,
        sync_batchnorm: bool = False,
        channels_last: bool = False,
        optimize: bool = False,
        compile: bool = False,
        short_side: int | None = None,
        pictures: int = 8,
        mean: tuple[float, float, float] = IMAGENET_DEFAULT_MEAN,
        std: tuple[float, float, float] = IMAGENET_DEFAULT_STD,
    ):
        super().__init__()
        self.save_hyperparameters()
        check_numbers(self.hparams, least=LEAST, above_zero=ABOVE_ZERO)
        for name, allowed in CHOICES.items():
            if self.hparams[name] not in allowed:
                given = self.hparams[name]
                raise UserError(f"{name} must be one of {', '.join(allowed)}, got {given!r}")
        self.class_names = check_class_names(
            tuple(map(str, range(num_classes))) if class_names is None else class_names,
            num_classes,
            source="class_names",
        )
        self.inference = Inference(short_side=short_side)
        if encoder_weights is not None and isinstance(encoder, str):
            check_statistics(encoder, encoder_weights, mean=mean, std=std)
        self.network = build_network(
            decoder,
            encoder,
            num_classes,
            encoder_weights=encoder_weights,
            output_stride=output_stride,
            options=decoder_options,
        )
        if not zero_init_last and encoder_weights is None:
            start_branches_at_one(self.network.encoder)
        self.use_memory_format("channels_last" if channels_last else "contiguous")
        self.stride = int(self.network.encoder.output_stride)
        self.loss = SegmentationLoss(loss)
        # The checks of torchmetrics sort every mask, and see less than the dataset's.
        self.confusion = MulticlassConfusionMatrix(
            num_classes, ignore_index=IGNORE, validate_args=False
        )
        self.typical_side: int | None = None
        self.optimization: Optimization | None = None
        self.last_validation: dict[str, float] | None = None
        self._pictures_left = 0
        self._pictures_folder = Path()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits of every pixel.

        Sides that are no multiple of `stride` are padded at the bottom and the right with zeros,
        the mean of normalised images, and the logits cropped.

        Args:
            image: normalised images (N, 3, H, W), any height and width.

        Returns:
            Logits (N, num_classes, H, W).

        Raises:
            UserError: the network gives maps of another size than its input.
        """
        height, width = image.shape[-2:]
        padded = F.pad(image, (0, -width % self.stride, 0, -height % self.stride))
        logits = self.network(padded.contiguous(memory_format=self._memory_format))
        if logits.shape[-2:] != padded.shape[-2:]:
            raise UserError(
                f"the network makes {tuple(logits.shape[-2:])} of {tuple(padded.shape[-2:])} "
                "pixels; change encoder_depth or upsampling of decoder_options, which belong "
                "together"
            )
        return logits[..., :height, :width]

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Return the loss of a batch; log it and the decoder's learning rate."""
        loss = self.loss(self(batch["image"]), batch["mask"])
        lr = self.trainer.optimizers[0].param_groups[-1]["lr"]
        if not torch.isfinite(loss):
            raise DivergedError(
                f"the loss is {loss.item()} at step {self.global_step}, learning rate {lr:.3g}, "
                f"images {', '.join(batch['name'])}; take a lower lr, more warmup_steps or "
                "gradient clipping, and look at these images"
            )
        size = len(batch["image"])
        self.log("train/loss", loss, prog_bar=True, sync_dist=True, batch_size=size)
        self.log("train/lr", lr, batch_size=size)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Choose where this validation's pictures go, and who draws them."""
        # Asking for the folder is a broadcast, which needs every process.
        log_dir = self.trainer.log_dir or self.trainer.default_root_dir
        self._pictures_folder = Path(log_dir) / "pictures"
        draws = self.trainer.is_global_zero and not (
            self.trainer.sanity_checking or self.trainer.fast_dev_run
        )
        self._pictures_left = self.hparams["pictures"] if draws else 0

    def validation_step(self, batch: Batch, batch_idx: int) -> torch.Tensor | None:
        """Count the pixels of a batch by truth and prediction; draw the first images.

        Returns:
            The predicted classes (N, H, W) for callbacks; of repeated images nothing.
        """
        new = metrics.count_new(self.trainer.val_dataloaders, batch_idx, len(batch["image"]))
        if not new:
            return None
        image, mask = batch["image"][:new], batch["mask"][:new]
        prediction = self.inference.classes(self, image)
        self.confusion.update(prediction, mask)
        for *drawn, name in zip(image, mask, prediction, batch["name"], strict=False):
            if self._pictures_left:
                self._pictures_left -= 1
                self._save_picture(self.draw(*drawn), name)
        return prediction

    def on_validation_epoch_end(self) -> None:
        """Log `val/miou`, `val/accuracy` and `val/iou/<class>`, each from 0 to 1."""
        values = metrics.summarize(self.confusion.compute(), self.class_names)
        self.confusion.reset()
        if self.trainer.sanity_checking:
            return
        self.last_validation = values
        for name, value in values.items():
            shown = name == metrics.MIOU
            if shown or not math.isnan(value):
                # Equal in all processes already; `sync_dist` is what Lightning asks for here.
                self.log(name, value, prog_bar=shown, sync_dist=True)

    def configure_optimizers(self) -> dict[str, object]:
        """Return the optimizer, and the schedule over all steps of the trainer."""
        given = self.hparams
        rates = {name: given[name] for name in ("lr", "encoder_lr_factor", "weight_decay")}
        groups = parameter_groups(self.network, **rates)
        if given["optimizer"] == "sgd":
            optimizer = torch.optim.SGD(groups, momentum=given["momentum"])
        else:
            optimizer = torch.optim.AdamW(groups)
        schedule = {name: given[name] for name in ("warmup_steps", "power")}
        steps = self.trainer.estimated_stepping_batches
        scheduler = poly_with_warmup(optimizer, total_steps=steps, **schedule)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def setup(self, stage: str) -> None:
        """Synchronise batch norms between processes, and optimize the network, if asked for."""
        refuse_lightnings_sync(self.trainer)
        given = self.hparams
        if given["sync_batchnorm"]:
            self.network = synchronize_norms(self.network, self.trainer, stage=stage)
        if stage == "fit" and (given["optimize"] or given["compile"]):
            self._optimize_training()
        elif stage == "validate" and self.optimization is not None:
            self.to(self.trainer.strategy.root_device).optimize(self.optimization)

    def optimize(self, optimization: Optimization) -> None:
        """Replace the network, which is on its device, by a fast copy for inference.

        Args:
            optimization: what to do.
        """
        size = self._padded(self.inference.window or self.typical_side or SIDE)
        self.network, report = optimize_trained(self.network, optimization, image_size=size)
        self.use_memory_format(report.memory_format)
        if rank_zero_only.rank == 0:
            log_report(report)

    def _optimize_training(self) -> None:
        """Make the training fast, in all processes, before DDP; the state dict stays."""
        trainer, given = self.trainer, self.hparams
        data = getattr(trainer.datamodule, "hparams", {})
        self.network.to(trainer.strategy.root_device)
        report = optimize_training(
            self.network,
            Optimization(
                compile=given["compile"],
                memory_format="channels_last" if given["channels_last"] else "auto",
            ),
            image_size=self._padded(data.get("crop_size", SIDE)),
            batch_size=max(1, data.get("batch_size", BATCH) // trainer.world_size),
            autocast=AUTOCAST.get(trainer.precision),
            from_first=trainer.strategy.broadcast,
        )
        self.use_memory_format(report.memory_format)
        if trainer.is_global_zero:
            log_report(report)

    def _padded(self, side: int) -> tuple[int, int]:
        """Return height and width of a square as the network gets it."""
        return (side + -side % self.stride,) * 2

    def use_memory_format(self, name: str) -> None:
        """Lay network and images out in a memory format.

        Args:
            name: "contiguous" or "channels_last".
        """
        self._memory_format = FORMATS[name]
        self.network.to(memory_format=self._memory_format)

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Save the hyperparameters so that a load does not fetch the encoder's weights again."""
        checkpoint[ENCODER_WEIGHTS_KEY] = self.hparams["encoder_weights"]
        saved = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY)
        if saved:
            checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = {**saved, "encoder_weights": None}

    def on_load_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Say again in the hyperparameters which weights training started from."""
        if ENCODER_WEIGHTS_KEY in checkpoint:
            self.hparams["encoder_weights"] = checkpoint[ENCODER_WEIGHTS_KEY]

    def draw(self, *images: torch.Tensor) -> Image.Image:
        """Return a picture of an image beside its masks.

        Args:
            images: a normalised image (3, H, W), and masks (H, W) such as truth and prediction.
        """
        return overlays.side_by_side(
            *images,
            mean=self.hparams["mean"],
            std=self.hparams["std"],
            colors=overlays.palette(len(self.class_names)),
        )

    def _save_picture(self, picture: Image.Image, name: str) -> None:
        """Write a picture to the folder of a validation's, and to TensorBoard if that logs."""
        name = name.replace("/", "_").replace("\\", "_")
        path = self._pictures_folder / str(self.global_step) / f"{name}.png"
        write_whole(path, lambda file: picture.save(file, "PNG"))
        for logger in self.trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                pixels = pil_to_tensor(picture)
                logger.experiment.add_image(f"pictures/{name}", pixels, self.global_step)
