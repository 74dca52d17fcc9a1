"""Checkpoints of a detector's training, and what may differ in a run that resumes from one.

Detectron2 overwrites files in place, and a run that is killed meanwhile leaves half of one. Here
all are whole and finite at every moment. The keys of a file are detectron2's; where weights are
averaged, "model" has the averaged ones, which is what everything but a training wants of it.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from timm.utils import ModelEmaV3

from regnet_backbones.detection.trained import SafeCheckpointer
from regnet_backbones.errors import DivergedError
from regnet_backbones.files import write_whole
from regnet_backbones.runs.resume import ResumeRules
from regnet_backbones.runs.trained import BEST_NAME, FINAL_NAME, LAST_NAME, METRICS_NAME
from regnet_backbones.weights.checkpoints import TRAINED_KEY
from regnet_backbones.weights.state_dicts import listing, load_all
from regnet_backbones.weights.unpickling import read_content

# The keys of a config, and the number of processes, that a resumed run may change.
RULES = ResumeRules(
    output="OUTPUT_DIR",
    fixed=(
        *("SOLVER.OPTIMIZER", "SOLVER.BACKBONE_LR_FACTOR", "SOLVER.LAYER_DECAY"),
        "MODEL.BACKBONE.FREEZE_AT",
    ),
    kept=(
        *("SOLVER.BASE_LR", "SOLVER.BIAS_LR_FACTOR", "SOLVER.MOMENTUM", "SOLVER.NESTEROV"),
        *("SOLVER.WEIGHT_DECAY", "SOLVER.WEIGHT_DECAY_BIAS", "SOLVER.WEIGHT_DECAY_NORM"),
    ),
    free=(
        *("OUTPUT_DIR", "VIS_PERIOD", "SOLVER.CHECKPOINT_PERIOD", "DATALOADER.CHECK_IMAGES"),
        *("TEST.", "SOLVER.EARLY_STOPPING.", "LOGGERS"),
    ),
    names={"processes": "the number of processes"},
)

# In the file of the best weights: metric, value, and iterations done.
BEST_KEY = "best"

# What a run writes that a new one would be mixed up with.
RUN_FILES = (
    *(LAST_NAME, FINAL_NAME, BEST_NAME, f"model_{'[0-9]' * 7}.pth"),
    *("events.out.tfevents.*", METRICS_NAME),
)


class TrainingCheckpointer(SafeCheckpointer):
    """The checkpointer of a training, with the running average of the weights, if any."""

    average: ModelEmaV3 | None = None
    best: tuple[str, float, int] | None = None  # metric, value and iterations of `BEST_NAME`

    def save(self, name: str, **extra: object) -> None:
        """Write `<name>.pth` in the first process; all must call it, as states are gathered.

        Weights that are not finite are a DivergedError, and what was there stays.
        """
        states = {key: kept.state_dict() for key, kept in self.checkpointables.items()}
        if not self.save_dir or not self.save_to_disk:
            return
        content = {"model": self.model.state_dict()}
        if self.average is not None:
            content[TRAINED_KEY] = content["model"]
            content["model"] = self.average.module.state_dict()
        for key in content:
            self._check_finite(content[key], extra.get("iteration"))
        file_name = f"{name}.pth"
        self.logger.info("Saving checkpoint to %s", Path(self.save_dir, file_name))
        self.write(file_name, lambda file: torch.save({**content, **states, **extra}, file))
        self.tag_last_checkpoint(file_name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Write which file is the last checkpoint."""
        self.write(LAST_NAME, lambda file: file.write(last_filename_basename.encode()))

    def save_best(self, metric: str, value: float, done: int) -> None:
        """Write the weights that were evaluated, alone: a training does not resume from them."""
        model = self.average.module if self.average is not None else self.model
        state, self.best = model.state_dict(), (metric, value, done)
        self._check_finite(state, done - 1)
        content = {"model": state, "iteration": done - 1, BEST_KEY: list(self.best)}
        self.write(BEST_NAME, lambda file: torch.save(content, file))

    def read_best(self) -> None:
        """Take over what the best weights are of, so that no worse ones replace them."""
        file = Path(self.save_dir, BEST_NAME)
        content = read_content(file) if file.is_file() else {}
        if BEST_KEY in content:
            self.best = tuple(content[BEST_KEY])

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, object]:
        """Load weights and, unless told which, all states; then no weight may be missing.

        A training resumes with the weights that were trained; the average begins with those that
        the file gives to others.
        """
        self.must_be_whole = checkpointables is None  # at the start, other heads stay random
        rest = super().load(path, checkpointables)
        if self.average is not None:
            self.average.set(self.model)
        trained = rest.pop(TRAINED_KEY, None)
        if trained is not None and self.must_be_whole:
            load_all(self.model, trained, f"{TRAINED_KEY} of '{path}'")
        return rest

    def write(self, name: str, write: Callable[[BinaryIO], object]) -> None:
        """Write a file of the folder, whole or not at all."""
        write_whole(Path(self.save_dir, name), write)

    def _check_finite(self, state: Mapping[str, torch.Tensor], iteration: object) -> None:
        floats = {name: value for name, value in state.items() if value.is_floating_point()}
        bad = [name for name, value in floats.items() if not value.isfinite().all()]
        if bad:
            raise DivergedError(
                f"{len(bad)} of {len(state)} weights are not finite after iteration {iteration} "
                f"({listing(bad)}); lower SOLVER.BASE_LR, set SOLVER.CLIP_GRADIENTS.ENABLED True, "
                f"and --resume; last good checkpoint: {self.get_checkpoint_file() or 'none'}"
            )
