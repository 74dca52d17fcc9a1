"""Detectron2's DefaultTrainer, for runs that are stopped and resumed.

The steps, and the hooks where nothing else is said, are detectron2's. Ours are the order of the
data and the random numbers, which a resumed run goes on with exactly, checkpoints that are whole
and finite, averaged weights, evaluators by dataset, and pictures of predictions.
"""

import weakref
from collections.abc import Iterable
from dataclasses import asdict

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.engine import DefaultTrainer, HookBase, hooks
from detectron2.evaluation import DatasetEvaluators
from detectron2.utils import comm
from fvcore.nn.precise_bn import get_bn_modules
from torch import distributed as dist
from torch import nn

from regnet_backbones.detection.evaluators import build_evaluators
from regnet_backbones.detection.hints import quiet_about_mendable_errors
from regnet_backbones.detection.optimization import optimize_for_training
from regnet_backbones.detection.proposals import read_safely
from regnet_backbones.detection.training.averaging import AverageWeights, build_average
from regnet_backbones.detection.training.checkpointer import TrainingCheckpointer
from regnet_backbones.detection.training.continuation import (
    DataOrder,
    KeepLossNormalizer,
    SeedEveryStep,
    check_iteration,
    check_optimizer,
    go_on_after,
)
from regnet_backbones.detection.training.loader import TrainLoader, build_train_loader
from regnet_backbones.detection.training.losses import StopAtBadLosses
from regnet_backbones.detection.training.mappers import test_mapper, train_mapper

# Iterations between two lines of metrics.json, detectron2's own number.
WRITE_PERIOD = 20

read_safely()


class Trainer(DefaultTrainer):
    """The trainer of `tools/train_net.py`.

    Args:
        cfg: the config; where its `SEED` is below 0 one is drawn, which checkpoints keep.

    Attributes:
        order: what the order of the training data follows from.
        average: the running average of the weights (`MODEL.EMA`), or None.
    """

    def __init__(self, cfg: CfgNode):
        self._seed_was_drawn = cfg.SEED < 0
        if self._seed_was_drawn:
            cfg = cfg.clone()
            cfg.defrost()
            cfg.SEED = comm.shared_random_seed()
            cfg.freeze()
        super().__init__(cfg)
        self.order = DataOrder(cfg.SEED, self.cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size())

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Build the model of a training, made fast as `OPTIMIZE` says."""
        model = super().build_model(cfg)
        optimize_for_training(cfg, model)
        return model

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluators:
        """Build the evaluators of a dataset, and what draws its pictures."""
        return build_evaluators(cfg, dataset_name)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable[list[dict]]:
        """Build the batches of training, augmented in the way of the architecture."""
        return build_train_loader(cfg, train_mapper(cfg))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable[list[dict]]:
        """Build the batches of an evaluation."""
        return build_detection_test_loader(cfg, dataset_name, mapper=test_mapper(cfg))

    def build_hooks(self) -> list[HookBase | None]:
        """Build detectron2's hooks and ours, and the checkpointer that they use."""
        cfg, model = self.cfg, self.checkpointer.model  # not in DDP
        self.average = build_average(cfg, model)
        self.checkpointer = TrainingCheckpointer(
            self.model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self), average=self.average
        )
        self._stop_at_bad_losses = StopAtBadLosses()
        found: list[HookBase | None] = [
            hooks.IterationTimer(),
            SeedEveryStep(),
            self._stop_at_bad_losses,
            hooks.LRScheduler(),
            AverageWeights(self.average, model) if self.average else None,
            self._build_precise_bn(),  # its forward passes move the normalizer
            KeepLossNormalizer(model, cfg.SOLVER.CHECKPOINT_PERIOD),
        ]
        # What is saved has the precise statistics, and is there if the evaluation fails.
        if comm.is_main_process():
            period = cfg.SOLVER.CHECKPOINT_PERIOD
            found.append(hooks.PeriodicCheckpointer(self.checkpointer, period))
        found.append(hooks.EvalHook(cfg.TEST.EVAL_PERIOD, self._evaluate))
        if comm.is_main_process():
            found.append(hooks.PeriodicWriter(self.build_writers(), period=WRITE_PERIOD))
        return found

    def train(self) -> dict:
        """Train to `SOLVER.MAX_ITER` and return the results of the last evaluation.

        Raises:
            FloatingPointError: losses or weights are not finite.
            KeyboardInterrupt: with the iteration.
        """
        # The first process knows: others need not see the checkpoint.
        self.order, self.start_iter = comm.all_gather((self.order, self.start_iter))[0]
        if isinstance(self.data_loader, TrainLoader):
            self.data_loader.go_on(seed=self.order.seed, batch=self.start_iter)
        # The loss of RetinaNet and FCOS is a script, which rounds otherwise once it is optimized,
        # after two calls: the first two of a resumed run would not be exact. Where no seed was
        # asked for, speed goes first.
        with torch.jit.optimized_execution(self._seed_was_drawn), quiet_about_mendable_errors():
            try:
                super().train()
            except KeyboardInterrupt as interrupt:
                raise KeyboardInterrupt(f"at iteration {self.iter}") from interrupt
        return getattr(self, "_last_eval_results", {})

    def run_step(self) -> None:
        """Do a step of detectron2's, with one message for all ways to diverge."""
        try:
            super().run_step()
        except FloatingPointError as error:  # an RPN looks at its boxes, before there is a loss
            self._stop_at_bad_losses.stop(error)

    def after_train(self) -> None:
        """Let the hooks finish, without an evaluation where an exception ended the training.

        Detectron2 would take the last iteration for done.
        """
        if self.iter < self.max_iter:
            self._hooks = [h for h in self._hooks if not isinstance(h, hooks.EvalHook)]
        super().after_train()

    def state_dict(self) -> dict[str, object]:
        """Return the state of the training, weights aside."""
        return {**super().state_dict(), "data_order": asdict(self.order)}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Go on with the state of a checkpoint; warns of what it lacks.

        Raises:
            ValueError: it is of another optimizer, or has done more iterations.
        """
        check_iteration(state_dict["iteration"] + 1, self.max_iter)
        if "optimizer" in state_dict.get("_trainer", ()):
            check_optimizer(state_dict["_trainer"]["optimizer"], self.optimizer)
        super().load_state_dict(state_dict)
        self.order = go_on_after(
            state_dict.get("data_order"), self.order, seed_was_drawn=self._seed_was_drawn
        )

    def _build_precise_bn(self) -> HookBase | None:
        """Build the hook of `TEST.PRECISE_BN`, for the weights that are evaluated."""
        settings, model = self.cfg.TEST.PRECISE_BN, self._evaluated()
        if not (settings.ENABLED and get_bn_modules(model)):
            return None
        if isinstance(self.data_loader, TrainLoader):
            # The same batches every time, so that a resumed run has them too.
            batches = self.data_loader.repeat_first(settings.NUM_ITER)
        else:
            batches = self.build_train_loader(self.cfg)
        return hooks.PreciseBN(self.cfg.TEST.EVAL_PERIOD, model, batches, settings.NUM_ITER)

    def _evaluated(self) -> nn.Module:
        """Return the model that is evaluated: the averaged one where there is one."""
        return self.average.module if self.average else self.model

    def _evaluate(self) -> dict:
        """Evaluate in the way of the config and keep the results."""
        model = self._evaluated()
        if comm.get_world_size() > 1:
            # Each process has seen other images: what is evaluated is what the first one saves.
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)
        self._last_eval_results = self.test(self.cfg, model)
        return self._last_eval_results
