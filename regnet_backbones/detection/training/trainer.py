"""Detectron2's DefaultTrainer, for runs that are stopped and resumed: see `runs.resume`."""

import json
import logging
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from signal import Signals
from types import SimpleNamespace

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, hooks
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from fvcore.nn.precise_bn import get_bn_modules
from timm.utils import ModelEmaV3
from torch import distributed as dist
from torch import nn

from regnet_backbones.adapters.detectron2.solver import LR_FACTOR
from regnet_backbones.detection import trained
from regnet_backbones.detection.config import changed, values_by_key
from regnet_backbones.detection.evaluation import build_evaluators
from regnet_backbones.detection.training import loader
from regnet_backbones.detection.training.checkpoint import RULES, TrainingCheckpointer
from regnet_backbones.detection.training.evaluations import CHIEF, MetricHistory, validation_losses
from regnet_backbones.detection.training.loggers import LoggerWriter, build_loggers
from regnet_backbones.errors import DivergedError
from regnet_backbones.files import write_whole
from regnet_backbones.measure.timing import STEPS, estimate
from regnet_backbones.optimize.options import log_report, optimize_training
from regnet_backbones.runs import resume
from regnet_backbones.runs.stopping import StoppedError, StopSignals
from regnet_backbones.runs.trained import (
    BEST_NAME,
    FINAL_NAME,
    ITERATION,
    METRICS_NAME,
    read_metrics,
)

trained.read_proposals_safely()

logger = logging.getLogger(__name__)


class EarlyStop(BaseException):
    """The training ends before `SOLVER.MAX_ITER`; detectron2 logs an `Exception` as a failure."""


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
            cfg = changed(cfg, "SEED", comm.shared_random_seed())
            cfg.freeze()
        self.seed = cfg.SEED
        super().__init__(cfg)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Build the model of a training, made fast as `OPTIMIZE` says."""
        model, optimization = super().build_model(cfg), trained.optimization_of(cfg)
        if optimization is not None:
            size = trained.typical_size(cfg, model.backbone.size_divisibility)
            report = optimize_training(
                model,
                optimization,
                image_size=size,
                batch_size=loader.images_per_process(cfg, comm.get_world_size()),
                autocast=torch.float16 if cfg.SOLVER.AMP.ENABLED else None,  # that of AMPTrainer
                from_first=lambda text: comm.all_gather(text)[0],
            )
            if comm.is_main_process():
                log_report(report)
        return model

    build_evaluator = staticmethod(build_evaluators)
    build_test_loader = staticmethod(loader.build_test_loader)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> loader.TrainLoader:
        """Build the batches of training, augmented in the way of the architecture."""
        return loader.TrainLoader(cfg, loader.train_mapper(cfg))

    def build_hooks(self) -> list[HookBase | None]:
        """Build detectron2's hooks and ours, and the checkpointer that they use."""
        cfg = self.cfg
        self._bare_model = self.checkpointer.model  # not in DDP
        self.average = _build_average(cfg, self._bare_model)
        self.checkpointer = TrainingCheckpointer(
            self.model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self)
        )
        self.checkpointer.average = self.average
        self._history = MetricHistory(cfg.TEST.BEST_METRIC)
        self._stops_early = False
        self._bad_losses = StopAtBadLosses()
        self._evaluate_hook = hooks.EvalHook(cfg.TEST.EVAL_PERIOD, self._evaluate)
        return [
            hooks.IterationTimer(),
            PrintEstimate() if comm.is_main_process() else None,
            self._bad_losses,
            LRScheduler(),
            self._build_precise_bn(),
            # What is saved has the precise statistics, and is there if the evaluation fails.
            hooks.PeriodicCheckpointer(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD),
            hooks.CallbackHook(after_step=Trainer.stop_if_asked),
            self._evaluate_hook,
            hooks.CallbackHook(after_step=Trainer.stop_early),
            WriteMetrics() if comm.is_main_process() else None,
        ]

    def train(self) -> dict:
        """Train to `SOLVER.MAX_ITER` or an early stop; return results of the last evaluation."""
        # The first process knows: others need not see the checkpoint.
        self.seed, self.start_iter = comm.all_gather((self.seed, self.start_iter))[0]
        self.data_loader.resume(seed=self.seed, batch=self.start_iter)
        self._signals.wait = True
        # The loss of RetinaNet and FCOS is a script, which rounds otherwise once it is optimized,
        # after two calls: the first two of a resumed run would not be exact. Where no seed was
        # asked for, speed goes first.
        with torch.jit.optimized_execution(self._seed_was_drawn):
            try:
                super().train()
            except EarlyStop as end:
                logger.info("%s", end)
            except KeyboardInterrupt as interrupt:
                if self._stopped_by is None:
                    raise KeyboardInterrupt(f"at iteration {self.iter}") from interrupt
                comm.synchronize()  # one that has ended may take the others along
                place = f"iteration {min(self.iter, self.max_iter - 1)} of {self.max_iter}"
                checkpoint = self.checkpointer.get_checkpoint_file()
                raise StoppedError.after(self._stopped_by, place, checkpoint) from None
        best = self.checkpointer.best
        if best is not None and comm.is_main_process():
            file = Path(self.cfg.OUTPUT_DIR) / BEST_NAME
            logger.info("best weights: %s %.4g after %s iterations, in %s", *best, file)
        return getattr(self, "_last_eval_results", {})

    def before_train(self) -> None:
        """Let the hooks begin, and do what a killed run may not have done after its last step."""
        super().before_train()
        if self.start_iter == 0:
            return
        self.iter = self.storage.iter = self.start_iter - 1
        if comm.is_main_process():
            self.checkpointer.read_best()
        if self.start_iter == self.max_iter:
            self.checkpointer.save(Path(FINAL_NAME).stem, iteration=self.iter)
        self._evaluate_hook.after_step()
        self.stop_early()

    def run_step(self) -> None:
        """Do a step of detectron2's, seeded, with one message for all ways to diverge."""
        resume.seed_everything(resume.seed_of(self.seed, resume.STEPS, comm.get_rank(), self.iter))
        try:
            super().run_step()
        except DivergedError:
            raise
        except FloatingPointError as error:  # an RPN looks at its boxes, before there is a loss
            self._bad_losses.check(str(error))
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
        received = resume.largest_anywhere(self._signals.received or 0, device)
        if not received:
            return
        done = self.iter + 1
        if done < self.max_iter and done % self.cfg.SOLVER.CHECKPOINT_PERIOD:
            self.checkpointer.save(f"model_{self.iter:07}", iteration=self.iter)
        self._stopped_by = Signals(received)
        raise KeyboardInterrupt

    def stop_early(self) -> None:
        """End the training as `SOLVER.EARLY_STOPPING` says.

        Raises:
            EarlyStop: it ends; the final checkpoint is saved.
        """
        if not self._stops_early:
            return
        self.checkpointer.save(Path(FINAL_NAME).stem, iteration=self.iter)
        raise EarlyStop(
            f"early stopping after {self.iter + 1} of {self.max_iter} iterations: "
            f"{self._history.metric} has not improved in {self.cfg.SOLVER.EARLY_STOPPING.PATIENCE} "
            "evaluations. To continue, raise SOLVER.EARLY_STOPPING.PATIENCE and --resume"
        )

    def state_dict(self) -> dict[str, object]:
        """Return the state of the training, weights aside."""
        state = {**super().state_dict(), "config": self._compared_config()}
        state["evaluations"] = asdict(self._history)
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
        resume.check_length(done, self.max_iter, source=source, option=option, output=RULES.output)
        if config is not None:  # another trainer's checkpoint has none
            if self._seed_was_drawn:
                self.seed = config["SEED"]
            resume.check_changes(config, self._compared_config(), RULES, source=source)
        super().load_state_dict(state_dict)
        evaluations = MetricHistory(**state_dict.get("evaluations", {"metric": "auto"}))
        if self.cfg.TEST.BEST_METRIC in ("auto", evaluations.metric):
            self._history = evaluations
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
        # The same batches every time, so that a resumed run has them too.
        batches = self.data_loader.repeat_first(settings.NUM_ITER)
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
        stop = StopEvaluation(self._signals, self.stop_if_asked)
        evaluators = [
            DatasetEvaluators([stop, self.build_evaluator(self.cfg, name)])
            for name in self.cfg.DATASETS.TEST
        ]
        self._last_eval_results = self.test(self.cfg, model, evaluators)
        numbers = {**flatten_results_dict(self._last_eval_results), **self._validation_losses()}
        chief = [f"{name} {value:.1f}" for name, value in numbers.items() if name.endswith(CHIEF)]
        if chief:  # of the first process
            done = min(self.iter + 1, self.max_iter)
            logger.info("after %d iterations, in %%: %s", done, ", ".join(chief))
        self._note_best(numbers)
        return self._last_eval_results

    def _validation_losses(self) -> dict[str, float]:
        """Compute and log the losses of `TEST.LOSS`, by the names of `metrics.json`."""
        cfg, found = self.cfg, {}
        if not cfg.TEST.LOSS:
            return found
        model = self.average.module if self.average else self._bare_model
        normalizer = vars(self._bare_model).get("loss_normalizer")
        if normalizer is not None:  # a mean over batches
            normalizer /= loader.images_per_process(cfg, comm.get_world_size())
        for name in cfg.DATASETS.TEST:
            batches = loader.build_test_loader(cfg, name, mapper=loader.loss_mapper(cfg))
            losses = validation_losses(
                model, self._until_signal(batches), seed=self.seed, normalizer=normalizer
            )
            self.stop_if_asked()
            start = f"{name}/" if len(cfg.DATASETS.TEST) > 1 else ""
            found |= {f"{start}{loss}": value for loss, value in losses.items()}
        for name in found:
            self.storage.histories().pop(name, None)  # or the log has a median of evaluations
        self.storage.put_scalars(**found, smoothing_hint=False)
        return found

    def _until_signal(self, batches: Iterable[list[dict]]) -> Iterator[list[dict]]:
        for batch in batches:
            if self._signals.received:
                return
            yield batch

    def _note_best(self, numbers: Mapping[str, float]) -> None:
        """Keep the weights of the best evaluation, and see whether the training is to end."""
        cfg, history = self.cfg, self._history
        patience, period = cfg.SOLVER.EARLY_STOPPING.PATIENCE, cfg.TEST.EVAL_PERIOD
        # The first process has the results. Of a single evaluation, at the end, none is the best.
        if comm.is_main_process() and cfg.TEST.BEST_METRIC and cfg.DATASETS.TEST and period:
            done = min(self.iter + 1, self.max_iter)
            value = history.add(done, numbers)
            metric, best, _ = self.checkpointer.best or (None, None, 0)
            if history.is_better(value, best if metric == history.metric else None):
                self.checkpointer.save_best(history.metric, value, done)
            min_delta = cfg.SOLVER.EARLY_STOPPING.MIN_DELTA
            self._stops_early = 0 < patience <= history.without_improvement(min_delta)
        if patience:
            device = next(self.model.parameters()).device
            self._stops_early = bool(resume.largest_anywhere(self._stops_early, device))


def _build_average(cfg: CfgNode, model: nn.Module) -> ModelEmaV3 | None:
    """Build the running average of `MODEL.EMA`, whose buffers are copies; None for none."""
    ema = cfg.MODEL.EMA
    if not ema.ENABLED:
        return None
    average = ModelEmaV3(model, decay=ema.DECAY, use_warmup=ema.WARMUP, exclude_buffers=True)
    average.module.train()  # precise batch norm is for layers in training; evaluation sets its own
    return average


class PrintEstimate(HookBase):
    """Print once, after a few iterations, how long the others take."""

    def after_step(self) -> None:
        """Print it, or do nothing."""
        trainer = self.trainer
        done = trainer.iter + 1 - trainer.start_iter
        if done == STEPS + 3 and (left := trainer.max_iter - trainer.iter - 1):
            seconds = [value for value, _ in trainer.storage.history("time").values()]
            logger.info("time left: %s", estimate(seconds[-STEPS:], left, "iterations"))


class StopAtBadLosses(HookBase):
    """Raise DivergedError in all processes, before the backward pass, if a loss is not finite.

    Detectron2 checks it afterwards, in its first process alone, and leaves the others waiting.
    """

    def before_train(self) -> None:
        """Look at all that the model returns from here on."""
        model = self.trainer.model
        self._handles = [
            model.register_forward_pre_hook(self._note_files),
            model.register_forward_hook(self._check_losses),
        ]

    def after_train(self) -> None:
        """Leave the model alone."""
        for handle in self._handles:
            handle.remove()

    def check(self, found: str) -> None:
        """Raise DivergedError if any process found something; all of them must call it."""
        trainer = self.trainer
        if not resume.largest_anywhere(bool(found), next(trainer.model.parameters()).device):
            return
        texts = comm.all_gather(f"  {found}\n  of {self._files}" if found else "")
        where = "\n".join(f"process {i}:\n{text}" for i, text in enumerate(texts) if text)
        group = logged_group(trainer.optimizer)
        precision = "SOLVER.AMP.ENABLED False, " if trainer.cfg.SOLVER.AMP.ENABLED else ""
        raise DivergedError(
            f"the loss of iteration {trainer.iter} is not finite:\n{where}\n"
            f"learning rate: {trainer.optimizer.param_groups[group]['lr']:.6g}\n"
            f"last good checkpoint: {trainer.checkpointer.get_checkpoint_file() or 'none yet'}\n"
            "what to try: a lower SOLVER.BASE_LR or a longer SOLVER.WARMUP_ITERS, "
            f"SOLVER.CLIP_GRADIENTS.ENABLED True, {precision}a look at these images and their "
            "annotations; then --resume"
        )

    def _note_files(self, model: nn.Module, arguments: tuple) -> None:
        if model.training:
            self._files = ", ".join(str(record.get("file_name")) for record in arguments[0])

    def _check_losses(self, model: nn.Module, arguments: tuple, output: object) -> None:
        if not model.training:
            return
        losses = output if isinstance(output, Mapping) else {"total_loss": output}
        values = torch.stack([loss.detach().float().sum() for loss in losses.values()])
        pairs = zip(losses, values.tolist(), strict=True)
        bad = not values.isfinite().all()
        self.check(", ".join(f"{name} {value:.6g}" for name, value in pairs) if bad else "")


def logged_group(optimizer: torch.optim.Optimizer) -> int:
    """Return which parameter group has the learning rate that is logged.

    It is the one that detectron2 chooses, of those that have the rate of `SOLVER.BASE_LR`.
    """
    groups = optimizer.param_groups
    places = [i for i, group in enumerate(groups) if group.get(LR_FACTOR, 1.0) == 1.0]
    places = places or list(range(len(groups)))
    chosen = SimpleNamespace(param_groups=[groups[place] for place in places])
    return places[hooks.LRScheduler.get_best_param_group_id(chosen)]


class LRScheduler(hooks.LRScheduler):
    """Detectron2's schedule, which logs the rate of `logged_group`; checkpoints have its name."""

    def before_train(self) -> None:
        """Choose what is logged."""
        super().before_train()
        self._best_param_group_id = logged_group(self._optimizer)


class StopEvaluation(DatasetEvaluator):
    """Stop an evaluation in all processes if a signal came in one.

    Each calls `stop_if_asked` once, as all must: at a signal, or when its images are done.
    """

    def __init__(self, signals: StopSignals, stop_if_asked: Callable[[], object]):
        self._signals, self._stop_if_asked = signals, stop_if_asked

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Stop after some images."""
        if self._signals.received:
            self._stop_if_asked()

    def evaluate(self) -> None:
        """Stop after the last image."""
        self._stop_if_asked()


class WriteMetrics(hooks.PeriodicWriter):
    """Detectron2's rows of `metrics.json`, without those that a killed run wrote too many.

    The files are opened when the training begins: until then they are those of an earlier run.
    """

    def __init__(self) -> None:
        super().__init__(writers=[])

    def before_train(self) -> None:
        """Drop the rows after the checkpoint that this run resumes from."""
        trainer = self.trainer
        file = Path(trainer.cfg.OUTPUT_DIR) / METRICS_NAME
        written = read_metrics(file)
        rows = [row for row in written if row[ITERATION] <= trainer.start_iter]
        text = "".join(f"{json.dumps(row, sort_keys=True)}\n" for row in rows)
        write_whole(file, lambda opened: opened.write(text.encode()))
        self._writers = trainer.build_writers()
        if built := build_loggers(trainer.cfg):
            # They cannot forget what a killed run gave them, and are not given it twice.
            logged = max((row[ITERATION] for row in written), default=-1)
            if trainer.start_iter == 0:
                for each in built:
                    each.log_hyperparams(values_by_key(trainer.cfg))
            self._writers.insert(0, LoggerWriter(built, logged=logged))

    def after_train(self) -> None:
        """Close the files, and report to loggers whether the training was finished."""
        trainer, loggers = self.trainer, [w for w in self._writers if isinstance(w, LoggerWriter)]
        if trainer.iter < trainer.max_iter and not trainer._stops_early:
            for each in loggers:
                each.status = "failed"
        super().after_train()
