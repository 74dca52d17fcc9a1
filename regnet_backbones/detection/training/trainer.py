"""Detectron2's DefaultTrainer, for runs that are stopped and resumed: see `runs.resume`."""

import logging
import os
import weakref
from collections.abc import Iterable
from pathlib import Path
from signal import Signals

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.engine import DefaultTrainer, HookBase, hooks
from detectron2.evaluation import DatasetEvaluators
from detectron2.utils import comm
from fvcore.nn.precise_bn import get_bn_modules
from torch import distributed as dist
from torch import nn

from regnet_backbones.detection.config import values_by_key
from regnet_backbones.detection.evaluators import build_evaluators
from regnet_backbones.detection.optimization import optimize_for_training
from regnet_backbones.detection.trained import read_proposals_safely
from regnet_backbones.detection.training.checkpoint import RULES, TrainingCheckpointer
from regnet_backbones.detection.training.hooks import (
    StopAtBadLosses,
    StoppableEvaluators,
    WriteMetrics,
    build_average,
)
from regnet_backbones.detection.training.loader import TrainLoader, build_train_loader
from regnet_backbones.detection.training.mappers import test_mapper, train_mapper
from regnet_backbones.errors import DivergedError
from regnet_backbones.runs.resume import (
    STEPS,
    check_changes,
    check_length,
    largest_anywhere,
    seed_everything,
    seed_of,
)
from regnet_backbones.runs.stopping import StoppedError, StopSignals, heed_parent_only
from regnet_backbones.runs.trained import FINAL_NAME

logger = logging.getLogger(__name__)

read_proposals_safely()


class Trainer(DefaultTrainer):
    """The trainer of `regnet-backbones train-detector`.

    Args:
        cfg: the config; where its `SEED` is below 0 one is drawn, which checkpoints keep.
        signals: to stop at; None for none.

    Attributes:
        seed: what the order of the training data and all random numbers follow from.
        average: the running average of the weights (`MODEL.EMA`), or None.
    """

    def __init__(self, cfg: CfgNode, signals: StopSignals | None = None):
        self._signals = signals or StopSignals()
        self._stopped_by: Signals | None = None
        self._seed_was_drawn = cfg.SEED < 0
        if self._seed_was_drawn:
            cfg = cfg.clone()
            cfg.defrost()
            cfg.SEED = comm.shared_random_seed()
            cfg.freeze()
        self.seed = cfg.SEED
        super().__init__(cfg)

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
        loader = build_detection_test_loader(cfg, dataset_name, mapper=test_mapper(cfg))
        loader.worker_init_fn = heed_parent_only
        return loader

    def build_hooks(self) -> list[HookBase | None]:
        """Build detectron2's hooks and ours, and the checkpointer that they use."""
        cfg = self.cfg
        self._bare_model = self.checkpointer.model  # not in DDP
        self.average = build_average(cfg, self._bare_model)
        self.checkpointer = TrainingCheckpointer(
            self.model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self)
        )
        self.checkpointer.average = self.average
        self._stop_at_bad_losses = StopAtBadLosses()
        self._evaluate_hook = hooks.EvalHook(cfg.TEST.EVAL_PERIOD, self._evaluate)
        self._write_metrics = WriteMetrics(cfg.TEST.EVAL_PERIOD)
        return [
            hooks.IterationTimer(),
            self._stop_at_bad_losses,
            hooks.LRScheduler(),
            self._build_precise_bn(),
            # What is saved has the precise statistics, and is there if the evaluation fails.
            hooks.PeriodicCheckpointer(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD),
            hooks.CallbackHook(after_step=Trainer.stop_if_asked),
            self._evaluate_hook,
            self._write_metrics,
        ]

    def train(self) -> dict:
        """Train to `SOLVER.MAX_ITER` and return the results of the last evaluation.

        Raises:
            DivergedError: losses or weights are not finite.
            StoppedError: a signal came; a checkpoint is saved.
            KeyboardInterrupt: with the iteration.
        """
        # The first process knows: others need not see the checkpoint.
        has_final = os.path.basename(self.checkpointer.get_checkpoint_file()) == FINAL_NAME
        here = (self.seed, self.start_iter, has_final, self._write_metrics.lacks_row())
        self.seed, self.start_iter, self._has_final, self._lacks_row = comm.all_gather(here)[0]
        if isinstance(self.data_loader, TrainLoader):
            self.data_loader.resume(seed=self.seed, batch=self.start_iter)
        self._signals.wait = True
        # The loss of RetinaNet and FCOS is a script, which rounds otherwise once it is optimized,
        # after two calls: the first two of a resumed run would not be exact. Where no seed was
        # asked for, speed goes first.
        with torch.jit.optimized_execution(self._seed_was_drawn):
            try:
                super().train()
            except KeyboardInterrupt as interrupt:
                if self._stopped_by is None:
                    raise KeyboardInterrupt(f"at iteration {self.iter}") from interrupt
                comm.synchronize()  # one that has ended may take the others along
                place = f"iteration {min(self.iter, self.max_iter - 1)} of {self.max_iter}"
                checkpoint = self.checkpointer.get_checkpoint_file()
                raise StoppedError.after(self._stopped_by, place, checkpoint) from None
        return getattr(self, "_last_eval_results", {})

    def before_train(self) -> None:
        """Let the hooks begin, and do what a killed run had to do after its last checkpoint."""
        super().before_train()
        if self.start_iter == 0:
            return
        self.iter = self.storage.iter = self.start_iter - 1
        self._write_metrics.restore(with_last=self._lacks_row)
        if self.start_iter == self.max_iter and not self._has_final:
            self.checkpointer.save(Path(FINAL_NAME).stem, iteration=self.iter)
        if self._lacks_row:
            for hook in (self._evaluate_hook, self._write_metrics):
                hook.after_step()

    def run_step(self) -> None:
        """Do a step of detectron2's, seeded, with one message for all ways to diverge."""
        seed_everything(seed_of(self.seed, STEPS, comm.get_rank(), self.iter))
        try:
            super().run_step()
        except DivergedError:
            raise
        except FloatingPointError as error:  # an RPN looks at its boxes, before there is a loss
            self._stop_at_bad_losses.check(str(error))
        if self.average:
            # The decay follows from the number of steps: there is no state but the average.
            self.average.update(self._bare_model, step=self.iter + 1)

    def after_train(self) -> None:
        """Let the hooks finish, without an evaluation where an exception ended the training."""
        if self.iter < self.max_iter:
            self._hooks = [hook for hook in self._hooks if hook is not self._evaluate_hook]
        super().after_train()

    def stop_if_asked(self) -> None:
        """End the training, with a checkpoint of the last step, if any process got a signal."""
        device = next(self.model.parameters()).device
        received = largest_anywhere(self._signals.received or 0, device)
        if not received:
            return
        done = self.iter + 1
        if done < self.max_iter and done % self.cfg.SOLVER.CHECKPOINT_PERIOD:
            self.checkpointer.save(f"model_{self.iter:07}", iteration=self.iter)
        self._stopped_by = Signals(received)
        raise KeyboardInterrupt

    def state_dict(self) -> dict[str, object]:
        """Return the state of the training, weights aside."""
        state = {**super().state_dict(), "config": self._compared_config()}
        # RetinaNet and FCOS divide losses by a running mean, which no state dict has. Every process
        # has its own, and only the first one writes checkpoints.
        if hasattr(self._bare_model, "loss_normalizer"):
            normalizer = float(self._bare_model.loss_normalizer)
            state["loss_normalizers"] = comm.all_gather(normalizer)
        return state

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Take over the state of a checkpoint, with its seed if ours was drawn; warn of changes."""
        source, config = self.checkpointer.get_checkpoint_file(), state_dict.get("config")
        done, option = state_dict["iteration"] + 1, "SOLVER.MAX_ITER"
        check_length(done, self.max_iter, source=source, option=option, output=RULES.output)
        if config is None:
            logger.warning(
                "'%s' does not hold its config (another trainer wrote it): the data continues as "
                "if SEED had been %d",
                *(source, self.seed),
            )
        else:
            if self._seed_was_drawn:
                self.seed = config["SEED"]
            check_changes(config, self._compared_config(), RULES, source=source)
        super().load_state_dict(state_dict)
        normalizers = state_dict.get("loss_normalizers")
        if normalizers:
            self._bare_model.loss_normalizer = normalizers[comm.get_rank() % len(normalizers)]

    def _compared_config(self) -> dict[str, object]:
        """Return what a resumed run is compared with, by key."""
        return {**values_by_key(self.cfg), "SEED": self.seed, "processes": comm.get_world_size()}

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
        """Return the model that is evaluated: the averaged one if there is one."""
        return self.average.module if self.average else self.model

    def _evaluate(self) -> dict:
        """Evaluate in the way of the config and keep the results."""
        model = self._evaluated()
        if comm.get_world_size() > 1:
            # Each process has seen other images: what is evaluated is what the first one saves.
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)
        evaluators = [
            StoppableEvaluators(
                self.build_evaluator(self.cfg, name), self._signals, self.stop_if_asked
            )
            for name in self.cfg.DATASETS.TEST
        ]
        self._last_eval_results = self.test(self.cfg, model, evaluators)
        return self._last_eval_results
