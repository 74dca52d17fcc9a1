"""What keeps a training from harm, and the keys of a config that change how it goes."""

import itertools
import sys

import pytest
import torch
from detectron2.engine import DefaultPredictor, HookBase
from small_training import draw_images, small_config, train
from torch import nn

from regnet_backbones.cli.run import run_command
from regnet_backbones.cli.train import train_detector
from regnet_backbones.detection import run
from regnet_backbones.detection.trained import load_detector, load_weights
from regnet_backbones.detection.training.checkpoint import TrainingCheckpointer
from regnet_backbones.detection.training.trainer import Trainer
from regnet_backbones.norm import update_twice
from regnet_backbones.runs.trained import find_trained
from regnet_backbones.weights.checkpoints import read_checkpoint


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    draw_images(folder)
    return folder


# Checkpoints


class Nothing:
    """A trainer without a state."""

    def state_dict(self):
        return {}


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(tmp_path):
    model = nn.Linear(2, 2)
    checkpointer = TrainingCheckpointer(model, str(tmp_path), trainer=Nothing())
    checkpointer.save("model_1", iteration=1)

    class Unwritable:
        def __reduce__(self):
            raise OSError("no space left")

    before = (tmp_path / "model_1.pth").read_bytes()
    for name in ("model_1", "model_2"):
        with pytest.raises(OSError, match="no space left"):
            checkpointer.save(name, iteration=2, unwritable=Unwritable())
    assert {f.name for f in tmp_path.iterdir()} == {"model_1.pth", "last_checkpoint"}
    assert (tmp_path / "model_1.pth").read_bytes() == before
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_1.pth")


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    value = float("nan")
    model = nn.Linear(2, 2)
    checkpointer = TrainingCheckpointer(model, str(tmp_path), trainer=Nothing())
    with torch.no_grad():
        model.bias[1] = value
    with pytest.raises(FloatingPointError, match=r"1 of 2 weights .* \(bias\).* checkpoint: none"):
        checkpointer.save("model_3", iteration=3)
    with torch.no_grad():
        model.bias[1] = 0
    checkpointer.save("model_3", iteration=3)
    with torch.no_grad():
        model.weight[0] = value
    message = rf"1 of 2 weights .* 7 \(weight\).* checkpoint: {tmp_path}/model_3.pth"
    with pytest.raises(FloatingPointError, match=message):
        checkpointer.save("model_7", iteration=7)
    assert {f.name for f in tmp_path.iterdir()} == {"model_3.pth", "last_checkpoint"}


# Losses that are not finite


class SpoiledLoss(HookBase):
    """Make a loss of the model something else in one iteration."""

    def __init__(self, iteration, value):
        self.iteration, self.value = iteration, value

    def before_train(self):
        self.trainer.model.register_forward_hook(self.spoil)

    def spoil(self, model, arguments, losses):
        if model.training and self.trainer.iter == self.iteration:
            self.batch = [record["file_name"] for record in arguments[0]]
            return {**losses, "loss_cls": losses["loss_cls"] * self.value}


def test_a_loss_that_is_not_finite_stops_before_the_step(images, tmp_path):
    value = float("inf")
    trainer = Trainer(small_config(tmp_path, "SOLVER.BASE_LR", 0.001, "SOLVER.WARMUP_ITERS", 0))
    spoiled = SpoiledLoss(3, value)
    trainer._hooks.insert(0, spoiled)
    trainer.register_hooks([])
    spoiled.trainer = trainer
    with pytest.raises(FloatingPointError) as raised:
        trainer.train()
    said = str(raised.value)
    for named in (
        *("iteration 3", "process 0:", f"loss_cls {value:g}", ", ".join(spoiled.batch)),
        *(f"{tmp_path}/model_0000001.pth", "SOLVER.BASE_LR"),
    ):
        assert named in said
    assert "SOLVER.AMP" not in said
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"
    # Three steps were taken, of iterations 0, 1 and 2.
    states = trainer.optimizer.state_dict()["state"].values()
    assert {int(state["step"]) for state in states} == {3}


def test_the_tool_says_so_in_its_last_lines(images, tmp_path, monkeypatch, capsys):
    """A learning rate of 1e20 does it; the last iteration is not taken for the end."""
    cfg = small_config(
        tmp_path, "SOLVER.BASE_LR", 1e20, "SOLVER.WARMUP_ITERS", 0, "SOLVER.MAX_ITER", 2
    )
    cfg.SOLVER.CHECKPOINT_PERIOD = 100
    monkeypatch.setattr(Trainer, "test", None)  # an evaluation would be a TypeError
    monkeypatch.setattr(run, "read_run_config", lambda *_: (cfg, {}))
    path = tmp_path / "config.yaml"
    path.write_text(cfg.dump())
    args = train_detector.parser("").parse_args(["--config-file", str(path)])
    assert run_command(lambda: run.launch_run(args)) == 1
    _, said = capsys.readouterr().err.split("error: the loss of iteration 1 is not finite:\n")
    assert "Predicted boxes or scores contain Inf/NaN" in said
    assert "last good checkpoint: none yet" in said
    assert "Traceback" not in said


# Keys of the config


@pytest.mark.parametrize("optimizer", ["SGD", "ADAMW"])
@pytest.mark.parametrize("kind", ["norm", "full_model"])
def test_gradients_are_clipped(images, tmp_path, kind, optimizer):
    """Those of each weight, which is detectron2's way, or all together."""
    clip = {
        "SOLVER.CLIP_GRADIENTS.ENABLED": True,
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": kind,
        "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 0.01,
        "SOLVER.OPTIMIZER": optimizer,
        "SOLVER.MAX_ITER": 1,
    }
    trainer = Trainer(small_config(tmp_path, *itertools.chain(*clip.items())))
    trainer.train()
    norms = [p.grad.norm().item() for p in trainer.model.parameters() if p.grad is not None]
    norm = max(norms) if kind == "norm" else sum(n**2 for n in norms) ** 0.5
    assert norm == pytest.approx(0.01, rel=1e-3)
    assert min(norms) < 0.009


def test_mixed_precision_without_a_gpu_is_refused_at_once(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(Trainer, "build_model", None)  # building one would be a TypeError
    path = tmp_path / "config.yaml"
    path.write_text(small_config(tmp_path, "SOLVER.AMP.ENABLED", True).dump())
    args = train_detector.parser("").parse_args(["--config-file", str(path)])
    assert run_command(lambda: run.launch_run(args)) == 2
    assert "SOLVER.AMP.ENABLED" in capsys.readouterr().err


def test_gradient_checkpointing_changes_nothing_but_memory(images, tmp_path):
    found = []
    for saving in (False, True):
        overrides = ["MODEL.REGNET.GRAD_CHECKPOINT", saving, "SOLVER.MAX_ITER", 1]
        torch.manual_seed(0)
        trainer = Trainer(small_config(tmp_path, *overrides))
        trainer.train()
        gradients = {n: p.grad for n, p in trainer.model.named_parameters()}
        losses = {k: v for k, (v, _) in trainer.storage.latest().items() if "loss" in k}
        buffers = {n: b for n, b in trainer.model.named_buffers() if "num_batches" not in n}
        found.append((losses, gradients, buffers))
    assert found[0][0] == found[1][0]
    for ours, theirs in zip(found[0][1:], found[1][1:], strict=True):
        for name, value in ours.items():
            torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-6, msg=name)


def test_two_updates_are_one():
    once, twice = nn.BatchNorm2d(3), update_twice(nn.Sequential(nn.BatchNorm2d(3)))
    for batch in torch.randn(2, 4, 3, 5, 5) * 3 + 1:
        for norm in (once, twice, twice):
            norm(batch)
    torch.testing.assert_close(twice[0].running_mean, once.running_mean)
    torch.testing.assert_close(twice[0].running_var, once.running_var)


class Weights(HookBase):
    """Note the weights after every step."""

    def __init__(self):
        self.found = []

    def after_step(self):
        state = self.trainer.model.state_dict()
        self.found.append({name: value.clone() for name, value in state.items()})


def test_averaged_weights_are_evaluated_saved_and_read(images, tmp_path, monkeypatch):
    evaluated = []
    monkeypatch.setattr(
        Trainer, "test", lambda _, cfg, model, evaluators: evaluated.append(model) or {}
    )
    ema = ["MODEL.EMA.ENABLED", True, "MODEL.EMA.DECAY", 0.5, "MODEL.EMA.WARMUP", False]
    cfg = small_config(tmp_path, *ema, "SOLVER.MAX_ITER", 3)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    notes = Weights()
    trainer.register_hooks([notes])
    trainer.train()

    # timm's average is the weights themselves in the first step.
    first, second, third = notes.found
    file = tmp_path / "model_final.pth"
    saved = torch.load(file)
    parameters = dict(trainer.model.named_parameters())
    for name, value in saved["model"].items():
        expected = third[name]
        if name in parameters:
            expected = first[name] / 4 + second[name] / 4 + third[name] / 2
        torch.testing.assert_close(value, expected, msg=name)
        assert torch.equal(saved["trained_model"][name], third[name])
    kernel = "backbone.bottom_up.s1.b1.conv1.conv.weight"
    averaged = saved["model"][kernel]
    assert not torch.equal(averaged, third[kernel])
    assert len(evaluated) == 1
    assert torch.equal(evaluated[0].state_dict()[kernel], averaged)

    # Whoever reads the file gets the average.
    assert torch.equal(read_checkpoint(file).state[kernel], averaged)
    cfg.MODEL.WEIGHTS = str(file)
    cfg.DATASETS.TEST = ()
    assert torch.equal(DefaultPredictor(cfg).model.state_dict()[kernel], averaged)
    model = Trainer.build_model(cfg)
    load_weights(model, str(file))  # as tools/evaluate.py and tools/predict.py
    assert torch.equal(model.state_dict()[kernel], averaged)
    # A training goes on with what it trained, with an average and without.
    for overrides in (ema, []):
        trainer = Trainer(small_config(tmp_path, *overrides))
        trainer.resume_or_load(resume=True)
        assert torch.equal(trainer.model.state_dict()[kernel], third[kernel])
        assert not overrides or torch.equal(trainer.average.module.state_dict()[kernel], averaged)


def test_precise_batch_norm_has_the_statistics_of_the_data(images, tmp_path):
    """Of timm's first batch norm, over all pixels of the first two batches."""
    precise = ["TEST.PRECISE_BN.ENABLED", True, "TEST.PRECISE_BN.NUM_ITER", 2]
    trainer = Trainer(small_config(tmp_path, *precise, "SOLVER.MAX_ITER", 2))
    trainer.train()
    model = trainer.model
    stem = model.backbone.bottom_up.stem
    batches = itertools.islice(Trainer.build_train_loader(trainer.cfg), 2)
    with torch.no_grad():
        inputs = [stem.conv(model.preprocess_image(batch).tensor) for batch in batches]
    pixels = torch.cat([x.movedim(1, 0).flatten(1) for x in inputs], dim=1)
    torch.testing.assert_close(stem.bn.running_mean, pixels.mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        stem.bn.running_var, pixels.var(1, correction=0), rtol=1e-4, atol=1e-5
    )


# Augmentation


AUGMENTATION = """
from detectron2.data import transforms as T

def build(cfg):
    return [T.Resize((24, cfg.INPUT.MAX_SIZE_TRAIN)), T.RandomBrightness(0.5, 1.5)]
"""


def test_images_are_augmented_by_a_function_of_the_user(images, tmp_path, monkeypatch):
    """It takes the place of all that the config has; only a training imports it."""
    (tmp_path / "module_of_the_user.py").write_text(AUGMENTATION)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    name = "module_of_the_user:build"
    options = ["INPUT.AUGMENTATION", name, "INPUT.MAX_SIZE_TRAIN", 36, "INPUT.CROP.ENABLED", True]
    cfg = small_config(tmp_path / "run", *options)
    model = Trainer.build_model(cfg)
    TrainingCheckpointer(model, cfg.OUTPUT_DIR, trainer=Nothing()).save("model_final")
    (tmp_path / "run" / "config.yaml").write_text(cfg.dump())
    load_detector(find_trained(tmp_path / "run"))
    assert "module_of_the_user" not in sys.modules
    samples = next(iter(Trainer.build_train_loader(cfg)))
    assert {tuple(sample["image"].shape) for sample in samples} == {(3, 24, 36)}
    losses, _ = train(cfg)
    assert len(losses) == 5
