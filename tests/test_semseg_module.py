"""The Lightning module of a segmenter: network, loss, metrics, schedule, checkpoints, processes."""

import copy
import math

import lightning
import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from killed_runs import forking_context
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from timm.layers import BatchNormAct2d
from timm.layers.norm_act import SyncBatchNormAct
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler

from regnet_backbones import RegNetFeatures
from regnet_backbones.errors import UserError
from regnet_backbones.runs.colors import class_colors, palette
from regnet_backbones.semseg import overlays
from regnet_backbones.semseg.checkpoints import load_segmenter
from regnet_backbones.semseg.inference import Inference
from regnet_backbones.semseg.module import Segmenter
from regnet_backbones.semseg.network import (
    architectures,
    build_network,
    parameter_groups,
    rate_factor,
)
from regnet_backbones.weights import load

CLASSES = 3
SMALL = {"decoder_channels": [32, 16, 8, 8, 8]}


def segmenter(num_classes=CLASSES, **options):
    options = {"encoder": "regnetx_002", "encoder_weights": None, "pictures": 0, **options}
    if "decoder" not in options:
        options.setdefault("decoder_options", SMALL)
    return Segmenter(num_classes, **options)


def example(seed, size=(64, 64)):
    """Return an image whose classes are blocks of brightness; a row at the top is ignored."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, CLASSES, (1, 1, 4, 4), generator=generator)
    mask = F.interpolate(blocks.float(), size)[0, 0].long()
    noise = torch.randn(3, *size, generator=generator)
    image = mask - 1.0 + 0.1 * noise
    mask[: 1 + 5 * seed] = 255
    return {"image": image, "mask": mask, "name": f"image{seed}"}


def loader(count=4, batch_size=2, first=0):
    return DataLoader([example(first + i) for i in range(count)], batch_size=batch_size)


def trainer(tmp_path, **options):
    return lightning.Trainer(
        **{
            "accelerator": "cpu",
            "devices": 1,
            "default_root_dir": tmp_path,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "log_every_n_steps": 1,
            "max_epochs": 2,
            **options,
        }
    )


class Losses(Callback):
    """Keeps the loss and learning rate of each step."""

    def __init__(self):
        self.losses, self.rates = [], []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.losses.append(trainer.callback_metrics["train/loss"].item())
        self.rates.append(trainer.callback_metrics["train/lr"].item())


# Networks


@pytest.mark.parametrize("name", sorted(architectures()))
def test_every_architecture_gives_logits_of_any_size(name):
    # DPT takes vision transformers only, and those one size.
    encoder = "tu-vit_tiny_patch16_224" if name == "DPT" else "regnetx_002"
    height, width = (220, 211) if name == "DPT" else (130, 141)
    model = segmenter(decoder=name.upper(), encoder=encoder).eval()
    assert type(model.network) is architectures()[name]
    with torch.no_grad():
        assert model(torch.randn(1, 3, height, width)).shape == (1, CLASSES, height, width)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder": "Unit"}, "decoder must be one of deeplabv3, .* got 'Unit'"),
        ({"decoder": "FPN", "output_stride": 8}, "FPN has no encoder_output_stride; it has"),
        ({"decoder_options": {"decoder_chanels": 8}}, "Unet has no decoder_chanels; it has"),
        ({"decoder_options": {"aux_params": {}}}, "Unet has no aux_params; it has"),
        ({"num_classes": 1}, "num_classes must be at least 2, got 1"),
        ({"num_classes": 256}, "classes must be 1 to 255, got 256"),
        ({"class_names": ("a", "b")}, "num_classes must be 2, .* got 3"),
        ({"class_names": ("a", "b", "a")}, "given twice: a"),
    ],
)
def test_arguments_that_cannot_be_used_say_why(options, message):
    with pytest.raises(ValueError, match=message):
        segmenter(**{"num_classes": CLASSES, **options})


NUMBERS = {"w_0": 24, "w_a": 24.0, "w_m": 2.0, "depth": 8, "group_width": 8}


def test_an_encoder_by_numbers_is_that_design_and_comes_back_from_a_checkpoint(tmp_path):
    model = segmenter(encoder=NUMBERS)
    assert [stage.width for stage in model.network.encoder.design.stages] == [24, 48, 96, 192]
    run = trainer(tmp_path)
    run.strategy.connect(model)
    run.save_checkpoint(tmp_path / "model.ckpt")
    again = load_segmenter(tmp_path / "model.ckpt")
    assert again.hparams["encoder"] == NUMBERS
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again.eval()(image), model.eval()(image))


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({**NUMBERS, "wm": 2.0}, "unexpected .*'wm'"),
        ({"w_0": 24}, "missing"),
        ({**NUMBERS, "w_m": 0.5}, "w_m"),
        ({**NUMBERS, "depth": 3}, "depth must be"),
    ],
)
def test_numbers_that_are_no_design_are_refused(numbers, message):
    with pytest.raises(ValueError, match=message):
        segmenter(encoder=numbers)


def test_images_must_be_normalised_as_the_weights_expect():
    """Before anything is fetched."""
    with pytest.raises(ValueError, match=r"need --data.mean \[0.5, 0.5, 0.5\], got"):
        segmenter(encoder="regnetz_c16", encoder_weights="imagenet")


def test_the_output_stride_is_the_encoders():
    network = build_network("deeplabv3plus", "regnetx_002", 2, output_stride=8)
    assert network.encoder.output_stride == 8
    assert build_network("deeplabv3plus", "regnetx_002", 2).encoder.output_stride == 16
    assert segmenter(decoder="DeepLabV3Plus", output_stride=8).stride == 8


@pytest.mark.parametrize(
    ("encoder", "branches"), [("regnetx_002", 1 + 1 + 4 + 7), ("regnetz_b16", 1 + 5 + 11 + 1)]
)
def test_residual_branches_start_at_zero_or_at_one(encoder, branches):
    """In timm's RegNet and its byobnet alike; RegNetZ's first blocks of stages have no shortcut."""

    def zeroed(**options):
        norms = segmenter(encoder=encoder, **options).network.encoder.modules()
        weights = [m.weight for m in norms if isinstance(m, nn.BatchNorm2d)]
        assert all((w == 0).all() or (w == 1).all() for w in weights)
        return sum(int((w == 0).all()) for w in weights)

    assert zeroed() == branches
    assert zeroed(zero_init_last=False) == 0


def test_channels_last_changes_the_layout_and_no_number():
    torch.manual_seed(0)
    usual = segmenter().eval()
    other = segmenter(channels_last=True).eval()
    other.load_state_dict(usual.state_dict())
    image = torch.randn(2, 3, 50, 64)
    seen = []
    other.network.encoder.register_forward_hook(lambda *call: seen.append(call[2][-1]))
    with torch.no_grad():
        torch.testing.assert_close(other(image), usual(image))
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert not seen[0].is_contiguous()


def test_padding_changes_nothing_where_sizes_are_divisible():
    model = segmenter().eval()
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(model(image), model.network(image), rtol=0, atol=0)
        padded = torch.zeros(1, 3, 64, 96)
        padded[..., :33, :70] = image[:1, :, :33, :70]
        expected = model.network(padded)[..., :33, :70]
        torch.testing.assert_close(model(image[:1, :, :33, :70]), expected, rtol=0, atol=0)


# Loss


def logits_and_mask():
    mask = torch.randint(0, CLASSES, (2, 16, 16))
    mask[:, 5:9] = 255
    return torch.randn(2, CLASSES, 16, 16, requires_grad=True), mask


def test_losses_are_those_of_torch_and_smp():
    logits, mask = logits_and_mask()
    entropy = F.cross_entropy(logits, mask, ignore_index=255)
    dice = smp.losses.DiceLoss("multiclass", ignore_index=255, from_logits=True)(logits, mask)
    focal = smp.losses.FocalLoss("multiclass", ignore_index=255)(logits, mask)
    lovasz = smp.losses.LovaszLoss("multiclass", ignore_index=255)(logits, mask)
    options = {"ignore_index": 255, "alpha": 0.2, "beta": 0.8}
    tversky = smp.losses.TverskyLoss("multiclass", **options)(logits, mask)
    sums = {"ce+dice": entropy + dice, "dice+focal": dice + focal, "ce+lovasz": entropy + lovasz}
    sums |= {"tversky": tversky, "lovasz": lovasz}
    for name, expected in {"ce": entropy, "dice": dice, "focal": focal, **sums}.items():
        loss = segmenter(loss=name, tversky=(0.2, 0.8)).loss
        torch.testing.assert_close(loss(logits, mask), expected)


def test_class_weights_are_those_of_torch_and_smp():
    logits, mask = logits_and_mask()
    weights = [0.5, 2.0, 1.0]
    focal = smp.losses.FocalLoss("multiclass", ignore_index=255, class_weights=weights)
    entropy = F.cross_entropy(logits, mask, torch.tensor(weights), ignore_index=255)
    for name, expected in {"ce": entropy, "focal": focal(logits, mask)}.items():
        loss = segmenter(loss=name, class_weights=weights).loss
        torch.testing.assert_close(loss(logits, mask), expected)


@pytest.mark.parametrize(
    ("named", "options"),
    [
        *(
            ("class_weights", {"class_weights": w})
            for w in ([1.0, 2.0], [1.0, -1.0, 1.0], [0.0] * 3)
        ),
        ("class_weights", {"class_weights": [1.0, 2.0, 3.0], "loss": "dice"}),
        *(("loss", {"loss": loss}) for loss in ("ce+ce", "dise", "")),
        *(("ema_decay", {"ema_decay": decay}) for decay in (1.0, -0.1)),
        ("freeze_stages", {"freeze_stages": 1, "encoder": "resnet18"}),
        ("freeze_at", {"freeze_stages": 6}),
    ],
)
def test_training_options_out_of_range_are_named(named, options):
    with pytest.raises(UserError, match=named):
        segmenter(**options)


@pytest.mark.parametrize("loss", ["ce", "dice", "focal", "ce+dice", "lovasz", "tversky"])
def test_ignored_pixels_have_no_gradient(loss):
    model = segmenter(loss=loss)
    logits, mask = logits_and_mask()
    model.loss(logits, mask).backward()
    assert (logits.grad[:, :, 5:9] == 0).all()
    assert (logits.grad[:, :, :5] != 0).all()
    logits.grad = None
    nothing = model.loss(logits, torch.full_like(mask, 255))
    nothing.backward()
    assert nothing.item() == 0
    assert (logits.grad == 0).all()


def test_a_loss_that_is_not_finite_stops_and_says_where(tmp_path):
    batches = loader()
    batches.dataset[3]["image"][0, 0, 0] = math.nan
    message = (
        r"the loss is nan at step 1, learning rate 0.002, images \['image2', 'image3'\]; lower lr"
    )
    with pytest.raises(FloatingPointError, match=message):
        trainer(tmp_path).fit(segmenter(lr=4e-3, warmup_steps=3), batches)


# Optimizer and schedule


def test_parameters_are_in_groups_by_part_and_decay():
    network = segmenter().network
    groups = parameter_groups(network, lr=0.1, encoder_lr_factor=0.5, weight_decay=0.01)
    assert [(group["name"], group["lr"], group["weight_decay"]) for group in groups] == [
        ("encoder/no_decay", 0.05, 0.0),
        ("encoder", 0.05, 0.01),
        ("decoder/no_decay", 0.1, 0.0),
        ("decoder", 0.1, 0.01),
    ]
    by_parameter = {id(p): group["name"] for group in groups for p in group["params"]}
    assert len(by_parameter) == len(list(network.parameters()))
    assert by_parameter[id(network.encoder.stem.bn.weight)] == "encoder/no_decay"
    assert by_parameter[id(network.encoder.stem.conv.weight)] == "encoder"
    assert by_parameter[id(network.segmentation_head[0].bias)] == "decoder/no_decay"
    assert by_parameter[id(network.segmentation_head[0].weight)] == "decoder"


def test_each_stage_of_the_encoder_has_a_part_of_the_rate_of_the_next():
    network = segmenter().network
    options = {"lr": 0.1, "encoder_lr_factor": 0.5, "weight_decay": 0.01, "layer_decay": 0.5}
    rates = {
        id(p): group["lr"]
        for group in parameter_groups(network, **options)
        for p in group["params"]
    }
    assert len(rates) == len(list(network.parameters()))
    found = [rates[id(network.encoder.get_submodule(f"s{k}").b1.conv1.conv.weight)] for k in (4, 1)]
    assert found == pytest.approx([0.025, 0.025 / 8])
    assert rates[id(network.encoder.stem.bn.weight)] == pytest.approx(0.025 / 16)
    assert rates[id(network.segmentation_head[0].weight)] == 0.1


def test_the_cosine_is_torchs():
    (parameter,) = nn.Linear(1, 1, bias=False).parameters()
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    for step in range(10):
        found = rate_factor(step, 10, warmup=0, power=0.9, name="cosine")
        assert found == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()


def test_frozen_stages_keep_weights_and_statistics(tmp_path):
    model = segmenter(freeze_stages=2)
    before = copy.deepcopy(model.network.encoder.state_dict())
    run = trainer(tmp_path, max_epochs=1)
    run.fit(model, loader())
    for name, value in model.network.encoder.state_dict().items():
        frozen = name.startswith(("stem.", "s1."))
        assert not frozen or torch.equal(value, before[name]), name
    assert not torch.equal(
        model.network.encoder.s2.b1.conv1.conv.weight, before["s2.b1.conv1.conv.weight"]
    )
    assert len(optimized(run)) == len([p for p in model.parameters() if p.requires_grad])
    run.save_checkpoint(tmp_path / "model.ckpt")
    loaded = load_segmenter(tmp_path / "model.ckpt").eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded(image), model.eval()(image), rtol=0, atol=0)


def optimized(run):
    return [p for group in run.optimizers[0].param_groups for p in group["params"]]


class Weights(Callback):
    """Keeps the weights of each step."""

    def __init__(self):
        self.steps = []

    def on_train_batch_end(self, trainer, module, *_):
        self.steps.append(copy.deepcopy(module.state_dict()))


def test_the_average_of_the_weights_by_hand(tmp_path):
    """The first step is the average; then what is kept of it rises from 2/11 to the decay."""
    seen, model = Weights(), segmenter(ema_decay=0.25, lr=0.01)
    run = trainer(tmp_path, max_epochs=3, callbacks=[seen])
    run.fit(model, loader(), loader(1, 1))
    run.save_checkpoint(tmp_path / "model.ckpt")
    average = seen.steps[0]
    for decay, step in zip([2 / 11, 0.25, 0.25, 0.25, 0.25], seen.steps[1:], strict=True):
        average = {
            name: decay * average[name] + (1 - decay) * value
            if value.is_floating_point()
            else value
            for name, value in step.items()
        }
    found = load_segmenter(tmp_path / "model.ckpt").eval()
    torch.testing.assert_close(dict(found.state_dict()), average)
    encoder = RegNetFeatures("regnetx_002")
    load(encoder, tmp_path / "model.ckpt")
    assert torch.equal(encoder.stem.conv.weight, found.network.encoder.stem.conv.weight)
    trainer(tmp_path).validate(found, loader(1, 1), verbose=False)
    assert found.last_validation["accuracy"] == model.last_validation["accuracy"]
    assert not torch.equal(next(found.parameters()), next(model.parameters()))


@pytest.mark.parametrize(
    ("step", "expected"),
    # Of 4 steps of warm-up in 24: 1/5 .. 4/5, then (1 - n/20)^0.9.
    [(0, 0.2), (3, 0.8), (4, 1.0), (14, 0.5358867), (23, 0.0674641), (24, 0.0), (30, 0.0)],
)
def test_the_schedule_by_hand(step, expected):
    factor = rate_factor(step, 24, warmup=4, power=0.9, name="poly")
    assert factor == pytest.approx(expected, abs=1e-6)


def test_a_run_without_an_end_has_no_schedule(tmp_path):
    with pytest.raises(ValueError, match="--trainer.max_steps or --trainer.max_epochs"):
        trainer(tmp_path, max_epochs=-1).fit(segmenter(), loader())


# Training


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_two_images_are_learnt_by_heart(optimizer, tmp_path):
    lr = {"adamw": 3e-3, "sgd": 0.05}[optimizer]
    seen = Losses()
    model = segmenter(optimizer=optimizer, lr=lr, warmup_steps=2)
    trainer(tmp_path, max_epochs=40, callbacks=[seen]).fit(model, loader(2))
    assert seen.losses[-1] < seen.losses[0] / 5
    assert seen.rates[:3] == pytest.approx([lr / 3, 2 * lr / 3, lr])
    assert seen.rates[-1] == pytest.approx(lr * (1 / 38) ** 0.9)


def test_bfloat16_trains_on_the_cpu(tmp_path):
    seen = Losses()
    run = trainer(tmp_path, precision="bf16-mixed", callbacks=[seen], max_epochs=1)
    model = segmenter(loss="ce+dice")
    run.fit(model, loader(), loader(1, 1))
    assert len(seen.losses) == 2
    assert all(math.isfinite(loss) for loss in seen.losses)
    assert 0 <= model.last_validation["miou"] <= 1


# Checkpoints


def test_a_checkpoint_loads_without_the_encoders_weights(tmp_path):
    weights = tmp_path / "encoder.pth"
    torch.save(segmenter().network.encoder.state_dict(), weights)
    names = ("sky", "sea", "land")
    model = segmenter(encoder_weights=str(weights), class_names=names, loss="ce+dice")
    run = trainer(tmp_path, max_epochs=1)
    run.fit(model, loader())
    run.save_checkpoint(tmp_path / "model.ckpt")
    weights.unlink()
    loaded = load_segmenter(tmp_path / "model.ckpt")
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(image), model.eval()(image), rtol=0, atol=0)
    assert loaded.class_names == names
    assert loaded.hparams["encoder_weights"] == str(weights)
    assert dict(loaded.hparams) == dict(model.hparams)


# Validation


class Answers(nn.Module):
    """Stands in for a network: its logits are the image."""

    def forward(self, image):
        return image


def test_metrics_against_a_confusion_matrix_by_hand(tmp_path):
    model = segmenter(4, class_names=("a", "b", "c", "d"))
    model.network = Answers()
    model.stride = 1
    #        truth, prediction
    pixels = [
        [(0, 0), (0, 0), (0, 1), (1, 1), (255, 2), (255, 3)],
        [(1, 0), (1, 1), (2, 0)],
    ]
    batches = []
    for image in pixels:
        truth, prediction = torch.tensor(image).T
        logits = F.one_hot(prediction, 4).float().T[:, None]
        batches.append({"image": logits, "mask": truth[None], "name": "image"})
    run = trainer(tmp_path)
    run.validate(model, DataLoader(batches, batch_size=1), verbose=False)
    # Rows truth, columns prediction: [2 1 0] [1 2 0] [1 0 0]; d is nowhere (but where ignored).
    expected = {
        "val/iou/a": 2 / 5,
        "val/iou/b": 2 / 4,
        "val/iou/c": 0 / 1,
        "val/miou": (2 / 5 + 2 / 4 + 0) / 3,
        "val/accuracy": 4 / 7,
    }
    logged = {name: value.item() for name, value in run.callback_metrics.items()}
    assert logged == pytest.approx(expected)
    assert model.last_validation["iou"].pop("d") is None
    assert model.last_validation["iou"] == pytest.approx({"a": 2 / 5, "b": 2 / 4, "c": 0})
    run.validate(model, DataLoader(batches[:1], batch_size=1), verbose=False)
    assert model.last_validation["accuracy"] == pytest.approx(3 / 4)


@pytest.mark.parametrize("inference", [Inference(), Inference(flip=True), Inference(window=32)])
def test_the_loss_of_a_validation_is_that_of_its_masks(inference, tmp_path):
    model = segmenter(loss="ce+dice", lr=1e-9)
    model.inference = inference
    run = trainer(tmp_path, max_epochs=1)
    run.fit(model, loader(), loader(2, 1))
    model.eval()
    of_images = []
    for batch in loader(2, 1):
        logits = inference(model, batch["image"]).log()
        of_images.append(model.loss(logits, batch["mask"]).item())
    assert run.callback_metrics["val/loss"].item() == pytest.approx(sum(of_images) / 2, rel=1e-5)


class Sizes(nn.Module):
    """Stands in for a network: its logits are the image, whose size it keeps."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, image):
        self.seen.append(tuple(image.shape[-2:]))
        return image


def test_validation_resizes_images_and_counts_at_the_size_of_the_masks(tmp_path):
    model = segmenter(short_side=8)
    model.network, model.stride = Sizes(), 1
    # Red, green and blue quarters; resized there and back their middles stay what they are.
    mask = torch.tensor([[0, 1], [2, 0]]).repeat_interleave(16, 0).repeat_interleave(24, 1)
    image = 9 * F.one_hot(mask, 3).float().permute(2, 0, 1)
    truth = torch.full_like(mask, 255)
    for rows in (slice(4, 12), slice(20, 28)):
        truth[rows, 4:20] = mask[rows, 4:20]
        truth[rows, 28:44] = mask[rows, 28:44]
    data = DataLoader([{"image": image, "mask": truth, "name": "image"}], batch_size=1)
    trainer(tmp_path).validate(model, data, verbose=False)
    assert model.network.seen == [(8, 12)]
    assert model.last_validation["accuracy"] == 1

    model.inference = Inference(window=16, window_stride=16)
    trainer(tmp_path).validate(model, data, verbose=False)
    assert model.network.seen[1:] == [(16, 16)] * 6
    assert "inference" not in model.hparams


def test_pictures_of_the_first_images_are_written_at_every_validation(tmp_path):
    board = TensorBoardLogger(tmp_path, name="", version="run")
    model = segmenter(pictures=2)
    validation = DataLoader([example(i, (40, 56)) for i in range(3)], batch_size=1)
    trainer(tmp_path, logger=board, num_sanity_val_steps=1).fit(model, loader(), validation)
    folder = tmp_path / "run" / "pictures"
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))
    assert files == ["2/image0.png", "2/image1.png", "4/image0.png", "4/image1.png"]
    assert Image.open(folder / files[0]).size == (3 * 56, 40)
    events = b"".join(path.read_bytes() for path in (tmp_path / "run").glob("events*"))
    assert b"pictures/image1" in events
    assert b"pictures/image2" not in events
    trainer(tmp_path / "trial", fast_dev_run=True).fit(segmenter(pictures=2), loader(), validation)
    assert not (tmp_path / "trial").exists()


def test_pictures_show_image_truth_and_prediction():
    image = torch.zeros(3, 2, 2)
    truth = torch.tensor([[0, 255], [255, 255]])
    prediction = torch.tensor([[1, 1], [0, 0]])
    picture = overlays.side_by_side(
        image,
        truth,
        prediction,
        mean=(0.2, 0.4, 0.6),
        std=(1.0, 1.0, 1.0),
        colors=[(255, 0, 0), (0, 0, 255)],
    )
    gray, red, blue = (51, 102, 153), (173, 40, 61), (20, 40, 214)
    pixels = [[picture.getpixel((x, y)) for x in range(6)] for y in range(2)]
    assert pixels[0] == [gray, gray, red, gray, blue, blue]
    assert pixels[1] == [gray, gray, gray, gray, red, red]


def test_colors_are_distinct_for_any_colour_vision():
    colors = palette(255)
    assert len(set(colors)) == 255
    assert palette(7) == colors[:7]
    linear = (np.array(colors[:20]) / 255) ** 2.2
    # Machado et al. (2009): what people with protanopia and deuteranopia see.
    views = (
        np.eye(3),
        [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
        [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    )
    for view in views:
        seen = 255 * np.clip(linear @ np.transpose(view), 0, 1) ** (1 / 2.2)
        differences = np.abs(seen[:, None] - seen[None]).max(axis=2)
        assert differences[np.triu_indices(20, 1)].min() > 15


def test_the_background_has_no_color():
    blue, orange = palette(2)
    assert class_colors(["a", "Background", "b"]) == {"a": blue, "b": orange}
    assert class_colors(["fine", "broken"]) == {"broken": blue}  # binary
    assert class_colors(["sky", "a", "b"], ["a", "cat"]) == {
        **{"a": blue, "cat": orange},
        **{"sky": palette(3)[2], "b": palette(4)[3]},
    }


# Processes


def test_lightnings_own_sync_batchnorm_is_refused(tmp_path):
    with pytest.raises(ValueError, match="would delete the activations.*model.sync_batchnorm true"):
        trainer(tmp_path, sync_batchnorm=True).fit(segmenter(), loader())


def test_one_process_keeps_its_batch_norms(tmp_path):
    model = segmenter(sync_batchnorm=True)
    trainer(tmp_path, max_steps=1).fit(model, loader())
    assert not any(isinstance(part, nn.SyncBatchNorm) for part in model.modules())


class TwoProcesses:
    """As much of a trainer as `setup` asks for."""

    world_size = 2

    def __init__(self, device):
        self.strategy = type("Strategy", (), {"root_device": torch.device(device)})
        self._accelerator_connector = type("Connector", (), {"_layer_sync": None})


def test_synchronised_batch_norms_keep_activations_and_are_converted_once(randomize):
    model = randomize(segmenter(sync_batchnorm=True)).eval()
    image = torch.randn(1, 3, 64, 64)
    before = model(image)
    count = sum(isinstance(part, nn.BatchNorm2d) for part in model.modules())
    activated = sum(isinstance(part, BatchNormAct2d) for part in model.modules())
    model._trainer = TwoProcesses("cuda")
    for _ in range(2):
        model.setup("fit")
        norms = [part for part in model.modules() if isinstance(part, nn.SyncBatchNorm)]
        assert len(norms) == count
        assert sum(isinstance(part, SyncBatchNormAct) for part in norms) == activated
        assert 0 < activated < count
        torch.testing.assert_close(model(image), before, rtol=1e-5, atol=1e-5)


class InOrder(lightning.LightningDataModule):
    """Eight images in batches of four of all processes; Lightning's own sampler would shuffle."""

    def train_dataloader(self):
        images = [example(i) for i in range(8)]
        processes = self.trainer.world_size
        sampler = DistributedSampler(images, processes, self.trainer.global_rank, shuffle=False)
        return DataLoader(images, sampler=sampler, batch_size=4 // processes)


# torch has no synchronised batch norm for the CPU: there its layers get one, by the definition.
TWO_PROCESSES = """
import torch
from torch import distributed, nn
from torch.distributed.nn.functional import all_reduce

from test_semseg_module import DataLoader, InOrder, Losses, example, segmenter, trainer

def synchronised(self, x):
    running = self.running_mean, self.running_var
    if not self.training:
        return nn.functional.batch_norm(x, *running, self.weight, self.bias, False, 0, self.eps)
    self.num_batches_tracked.add_(1)
    wide, pixels = x.double(), (0, 2, 3)
    count = distributed.get_world_size() * x.numel() / x.shape[1]
    mean = all_reduce(wide.sum(pixels)) / count
    centred = wide - mean[:, None, None]
    variance = all_reduce((centred * centred).sum(pixels)) / count
    with torch.no_grad():
        self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        unbiased = variance * count / (count - 1)
        self.running_var.lerp_(unbiased.to(self.running_var), self.momentum)
    normal = (centred * (variance + self.eps).rsqrt()[:, None, None]).to(x.dtype)
    return normal * self.weight[:, None, None] + self.bias[:, None, None]

nn.SyncBatchNorm.forward = synchronised
nn.parallel.DistributedDataParallel._passing_sync_batchnorm_handle = lambda *arguments: None

class Report(Losses):
    # Processes are forks, what they know must be written by them.
    def on_validation_end(self, trainer, module):
        if trainer.is_global_zero:
            torch.save(module.last_validation, f"{folder}/{trainer.world_size}-validation.pt")

    def on_train_end(self, trainer, module):
        norms = sum(isinstance(part, nn.SyncBatchNorm) for part in module.modules())
        report = {"losses": self.losses, "norms": norms, "maps": maps, **module.state_dict()}
        if trainer.is_global_zero:
            torch.save(report, f"{folder}/{trainer.world_size}-training.pt")

for processes, strategy in ((1, "auto"), (2, "ddp_fork")):
    torch.manual_seed(0)
    model = segmenter(sync_batchnorm=True, optimizer="sgd", lr=0.01, weight_decay=0.0)
    maps = []
    model.network.decoder.register_forward_hook(lambda *call: maps.append(call[-1].detach()))
    run = trainer(
        folder,
        max_epochs=1,
        callbacks=[Report()],
        num_sanity_val_steps=0,
        devices=processes,
        strategy=strategy,
        precision="64-true",  # in float32 the rounding of a step grows in the next, on some CPUs
    )
    validation = DataLoader([example(i, (40, 56)) for i in range(3)], batch_size=1)
    run.validate(model, validation, verbose=False)
    maps.clear()
    run.fit(model, datamodule=InOrder())
"""


def test_two_processes_train_as_one_with_the_whole_batch(tmp_path):
    run = forking_context().Process(target=exec, args=(TWO_PROCESSES, {"folder": str(tmp_path)}))
    run.start()
    run.join()
    assert run.exitcode == 0
    one, two = (torch.load(tmp_path / f"{count}-training.pt") for count in (1, 2))
    assert one.pop("norms") == 0
    assert two.pop("norms") > 50
    # The sampler gives the first process every other image.
    assert len(one["maps"]) == len(two["maps"]) == 2
    for whole, half in zip(one.pop("maps"), two.pop("maps"), strict=True):
        torch.testing.assert_close(half, whole[::2], rtol=1e-6, atol=1e-8)
    # Images have different numbers of ignored pixels.
    torch.testing.assert_close(two.pop("losses"), one.pop("losses"), rtol=1e-6, atol=0)
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-6, atol=1e-8, msg=name)
    # Of three images the sampler repeats one, which must not count twice.
    one, two = (torch.load(tmp_path / f"{count}-validation.pt") for count in (1, 2))
    assert two == one
