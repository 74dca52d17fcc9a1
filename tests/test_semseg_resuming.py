"""A run that is broken off again and again is in everything like an unbroken one."""

import random
import shutil

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from regnet_backbones.runs.resume import seeded
from regnet_backbones.runs.stopping import StopSignals
from regnet_backbones.semseg.loader import ResumableLoader, ResumableSampler
from regnet_backbones.semseg.resume import AtomicCheckpointIO, LastCheckpoint

IMAGES, BATCH, BATCHES = 13, 2, 6
VALIDATE_EVERY, STEPS = 5, 31


class Images(torch.utils.data.Dataset):
    """Images that are their own numbers, with what an augmentation draws."""

    def __len__(self):
        return IMAGES

    def __getitem__(self, drawn):
        index, seed = drawn if isinstance(drawn, tuple) else (drawn, 0)
        with seeded(seed):
            return self.draw(index)

    def draw(self, index):
        return torch.tensor([float(index), torch.rand(()), random.random(), np.random.rand()])


def loader(num_workers=0, **replicas):
    return ResumableLoader(
        Images(),
        batch_size=BATCH,
        sampler=ResumableSampler(Images(), **replicas),
        num_workers=num_workers,
        drop_last=True,
    )


def listed(batches):
    return [batch.tolist() for batch in batches]


def images(batches):
    return {image for batch in batches for image, *_ in batch}


def test_an_epoch_has_no_image_twice_and_the_next_has_another_order():
    one = loader()
    first = listed(one)
    one.sampler.set_epoch(1)
    second = listed(one)
    assert len(first) == len(second) == BATCHES
    assert len(images(first)) == len(images(second)) == BATCHES * BATCH
    assert first != second


def test_processes_share_the_images_out():
    shares = [images(listed(loader(num_replicas=3, rank=rank))) for rank in range(3)]
    assert [len(share) for share in shares] == [4, 4, 4]
    assert len(set.union(*shares)) == 12


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("had", [0, 4, 6])
def test_a_loader_goes_on_after_what_was_had(num_workers, had):
    """Workers are ahead of what was had."""
    unbroken = loader()
    unbroken.sampler.set_epoch(2)
    whole = listed(unbroken)

    broken = loader(num_workers)
    broken.sampler.set_epoch(2)
    batches = iter(broken)
    assert listed(next(batches) for _ in range(had)) == whole[:had]
    state = broken.state_dict()
    assert state == {"seed": 0, "epoch": 2, "batches": had}

    resumed = loader(num_workers)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert listed(resumed) == whole[had:]
    resumed.sampler.set_epoch(3)
    unbroken.sampler.set_epoch(3)
    assert listed(resumed) == listed(unbroken)


def test_the_seed_is_that_of_the_run(monkeypatch):
    plain = listed(loader())
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    seeded = loader()
    assert listed(seeded) != plain
    state = seeded.state_dict()
    monkeypatch.delenv("PL_GLOBAL_SEED")
    resumed = loader()
    resumed.load_state_dict({**state, "batches": 0})
    assert listed(resumed) == listed(seeded)


def test_with_another_number_of_batches_a_run_resumes_at_its_own():
    resumed = loader()
    resumed.load_state_dict({"seed": 0, "epoch": 4, "batches": 2})
    assert len(listed(resumed)) == BATCHES - 2
    resumed.load_state_dict({"seed": 0, "epoch": 4, "batches": 7})
    assert listed(resumed) == []
    resumed.sampler.set_epoch(5)
    assert len(listed(resumed)) == BATCHES


def test_augmentation_is_that_of_image_epoch_and_seed_in_any_worker():
    here, there = listed(loader()), listed(loader(num_workers=2))
    assert here == there
    drawn = [tuple(image[1:]) for batch in here for image in batch]
    assert len(set(drawn)) == BATCHES * BATCH
    one, other = (listed(loader(num_replicas=2, rank=rank)) for rank in range(2))
    flat = {image[0]: image for batch in here for image in batch}
    assert all(image == flat[image[0]] for share in (one, other) for b in share for image in b)


class Recorder(LightningModule):
    """Has an image a step; what it had is in the checkpoint, so that a broken run forgets."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)
        self.had, self.validated = [], []

    def training_step(self, batch):
        drawn = (torch.rand(()).item(), random.random(), np.random.rand())
        self.had.append((self.trainer.current_epoch, batch.tolist(), drawn))
        return self.layer(batch).mean() * drawn[0]

    def validation_step(self, batch):
        self.layer(batch)

    def on_validation_epoch_end(self):
        self.validated.append(self.trainer.global_step)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_save_checkpoint(self, checkpoint):
        checkpoint["recorded"] = (list(self.had), list(self.validated))

    def on_load_checkpoint(self, checkpoint):
        had, validated = checkpoint["recorded"]
        self.had, self.validated = list(had), list(validated)


class BrokenOffError(Exception):
    """What breaks a run off."""


class BreakingOff(AtomicCheckpointIO):
    """Break the run off once it has written a number of checkpoints."""

    def __init__(self, left):
        super().__init__()
        self.left = left

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        super().save_checkpoint(checkpoint, path, storage_options)
        self.left -= 1
        if self.left == 0:
            raise BrokenOffError


def last_checkpoint(path, every):
    return LastCheckpoint(path, every=every, signals=StopSignals(), options={})


def train(folder, breaks_after=-1, every=1, accumulate=1):
    """Train to the end, or until a number of checkpoints is written; return what was recorded."""
    torch.manual_seed(0)
    model = Recorder()
    trainer = Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        accumulate_grad_batches=accumulate,
        val_check_interval=VALIDATE_EVERY,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        plugins=[BreakingOff(breaks_after)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    last = folder / "last.ckpt"
    trainer.callbacks.append(last_checkpoint(last, every=every))
    trainer.fit(
        model,
        loader(),
        DataLoader(Images(), batch_size=IMAGES),
        ckpt_path=str(last) if last.is_file() else None,
    )
    return model.had, model.validated


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return train(tmp_path_factory.mktemp("unbroken"))


def test_an_unbroken_run_counts_its_epochs(unbroken):
    had, validated = unbroken
    assert [epoch for epoch, *_ in had] == [step // BATCHES for step in range(STEPS)]
    assert validated == [5, 10, 15, 20, 25, 30]
    assert len({drawn for *_, drawn in had}) == STEPS


# 6 is the last batch of an epoch, 5 before and 6 after a validation; the others are chance.
CHAINS = [(6, 5), (7, 6, 7), (1,) * 8]
CHAINS += [tuple(random.Random(seed).choices(range(1, 9), k=4)) for seed in range(2)]


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: "-".join(map(str, chain[:5])))
def test_a_run_broken_off_again_and_again_has_what_an_unbroken_one_has(chain, unbroken, tmp_path):
    for breaks_after in chain:
        with pytest.raises(BrokenOffError):
            train(tmp_path, breaks_after)
    assert train(tmp_path) == unbroken


def test_the_last_checkpoint_is_that_of_the_last_validation_and_then_of_the_end(tmp_path):
    last = tmp_path / "last.ckpt"
    for validations in (1, 2):
        with pytest.raises(BrokenOffError):
            train(tmp_path, breaks_after=1, every=1000)
        assert torch.load(last, weights_only=True)["global_step"] == validations * VALIDATE_EVERY
    train(tmp_path, every=1000)
    assert torch.load(last, weights_only=True)["global_step"] == STEPS


@pytest.mark.parametrize("every", [2, 1000])
def test_no_gradient_is_lost_where_gradients_are_accumulated(every, tmp_path):
    """Validations are after 5 batches, in the middle of two that are one step, 10, 15, ..."""
    folders = [tmp_path / name for name in ("unbroken", "broken")]
    for folder in folders:
        folder.mkdir()
    train(folders[0], every=every, accumulate=2)
    for breaks_after in (1, 1, 2, 1):
        with pytest.raises(BrokenOffError):
            train(folders[1], breaks_after, every=every, accumulate=2)
    train(folders[1], every=every, accumulate=2)
    unbroken, broken = (torch.load(f / "last.ckpt", weights_only=True) for f in folders)
    assert unbroken["global_step"] == broken["global_step"] == STEPS
    assert broken["recorded"][0] == unbroken["recorded"][0]
    torch.testing.assert_close(broken["state_dict"], unbroken["state_dict"], rtol=0, atol=0)


class Scored(Recorder):
    """Says how good it is."""

    def __init__(self, score):
        super().__init__()
        self.score = score

    def validation_step(self, batch):
        self.log("score", self.score, batch_size=len(batch))


def go_on(folder, score, validations):
    """Train until a number of validations; return the step of the best one, and its score."""
    last = folder / "last.ckpt"
    keeps_best = ModelCheckpoint(
        folder, filename="best", monitor="score", mode="max", enable_version_counter=False
    )
    trainer = Trainer(
        accelerator="cpu",
        max_steps=validations * VALIDATE_EVERY,
        val_check_interval=VALIDATE_EVERY,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        callbacks=[keeps_best],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    # After the one that keeps the best, whose state it has.
    trainer.callbacks.append(last_checkpoint(last, every=1000))
    path = str(last) if last.is_file() else None
    trainer.fit(Scored(score), loader(), DataLoader(Images(), batch_size=IMAGES), ckpt_path=path)
    assert keeps_best.best_model_path == str(folder / "best.ckpt")
    assert float(keeps_best.best_model_score) == keeps_best.best_k_models[str(folder / "best.ckpt")]
    best = torch.load(folder / "best.ckpt", weights_only=True)
    return best["global_step"], float(keeps_best.best_model_score)


@pytest.mark.parametrize("move", [shutil.move, shutil.copytree])
def test_the_best_checkpoint_stays_the_best_in_another_folder(move, tmp_path):
    assert go_on(tmp_path / "first", 0.5, 1) == (5, 0.5)
    move(tmp_path / "first", tmp_path / "second")
    assert go_on(tmp_path / "second", 0.25, 2) == (5, 0.5)
    move(tmp_path / "second", tmp_path / "third")
    assert go_on(tmp_path / "third", 0.75, 3) == (15, 0.75)


def test_a_best_checkpoint_that_was_left_behind_is_not_waited_for(tmp_path):
    go_on(tmp_path / "first", 0.5, 1)
    (tmp_path / "second").mkdir()
    shutil.move(tmp_path / "first" / "last.ckpt", tmp_path / "second")
    with pytest.warns(UserWarning, match="The dirpath has changed"):
        assert go_on(tmp_path / "second", 0.25, 2) == (10, 0.25)


def test_another_sampler_is_left_alone(tmp_path):
    """Lightning puts its own there for `overfit_batches`."""

    def run(max_steps, **options):
        model = Recorder()
        trainer = Trainer(
            accelerator="cpu",
            overfit_batches=1,
            max_steps=max_steps,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        trainer.fit(model, loader(), **options)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return [[int(image) for image, *_ in batch] for _, batch, _ in model.had]

    assert run(3) == [[0, 1]] * 3
    assert run(4, ckpt_path=str(tmp_path / "last.ckpt")) == [[0, 1]] * 4
