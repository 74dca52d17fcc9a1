"""Segmenter: a decoder of segmentation-models-pytorch on a RegNet, as Lightning trains it.

A batch is a dict of `image`, float32 (N, 3, H, W) or grey (N, 1, H, W), normalised; `mask`, int64
(N, H, W), the class of each pixel or 255 for none; and `name`, a list of N texts for messages and
pictures.
"""

from functools import partial
from pathlib import Path
from typing import Literal

import lightning
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassConfusionMatrix

from regnet_backbones.errors import DivergedError, UserError, as_user_error
from regnet_backbones.files import write_whole
from regnet_backbones.norm import convert_norm
from regnet_backbones.optimize import options as optimizing
from regnet_backbones.optimize.options import Fold, Optimization
from regnet_backbones.optimize.passes import FORMATS
from regnet_backbones.runs.image_files import sample
from regnet_backbones.runs.look import log_picture
from regnet_backbones.semseg import metrics, network, overlays
from regnet_backbones.semseg.inference import Inference
from regnet_backbones.semseg.labels import IGNORE, check_class_names

Batch = dict[str, torch.Tensor | list[str]]

# What a step computes in, by the precision of the trainer; the others are measured as float32.
AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class Segmenter(lightning.LightningModule):
    """Train and validate a semantic segmenter.

    Args:
        num_classes: number of classes, 2 to 255.
        class_names: names of the classes in their order; None for their numbers.
        decoder: architecture of SMP in upper or lower case ("Unet", "FPN", "DeepLabV3Plus", ...),
            or "OCRNet" or "UNet3Plus".
        encoder: name of a RegNet or of another SMP encoder, or the arguments of a `RegNetDesign`.
        encoder_weights: weights the encoder starts from, as SMP names them, or a file; None for
            random weights.
        zero_init_last: start residual branches of a random encoder at zero, as timm does; false
            starts them at one, as pycls does.
        output_stride: stride of the encoder's last map, for DeepLabV3, DeepLabV3Plus, PAN and
            OCRNet; None for the architecture's own.
        decoder_options: other arguments of the architecture, such as `decoder_channels`.
        auxiliary_weight: loss weight of an auxiliary FCN head on C4, used in training only; recipes
            of UPerNet, PSPNet and DeepLabV3Plus use 0.4. None for no head. OCRNet and UNet3Plus
            have their own.
        loss: "ce" (cross entropy), "dice", "focal", "lovasz" or "tversky", or a sum such as
            "ce+dice".
        tversky: weights of false positives and false negatives in the Tversky loss; a larger second
            one finds more of small objects.
        class_weights: weight of each class in "ce" and "focal"; "balanced" for `pixels / (classes *
            pixels of the class)` of the training masks; None for equal weights.
        optimizer: "adamw" or "sgd".
        lr: peak learning rate of the decoder.
        encoder_lr_factor: learning rate of the encoder as a fraction of `lr`.
        layer_decay: factor of the learning rate from each RegNet stage to the one before it: with
            0.7 the last stage has 0.7 of the encoder's rate, the stem `0.7 ** 5`. 1 for none.
        freeze_stages: frozen parts of a RegNet, with their norms: 0 none, 1 the stem, 2 the stem
            and the first stage, ..., 5 all.
        weight_decay: weight decay, except for norms and biases.
        momentum: momentum of "sgd".
        warmup_steps: steps in which learning rates rise linearly to their peak.
        schedule: decay after the warm-up: "poly" is `(1 - fraction of the run) ** power`, "cosine"
            half a cosine to 0.
        power: exponent of "poly".
        ema_decay: decay of an exponential moving average of the weights, such as 0.999, which is
            validated and saved instead of the weights. None for no average.
        sync_batchnorm: share batch statistics between processes, on GPUs. The trainer's own option
            would delete timm's activations and is an error.
        channels_last: use the channels-last memory format; faster on some GPUs, slower on others.
        optimize: measure and use what makes the training faster: channels last, folded frozen
            norms. A resumed run is exact only if the measurement has the same result, or with
            `channels_last` and `fold` set.
        fold: with `optimize`, fold frozen batch norms: "on", "off", or "auto" to measure.
        compile: use `torch.compile` in training, which takes about a minute at the start; implies
            `optimize`.
        short_side: shorter side of the images that the network gets, in pixels; None keeps theirs.
        pictures: number of validation images drawn at each validation.
        mean, std: normalisation of the images, RGB in 0 to 1; one number each for grey images.

    Attributes:
        network: the model of SMP; with `auxiliary_weight` its parts and the head.
        inference: how validation predicts; may be replaced.
        optimization: how to make the network fast before a validation, None for not at all.
        last_validation: results of the last validation as `evaluate` returns them, None before it.

    Raises:
        UserError: SMP does not take an argument, or the weights expect other images.
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
        auxiliary_weight: float | None = None,
        loss: str = "ce",
        tversky: tuple[float, float] = (0.3, 0.7),
        class_weights: list[float] | Literal["balanced"] | None = None,
        optimizer: Literal["adamw", "sgd"] = "adamw",
        lr: float = 5e-4,
        encoder_lr_factor: float = 1.0,
        layer_decay: float = 1.0,
        freeze_stages: Literal[0, 1, 2, 3, 4, 5] = 0,
        weight_decay: float = 0.01,
        momentum: float = 0.9,
        warmup_steps: int = 0,
        schedule: network.Schedule = "poly",
        power: float = 0.9,
        ema_decay: float | None = None,
        sync_batchnorm: bool = False,
        channels_last: bool = False,
        optimize: bool = False,
        fold: Fold = "auto",
        compile: bool = False,
        short_side: int | None = None,
        pictures: int = 8,
        mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN,
        std: tuple[float, ...] = IMAGENET_DEFAULT_STD,
    ):
        super().__init__()
        self.save_hyperparameters()
        if num_classes < 2:
            raise UserError(f"num_classes must be at least 2, got {num_classes}")
        names = class_names or tuple(map(str, range(num_classes)))
        self.class_names = check_class_names(names, num_classes)
        self.inference = Inference(short_side=short_side)
        if encoder_weights is not None and isinstance(encoder, str):
            network.check_statistics(encoder, encoder_weights, mean=mean, std=std)
        self.network = network.build_network(
            decoder,
            encoder,
            num_classes,
            encoder_weights=encoder_weights,
            output_stride=output_stride,
            options=decoder_options,
            in_channels=len(mean),
            auxiliary_weight=auxiliary_weight,
        )
        if not zero_init_last and encoder_weights is None:
            network.start_branches_at_one(self.network.encoder)
        if freeze_stages:
            network.regnet_of(self.network, "freeze_stages").freeze(freeze_stages)
        self._use_memory_format("channels_last" if channels_last else "contiguous")
        self.stride = int(self.network.encoder.output_stride)
        auxiliary_weights = getattr(self.network, "auxiliary_weights", ())
        self.loss = network.SegmentationLoss(loss, auxiliary_weights, tversky=tversky)
        if class_weights is not None:
            given = [1.0] * num_classes if class_weights == "balanced" else class_weights
            self.loss.set_class_weights(given, num_classes)
        if not 0 <= (ema_decay or 0) < 1:
            raise UserError(f"ema_decay must be from 0 to below 1, or null, got {ema_decay}")
        # The checks of torchmetrics sort every mask, and see less than the dataset's.
        counting = {"ignore_index": IGNORE, "validate_args": False}
        self.confusion = MulticlassConfusionMatrix(num_classes, **counting)
        self.validation_loss = MeanMetric()
        self.optimization: Optimization | None = None
        self.last_validation: dict[str, object] | None = None
        self.typical_side = 512  # pixels of both sides of what the network often sees

    def forward(self, image: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Return logits of every pixel.

        Args:
            image: normalised images (N, 3, H, W), any height and width: they are padded.

        Returns:
            Logits (N, num_classes, H, W); in training a list of them, the main ones first, if the
            network has auxiliary outputs.
        """
        height, width = image.shape[-2:]
        padded = F.pad(image, (0, -width % self.stride, 0, -height % self.stride))
        outputs = self.network(padded.contiguous(memory_format=self._memory_format))
        if isinstance(outputs, torch.Tensor):
            return outputs[..., :height, :width]
        return [logits[..., :height, :width] for logits in outputs]

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Return the loss of a batch; log it and the decoder's learning rate."""
        loss = self.loss(self(batch["image"]), batch["mask"])
        lr = self.trainer.optimizers[0].param_groups[-1]["lr"]
        if not torch.isfinite(loss):
            place = f"step {self.global_step}, learning rate {lr:.3g}, images {batch['name']}"
            way_out = "lower lr, raise warmup_steps or set --trainer.gradient_clip_val"
            raise DivergedError(f"the loss is {loss.item()} at {place}; {way_out}")
        size = len(batch["image"])
        self.log("train/loss", loss, prog_bar=True, sync_dist=True, batch_size=size)
        self.log("train/lr", lr, batch_size=size)
        return loss

    @property
    def _in_training(self) -> bool:
        """Whether a validation is one of a training."""
        return self.trainer.state.fn == TrainerFn.FITTING

    def on_validation_epoch_start(self) -> None:
        """Choose where this validation's pictures go."""
        # Asking for the folder is a broadcast, which needs every process.
        folder = self.trainer.log_dir
        if not isinstance(getattr(self.logger, "log_dir", None), str):  # MLflow's is of all runs
            folder = self.trainer.default_root_dir
        self._pictures = Path(folder) / "pictures" / str(self.global_step)

    def validation_step(self, batch: Batch, batch_idx: int) -> torch.Tensor | None:
        """Count the pixels of a batch by truth and prediction; draw an image of some batches.

        In a training the loss is computed, too, at the size of the masks.

        Returns:
            The predicted classes (N, H, W) for callbacks; of repeated images nothing.
        """
        new = metrics.count_new(self.trainer.val_dataloaders, batch_idx, len(batch["image"]))
        if not new:
            return None
        image, mask = batch["image"][:new], batch["mask"][:new]
        if self._in_training:
            logits = self.inference.logits(self, image)
            self.validation_loss.update(self.loss(logits, mask), weight=new)
            prediction = logits.argmax(1)
        else:
            prediction = self.inference.classes(self, image)
        self.confusion.update(prediction, mask)
        trial = self.trainer.sanity_checking or self.trainer.fast_dev_run
        drawn = sample(range(self.trainer.num_val_batches[0]), self.hparams["pictures"])
        if self.trainer.is_global_zero and not trial and batch_idx in drawn:
            picture = self.draw(image[0], mask[0], prediction[0])
            name = batch["name"][0].replace("/", "_")
            write_whole(self._pictures / f"{name}.png", lambda file: picture.save(file, "PNG"))
            for log in self.trainer.loggers:
                log_picture(log, f"pictures/{name}", picture, self.global_step)
        return prediction

    def on_validation_epoch_end(self) -> None:
        """Log `val/loss`, and `val/miou`, `val/accuracy` and `val/iou/<class>` from 0 to 1."""
        found = metrics.results_of(self.confusion.compute(), self.class_names)
        self.confusion.reset()
        losses = {"val/loss": self.validation_loss.compute()} if self._in_training else {}
        self.validation_loss.reset()
        if self.trainer.sanity_checking:
            return
        self.last_validation = found
        self.log("val/miou", found["miou"] or 0.0, prog_bar=True, sync_dist=True)
        others = {"accuracy": found["accuracy"]} | {f"iou/{k}": v for k, v in found["iou"].items()}
        known = {f"val/{name}": value for name, value in others.items() if value is not None}
        self.log_dict(known | losses, sync_dist=True)

    def configure_optimizers(self) -> dict[str, object]:
        """Return the optimizer, and the schedule over all steps of the trainer."""
        given = self.hparams
        names = ("lr", "encoder_lr_factor", "layer_decay", "weight_decay")
        rates = {name: given[name] for name in names}
        groups = network.parameter_groups(self.network, **rates)
        sgd = partial(torch.optim.SGD, momentum=given["momentum"])
        kinds = {"sgd": sgd, "adamw": torch.optim.AdamW}
        with as_user_error(ValueError):
            optimizer = kinds[given["optimizer"]](groups, lr=given["lr"])
        schedule = {name: given[name] for name in ("warmup_steps", "power")}
        steps = self.trainer.estimated_stepping_batches
        name = given["schedule"]
        scheduler = network.schedule_of(optimizer, name, total_steps=steps, **schedule)
        interval = {"scheduler": scheduler, "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": interval}

    def configure_callbacks(self) -> list[Callback]:
        """Return what averages the weights, if that is asked for."""
        if self.hparams["ema_decay"] is None or not self._in_training:
            return []
        with as_user_error(ImportError, prefix="ema_decay needs lightning 2.6: "):
            from regnet_backbones.semseg.averaging import AveragedWeights
        return [AveragedWeights(self.hparams["ema_decay"])]

    def setup(self, stage: str) -> None:
        """Synchronise batch norms between processes, and optimize the network, if asked for."""
        trainer, given = self.trainer, self.hparams
        # Lightning applies it after `setup`, and has no public name for the setting.
        if isinstance(trainer._accelerator_connector._layer_sync, TorchSyncBatchNorm):
            text = "--trainer.sync_batchnorm would delete the activations of a RegNet"
            raise UserError(f"{text}; set --model.sync_batchnorm true instead")
        synchronised = any(isinstance(m, nn.SyncBatchNorm) for m in self.network.modules())
        if given["sync_batchnorm"] and trainer.world_size > 1 and not synchronised:
            self.network = convert_norm(self.network, "SyncBN")
        if stage == "fit" and given["class_weights"] == "balanced":
            self.loss.set_class_weights(self._balanced_weights(), len(self.class_names))
        if stage == "fit" and (given["optimize"] or given["compile"]):
            self._optimize_training()
        elif stage == "validate" and self.optimization is not None:
            self.to(trainer.strategy.root_device).optimize(self.optimization)

    def optimize(self, optimization: Optimization) -> None:
        """Replace the network, which is on its device, by a fast copy for inference.

        Args:
            optimization: what to do.
        """
        size = self._padded(self.inference.window or self.typical_side)
        self.network, report = optimizing.optimize_trained(
            self.network, optimization, image_size=size
        )
        self._use_memory_format(report.memory_format)
        if rank_zero_only.rank == 0:
            optimizing.log_report(report)

    def _balanced_weights(self) -> list[float]:
        """Return class weights by the pixels that the check of the data has counted."""
        counts = getattr(self.trainer.datamodule, "label_counts", {}).get("train")
        if counts is None:
            raise UserError("class_weights 'balanced' needs SegmentationData; pass numbers instead")
        pixels = [counts.classes[label] for label in range(len(self.class_names))]
        return [n and sum(pixels) / (len(pixels) * n) for n in pixels]  # 0 for absent classes

    def _optimize_training(self) -> None:
        """Make the training fast, in all processes, before DDP; the state dict stays."""
        trainer, given = self.trainer, self.hparams
        data = getattr(trainer.datamodule, "hparams", {})
        self.network.to(trainer.strategy.root_device)
        memory_format = "channels_last" if given["channels_last"] else "auto"
        report = optimizing.optimize_training(
            self.network,
            Optimization(compile=given["compile"], fold=given["fold"], memory_format=memory_format),
            image_size=self._padded(data.get("crop_size", 512)),
            batch_size=max(1, data.get("batch_size", 2) // trainer.world_size),
            autocast=AUTOCAST.get(trainer.precision),
            from_first=trainer.strategy.broadcast,
        )
        self._use_memory_format(report.memory_format)
        if trainer.is_global_zero:
            optimizing.log_report(report)

    def _padded(self, side: int) -> tuple[int, int]:
        """Return height and width of a square as the network gets it."""
        return (side + -side % self.stride,) * 2

    def _use_memory_format(self, name: str) -> None:
        """Lay network and images out in a memory format of `FORMATS`."""
        self._memory_format = FORMATS[name]
        self.network.to(memory_format=self._memory_format)

    def draw(self, *images: torch.Tensor) -> Image.Image:
        """Return a picture of an image next to its masks.

        Args:
            images: a normalised image (3, H, W), and masks (H, W) such as truth and prediction.
        """
        mean, std = self.hparams["mean"], self.hparams["std"]
        colors = overlays.colors_of(self.class_names)
        return overlays.side_by_side(*images, mean=mean, std=std, colors=colors)
