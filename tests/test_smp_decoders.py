"""OCRNet, UNet 3+ and auxiliary heads: their papers' formulas, SMP's contract, and our trainer."""

import itertools
import math
from functools import partial

import lightning
import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from load_tool import load_tool
from PIL import Image
from torch.utils.data import DataLoader

from regnet_backbones import RegNetDesign, config_path, register_encoder, shapes
from regnet_backbones.adapters.smp import OCRNet, UNet3Plus, WithAuxiliaryHead
from regnet_backbones.adapters.smp.architectures import register_architectures
from regnet_backbones.adapters.smp.unet3plus import ABSENT, ClassificationGuide
from regnet_backbones.errors import UserError
from regnet_backbones.export import export_onnx
from regnet_backbones.optimize.passes import compile_network
from regnet_backbones.semseg.checkpoints import load_segmenter
from regnet_backbones.semseg.module import Segmenter
from regnet_backbones.semseg.network import SegmentationLoss, build_network
from regnet_backbones.semseg.resume import LastCheckpoint
from regnet_backbones.semseg.run import launch_run

QUICK = config_path("semseg/quick/unet_regnet_small_shapes.yaml")

# Small widths of what is wide in the papers.
NARROW = {OCRNet: {"decoder_channels": 24, "key_channels": 8}, UNet3Plus: {"decoder_channels": 4}}


def build(architecture, encoder="regnetx_002", **options):
    options = {"encoder_weights": None, "classes": 3, **NARROW[architecture], **options}
    return architecture(encoder, **options)


def guided(**options):
    return build(UNet3Plus, **{"classes": 2, "classification_guided": True, **options})


def with_head(encoder="regnetx_002", *, weight=0.4, **options):
    options = {"encoder_weights": None, "classes": 3, "decoder_channels": 16, **options}
    return WithAuxiliaryHead(smp.UPerNet(encoder, **options), weight=weight)


MODELS = {
    "ocrnet": partial(build, OCRNet),
    "unet3plus": partial(build, UNet3Plus),
    "guided": guided,
    "with_head": with_head,
}


@pytest.fixture
def tiny(monkeypatch):
    """Return options of a model on an encoder of three blocks."""
    monkeypatch.setattr(smp.encoders, "encoders", dict(smp.encoders.encoders))
    design = RegNetDesign(w_0=8, w_a=8.0, w_m=2.0, depth=7, group_width=8)
    register_encoder("tiny", design)
    return {"encoder": "tiny", "encoder_depth": 3}


def all_outputs(model, images):
    """Return what a model gives in training, with its norms and dropout as in evaluation."""
    model.eval()
    model.training = True
    with torch.no_grad():
        outputs = model(images)
    model.eval()
    return outputs


class Layers:
    """Layers of a model by name, restated with `torch.nn.functional` and its state dict."""

    def __init__(self, model):
        self.state = model.state_dict()

    def conv(self, name, x):
        weight = self.state[f"{name}.weight"]
        bias = self.state.get(f"{name}.bias")
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)

    def conv_norm_relu(self, name, x):
        of = {key: self.state[f"{name}.1.{key}"] for key in ("running_mean", "running_var")}
        of |= {key: self.state[f"{name}.1.{key}"] for key in ("weight", "bias")}
        return F.relu(F.batch_norm(self.conv(f"{name}.0", x), **of))

    def conv_norm_relus(self, name, x, count):
        for k in range(count):
            x = self.conv_norm_relu(f"{name}.{k}", x)
        return x


def upsampled(x, factor, *, align_corners):
    options = {"mode": "bilinear", "align_corners": align_corners}
    return F.interpolate(x, scale_factor=factor, **options) if factor > 1 else x


# The papers' formulas


@pytest.mark.parametrize(("depth", "stride"), [(5, 8), (5, 32), (3, 8)])
def test_ocrnet_is_what_the_paper_says(depth, stride, randomize):
    """Where the last two maps differ in size, the coarse one is brought to the last one's."""
    options = {"encoder_depth": depth, "encoder_output_stride": stride}
    model = randomize(build(OCRNet, **options)).eval()
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        *_, c4, c5 = model.encoder(images)
        expected = ocr_restated(Layers(model), c4, c5, stride, keys=8)
        found = model(images)
    assert len(all_outputs(model, images)) == 2
    for one, other in zip(all_outputs(model, images), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found, expected[0], rtol=1e-4, atol=1e-5)


def ocr_restated(layers, c4, c5, stride, keys):
    coarse = layers.conv("auxiliary_head.2", layers.conv_norm_relu("auxiliary_head.0", c4))
    x = layers.conv_norm_relu("decoder.bottleneck", c5)
    size, block = x.shape[-2:], "decoder.object_context_block"
    at_pixels = coarse
    if coarse.shape[-2:] != size:
        at_pixels = F.interpolate(coarse, size, mode="bilinear", align_corners=False)
    regions = torch.exp(at_pixels)
    regions = regions / regions.sum((2, 3), keepdim=True)
    f = torch.einsum("nkhw,nchw->nck", regions, x)[..., None]  # (2)
    phi = layers.conv_norm_relus(f"{block}.query_project", x, 2)
    psi = layers.conv_norm_relus(f"{block}.key_project", f, 2)[..., 0]
    delta = layers.conv_norm_relus(f"{block}.value_project", f, 1)[..., 0]
    kappa = torch.einsum("nchw,nck->nkhw", phi, psi) / math.sqrt(keys)
    w = torch.exp(kappa) / torch.exp(kappa).sum(1, keepdim=True)  # (4)
    y = layers.conv_norm_relus(f"{block}.out_project", torch.einsum("nkhw,nck->nchw", w, delta), 1)
    z = layers.conv_norm_relus(f"{block}.bottleneck", torch.cat([y, x], 1), 1)  # (5)
    masks = upsampled(layers.conv("segmentation_head.0", z), stride, align_corners=True)
    return [masks, F.interpolate(coarse, masks.shape[-2:], mode="bilinear", align_corners=False)]


def test_the_pixels_of_a_region_are_its_representation():
    """By hand: the third of four pixels is all of the first region, the second has all alike."""
    from regnet_backbones.adapters.smp.ocrnet import spatial_gather

    pixels = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])
    coarse = torch.tensor([[[[0.0, 0.0], [99.0, 0.0]], [[5.0, 5.0], [5.0, 5.0]]]])
    assert spatial_gather(pixels, coarse).tolist() == [[[[3.0], [3.0]]]]
    coarse[0, 1, 1, 1] = 99.0
    assert spatial_gather(pixels, coarse).tolist() == [[[[3.0], [6.0]]]]


@pytest.mark.parametrize("depth", [3, 5])
def test_unet3plus_is_what_the_paper_says(depth, randomize):
    model = randomize(build(UNet3Plus, encoder_depth=depth)).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        encoded = model.encoder(images)[1:]
        expected = unet3plus_restated(Layers(model), encoded)
        found = model(images)
    # Four channels of each scale: 20 of five.
    fusions = {tuple(stage.fusion[0].weight.shape[:2]) for stage in model.decoder.stages}
    assert fusions == {(4 * depth, 4 * depth)}
    outputs = all_outputs(model, images)
    assert len(outputs) == len(expected) == depth
    for one, other in zip(outputs, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found, outputs[0])
    assert model.auxiliary_weights == (1 / (depth - 1),) * (depth - 1)


def unet3plus_restated(layers, encoded):
    """Equation 1: a decoder's map of encoder maps at least as fine, and coarser decoder maps."""
    decoded = {len(encoded) - 1: encoded[-1]}
    for i in reversed(range(len(encoded) - 1)):
        parts = [F.max_pool2d(encoded[k], 2 ** (i - k)) for k in range(i)] + [encoded[i]]
        for k in range(i + 1, len(encoded)):
            parts.append(upsampled(decoded[k], 2 ** (k - i), align_corners=False))
        convolved = [
            layers.conv_norm_relu(f"decoder.stages.{i}.skips.{k}.1", part)
            for k, part in enumerate(parts)
        ]
        decoded[i] = layers.conv_norm_relu(f"decoder.stages.{i}.fusion", torch.cat(convolved, 1))
    heads = ["segmentation_head", *(f"auxiliary_heads.{k}" for k in range(len(encoded) - 1))]
    return [
        upsampled(layers.conv(f"{head}.0", decoded[k]), 2 ** (k + 1), align_corners=True)
        for k, head in enumerate(heads)
    ]


def test_a_guide_takes_objects_out_of_images_without_them(randomize):
    model = randomize(guided()).eval()
    images = torch.randn(4, 3, 64, 64)
    *pixels, decision = all_outputs(model, images)
    deepest = model.encoder(images)[-1]
    weight, bias = model.guide.classifier.weight[:, :, 0, 0], model.guide.classifier.bias
    scores = torch.einsum("nchw,kc->nkhw", deepest, weight) + bias[:, None, None]
    torch.testing.assert_close(decision[..., 0, 0], scores.flatten(2).max(-1).values)
    # Halfway between the images' scores, so that some of them are on either side.
    margin = (decision[:, 1] - decision[:, 0]).flatten()
    with torch.no_grad():
        model.guide.classifier.bias[1] -= margin.sort().values[1:3].mean()
        masks = model(images)
    present = margin > margin.sort().values[1:3].mean()
    assert present.sum() == 2
    torch.testing.assert_close(masks[present], pixels[0][present])
    torch.testing.assert_close(masks[:, 0], pixels[0][:, 0])
    assert (masks[~present, 1] == ABSENT).all()


def test_a_guide_of_one_class():
    masks, decision = torch.ones(2, 1, 2, 2), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    gated = ClassificationGuide(4).gate(masks, decision[..., None, None])
    assert gated.flatten(1).tolist() == [[1.0] * 4, [ABSENT] * 4]


def test_an_encoder_that_is_frozen_stays_so_with_an_auxiliary_head():
    model = smp.UPerNet("regnetx_002", encoder_weights=None, decoder_channels=16)
    model.freeze_encoder()
    both = WithAuxiliaryHead(model).train()
    assert both.auxiliary_head.training
    assert not any(part.training for part in both.encoder.modules() if hasattr(part, "momentum"))


def test_an_auxiliary_head_reads_c4_and_leaves_the_model_as_it_is(randomize):
    model = smp.PSPNet(
        "regnetx_002", encoder_weights=None, classes=3, encoder_depth=5, upsampling=32
    )
    both = randomize(WithAuxiliaryHead(model, channels=16)).eval()
    images = torch.randn(1, 3, 64, 64)
    layers = Layers(both)
    with torch.no_grad():
        c4 = model.encoder(images)[4]
        expected = layers.conv("auxiliary_head.2", layers.conv_norm_relu("auxiliary_head.0", c4))
        main, auxiliary = all_outputs(both, images)
        torch.testing.assert_close(auxiliary, upsampled(expected, 16, align_corners=False))
        assert torch.equal(main, model.eval()(images))
        assert torch.equal(both(images), main)
    parts = set(both.state_dict()) - set(model.state_dict())
    assert {name.split(".")[0] for name in parts} == {"auxiliary_head"}
    assert both.auxiliary_weights == (0.4,)


# The contract


@pytest.mark.parametrize("name", MODELS)
def test_training_returns_every_output_and_reaches_every_weight(name):
    model = MODELS[name]().train()
    outputs = model(torch.randn(2, 3, 64, 64))
    classes = 2 if name == "guided" else 3
    whole = [each for each in outputs if each.shape == (2, classes, 64, 64)]
    assert len(outputs) == 1 + len(model.auxiliary_weights)
    assert len(outputs) - len(whole) == (name == "guided")
    if name == "guided":
        assert outputs[-1].shape == (2, 2, 1, 1)
    sum(each.square().mean() for each in outputs).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key


@pytest.mark.parametrize("encoder", ["regnety_002", "resnet18", "tu-resnet18", "mit_b0"])
@pytest.mark.parametrize("architecture", [OCRNet, UNet3Plus])
def test_every_kind_of_encoder_will_do(architecture, encoder):
    """The transformer has no C1, takes three channels, and cannot be dilated."""
    transformer = encoder == "mit_b0"
    options = {"encoder_output_stride": 32} if transformer and architecture is OCRNet else {}
    channels = 3 if transformer else 1
    model = build(architecture, encoder, in_channels=channels, **options).eval()
    with torch.no_grad():
        assert model(torch.randn(1, channels, 96, 64)).shape == (1, 3, 96, 64)


@pytest.mark.parametrize("architecture", [OCRNet, UNet3Plus])
def test_a_saved_model_loads_and_gives_the_same_masks(architecture, randomize, tmp_path):
    model = randomize(build(architecture, encoder_depth=4, in_channels=1)).eval()
    model.save_pretrained(tmp_path)
    loaded = smp.from_pretrained(tmp_path).eval()
    assert type(loaded) is architecture
    image = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(image), model(image))
    made = smp.create_model(architecture.__name__, "regnetx_002", encoder_weights=None)
    assert type(made) is architecture


def test_smp_gains_two_names_and_keeps_its_own(monkeypatch):
    mapping = smp.MODEL_ARCHITECTURES_MAPPING
    assert (smp.OCRNet, mapping["ocrnet"]) == (OCRNet, OCRNet)
    assert (smp.UNet3Plus, mapping["unet3plus"]) == (UNet3Plus, UNet3Plus)
    assert list(mapping)[:2] == ["unet", "unetplusplus"]
    assert mapping["unet"] is smp.Unet
    # Of a later SMP.
    monkeypatch.setattr(smp, "OCRNet", smp.Unet)
    monkeypatch.setitem(mapping, "ocrnet", smp.Unet)
    register_architectures(smp)
    assert (smp.OCRNet, mapping["ocrnet"]) == (smp.Unet, smp.Unet)


@pytest.mark.parametrize("name", MODELS)
def test_it_compiles_as_one_graph(name, tiny, traced_graphs):
    model = MODELS[name](**tiny)
    images = torch.randn(2, 3, 64, 64)
    compile_network(model.train(), inference=False, dynamic=False)
    assert len(model(images)) == 1 + len(model.auxiliary_weights)
    assert len(traced_graphs) == 1


@pytest.mark.parametrize("architecture", [OCRNet, UNet3Plus])
def test_an_exported_model_has_one_output(architecture, tiny, randomize, tmp_path):
    """As in evaluation, whatever it is in; the export compares the file with the model."""
    model = build(architecture, in_channels=1, **tiny)
    checked = export_onnx(randomize(model).train(), tmp_path / "net.onnx", image_size=(32, 48))
    assert [size.shape for size in checked.sizes] == [(1, 1, 56, 56), (3, 1, 40, 80)]
    assert all(list(size.errors) == ["logits"] for size in checked.sizes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: guided(classes=3), "classification_guided needs .*got classes 3"),
        (lambda: guided(activation="sigmoid"), "and activation None, got .*'sigmoid'"),
        (lambda: with_head(weight=0.0), "must be above 0, got 0.0"),
        (
            lambda: build_network("ocrnet", "regnetx_002", 3, auxiliary_weight=0.4),
            "OCRNet cannot have an auxiliary head",
        ),
        (lambda: build(OCRNet, encoder_output_stride=4), "output_stride"),
        (lambda: build(UNet3Plus)(torch.randn(1, 3, 60, 64)), "divisible by 32"),
    ],
)
def test_what_cannot_be_says_why(make, message):
    with pytest.raises((ValueError, RuntimeError), match=message):
        make()


# The loss and the trainer


def test_auxiliary_losses_are_added_by_their_weights():
    mask = torch.randint(0, 3, (2, 8, 8))
    outputs = torch.randn(3, 2, 3, 8, 8)
    losses = [F.cross_entropy(each, mask) for each in outputs]
    loss = SegmentationLoss("ce", (0.4, 0.25))
    torch.testing.assert_close(
        loss(list(outputs), mask), losses[0] + 0.4 * losses[1] + 0.25 * losses[2]
    )
    torch.testing.assert_close(loss(outputs[0], mask), losses[0])


def test_the_object_of_an_image_is_whatever_is_not_background():
    mask = torch.zeros(3, 4, 4, dtype=torch.long)
    mask[0, 1, 1], mask[1, 2], mask[2] = 1, 255, 255
    decisions = torch.randn(3, 2, 1, 1)
    # With the object, without, and unknown.
    expected = F.cross_entropy(decisions[:2, :, 0, 0], torch.tensor([1, 0]))
    loss = SegmentationLoss("dice", (2.0,))
    logits = torch.randn(3, 2, 4, 4)
    found = loss([logits, decisions], mask) - loss(logits, mask)
    torch.testing.assert_close(found, 2 * expected)


class OneBatch(lightning.LightningDataModule):
    """Two images whose classes are blocks of brightness."""

    def train_dataloader(self):
        generator = torch.Generator().manual_seed(0)
        blocks = torch.randint(0, 3, (2, 1, 4, 4), generator=generator)
        masks = F.interpolate(blocks.float(), (50, 64))[:, 0].long()
        images = masks[:, None] - 1.0 + 0.1 * torch.randn(2, 1, 50, 64, generator=generator)
        images = images.expand(-1, 3, -1, -1)
        names = ("one", "other")
        items = [
            {"image": image, "mask": mask, "name": name}
            for image, mask, name in zip(images, masks, names, strict=True)
        ]
        return DataLoader(items, batch_size=2)

    val_dataloader = train_dataloader


@pytest.mark.parametrize(
    "options",
    [
        {"decoder": "OCRNet", "decoder_options": NARROW[OCRNet]},
        {"decoder": "unet3plus", "decoder_options": NARROW[UNet3Plus]},
        {"decoder": "UPerNet", "auxiliary_weight": 0.4},
    ],
    ids=["ocrnet", "unet3plus", "auxiliary"],
)
def test_the_trainer_learns_from_every_output(options, tmp_path):
    options = {"encoder": "regnetx_002", "encoder_weights": None, "pictures": 0, **options}
    model = Segmenter(3, **options, lr=0.01)
    before = {key: value.clone() for key, value in model.network.named_parameters()}
    seen = []
    model.loss.register_forward_hook(lambda module, inputs, loss: seen.append((*inputs, loss)))
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, OneBatch())
    outputs, mask, loss = seen[0]  # those after it are of the validation
    assert all(logits.shape == (2, 3, 50, 64) for logits in outputs)
    weights = (1.0, *model.network.auxiliary_weights)
    terms = [w * F.cross_entropy(z, mask) for w, z in zip(weights, outputs, strict=True)]
    assert len(terms) > 1
    torch.testing.assert_close(loss, sum(terms))
    still = [k for k, p in model.network.named_parameters() if torch.equal(p, before[k])]
    assert not [key for key in still if "head" in key]
    assert model.last_validation["miou"] is not None


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Draw a small dataset, with masks of one object: circles."""
    spec = shapes.ShapesSpec(num_train=8, num_val=2, image_size=64)
    root = shapes.write(tmp_path_factory.mktemp("shapes") / "shapes", spec).root / "semantic"
    for path in (root / "annotations").rglob("*.png"):
        circles = Image.open(path).point(lambda label: 255 * (label in (1, 2, 3))).convert("L")
        target = root / "masks" / path.relative_to(root / "annotations")
        target.parent.mkdir(parents=True, exist_ok=True)
        circles.save(target)
    return root


def main(tool, *arguments):
    assert load_tool(tool).main([str(each) for each in arguments]) == 0


def training(dataset, output, steps, *more):
    return [
        *("--config", QUICK, "--output", output, "--data.root", dataset, "--data.crop_size", 32),
        *("--data.batch_size", 4, "--data.num_workers", 0, "--trainer.max_steps", steps),
        *("--trainer.val_check_interval", 2, "--trainer.enable_progress_bar", "false"),
        *("--trainer.log_every_n_steps", 1, "--trainer.accelerator", "cpu"),
        *("--model.pictures", 0, *more),
    ]


class BrokenOffError(Exception):
    """What breaks a run off."""


def test_a_run_with_an_auxiliary_head_resumes_and_predicts_without_it(
    dataset, tmp_path, monkeypatch
):
    """Bit by bit, also what the dropout of the head draws."""
    head = ["--model.decoder", "UPerNet", "--model.auxiliary_weight", "0.4"]
    head += ["--model.decoder_options", "{decoder_channels: 16}"]
    write = LastCheckpoint._write

    def write_and_break_off(self, trainer):
        write(self, trainer)
        if trainer.global_step == 1:
            raise BrokenOffError

    command = training(dataset, tmp_path / "run", 2, *head, "--save_every", 1)
    monkeypatch.setattr(LastCheckpoint, "_write", write_and_break_off)
    with pytest.raises(BrokenOffError):
        main("train_semseg", *command)
    monkeypatch.setattr(LastCheckpoint, "_write", write)
    with pytest.raises(UserError, match="auxiliary_weight was 0.4 and is 0.2"):
        launch_run([*map(str, command), "--resume", "--model.auxiliary_weight", "0.2"])
    main("train_semseg", *command, "--resume")
    main("train_semseg", *training(dataset, tmp_path / "unbroken", 2, *head))
    state, unbroken = (
        torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run in ("run", "unbroken")
    )
    assert any(key.startswith("network.auxiliary_head.") for key in state)
    torch.testing.assert_close(state, unbroken, rtol=0, atol=0)

    # A run of before the option had no head.
    last = tmp_path / "unbroken" / "checkpoints" / "last.ckpt"
    older = torch.load(last, weights_only=True)
    del older[Segmenter.CHECKPOINT_HYPER_PARAMS_KEY]["auxiliary_weight"]
    torch.save(older, last)
    with pytest.raises(UserError, match="auxiliary_weight was None and is 0.4"):
        launch_run([*map(str, training(dataset, tmp_path / "unbroken", 4, *head)), "--resume"])

    trained = load_segmenter(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert trained.hparams["auxiliary_weight"] == 0.4
    assert type(trained.network) is smp.UPerNet
    for key, value in trained.network.state_dict().items():
        assert torch.equal(state[f"network.{key}"], value)


def test_grey_images_of_an_object_are_trained_on_and_predicted(dataset, tmp_path):
    """As in the medical recipe."""
    recipe = config_path("semseg/unet3plus_regnety_016_medical_20k.yaml")
    small = training(dataset, tmp_path / "run", 2)[2:]
    encoder = ["--model.encoder", "regnetx_002", "--model.encoder_weights", "null"]
    encoder += ["--model.decoder_options", "{decoder_channels: 4, classification_guided: true}"]
    folders = {"images": "images", "masks": "masks"}
    splits = {"train": "training", "val": "validation"}
    for (split, name), kind in itertools.product(splits.items(), folders):
        small += [f"--data.{split}_{kind}", f"{kind}/{name}"]
    precision = ["--trainer.precision", "32-true"]
    main("train_semseg", "--config", recipe, *small, *encoder, *precision)
    trained = load_segmenter(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert trained.network.encoder.stem.conv.in_channels == 1
    assert trained.class_names == ("background", "object")
    (tmp_path / "seen").mkdir()
    images = dataset / "images" / "validation"
    main("predict", tmp_path / "run", images, "--output", tmp_path / "seen")
    overlays = list((tmp_path / "seen" / "overlays").iterdir())
    assert len(overlays) == 2
    assert Image.open(overlays[0]).mode == "RGB"
