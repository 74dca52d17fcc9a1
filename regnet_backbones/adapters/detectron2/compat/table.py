"""Every fix: what it does, when it is needed, and in which modules; its docstring says why.

A new one is a row here and a function, named after the cause, in the file of that cause.
"""

import regnet_backbones.adapters.detectron2.compat.engine as engine
import regnet_backbones.adapters.detectron2.compat.extension as extension
import regnet_backbones.adapters.detectron2.compat.libraries as libraries
import regnet_backbones.adapters.detectron2.compat.packages as packages
from regnet_backbones.adapters.detectron2.compat.hook import (
    AfterImport,
    DuringImport,
    Fix,
    WhenAbsent,
)
from regnet_backbones.adapters.detectron2.compat.packages import says

CHECKPOINT = "detectron2.checkpoint.detection_checkpoint"
DEFAULTS = "detectron2.engine.defaults"
HOOKS = "detectron2.engine.hooks"
IMAGES = "detectron2.data.detection_utils"

# The scripts that evaluate Cityscapes, by the name of their package and by the internal one.
CITYSCAPES_EVALUATIONS = tuple(
    f"{prefix}cityscapesscripts.evaluation.eval{what}LevelSemanticLabeling"
    for prefix in ("", f"{packages.CITYSCAPES}.")
    for what in ("Instance", "Pixel")
)
# Of detectron2 and of its evaluators, which are used after all images were predicted.
SAY_NUMPY_ALIASES = (
    "detectron2.data.build",
    "detectron2.data.datasets.pascal_voc",
    "detectron2.evaluation.pascal_voc_evaluation",
    "detectron2.evaluation.sem_seg_evaluation",
    "detectron2.structures.masks",
    "detectron2.utils.video_visualizer",
    "detectron2.utils.visualizer",
    *CITYSCAPES_EVALUATIONS,
    "lvis.eval",
)

FIXES: tuple[Fix, ...] = (
    # Without the compiled extension
    DuringImport(
        extension.extension_absent,
        says("from detectron2 import _C", without=extension.EXTENSION),
        "detectron2.evaluation.fast_eval_api",
        "detectron2.layers.deform_conv",
        "detectron2.layers.roi_align_rotated",
        "detectron2.layers.rotated_boxes",
    ),
    AfterImport(
        extension.fast_coco_evaluation_absent,
        says("COCOeval_opt", without=extension.EXTENSION),
        "detectron2.evaluation.fast_eval_api",
    ),
    AfterImport(
        extension.deformable_convolution_needs_cuda_kernel,
        says("class DeformConv"),
        "detectron2.layers.deform_conv",
    ),
    AfterImport(
        extension.rotated_operator_absent,
        says("rotated", without=extension.EXTENSION),
        *extension.ROTATED_OPERATORS,
    ),
    # Names that newer libraries dropped
    AfterImport(libraries.numpy_alias_removed, libraries.removed_aliases, *SAY_NUMPY_ALIASES),
    AfterImport(
        libraries.count_refused_by_json,
        says("def writeDict2JSON"),
        "cityscapesscripts.helpers.csHelpers",
    ),
    DuringImport(
        libraries.pillow_linear_removed,
        says("Image.LINEAR"),
        "detectron2.data.transforms.transform",
    ),
    AfterImport(libraries.tiff_turned_twice, says("def _apply_exif_orientation"), IMAGES),
    AfterImport(
        libraries.sampling_from_a_set_removed,
        says("_rng.sample(self._fallback_candidates"),
        "detectron2.data.common",
    ),
    AfterImport(
        libraries.group_norm_with_one_channel_refused,
        says("get_norm(norm, 1)"),
        "detectron2.modeling.meta_arch.retinanet",
    ),
    AfterImport(libraries.profiler_use_cuda_removed, says("profile(use_cuda="), HOOKS),
    DuringImport(
        packages.pkg_resources_absent,
        says("import pkg_resources", without="pkg_resources"),
        "detectron2.model_zoo.model_zoo",
    ),
    DuringImport(
        packages.caffe2_absent,
        says("\nfrom .api import", without="caffe2.python"),
        "detectron2.export",
    ),
    # Checkpoints
    AfterImport(engine.optimizer_left_out_of_checkpoint, says("class DefaultTrainer"), DEFAULTS),
    AfterImport(
        engine.torch_scheduler_left_out_of_checkpoint, says("lr_scheduler._LRScheduler"), HOOKS
    ),
    AfterImport(libraries.numpy_scalars_refused, says("def _load_file"), CHECKPOINT),
    # No GPU
    AfterImport(
        engine.child_processes_lack_fixes_and_gloo, says("def _distributed_worker"), engine.LAUNCH
    ),
    AfterImport(engine.device_ids_given_for_cpu_model, says("[comm.get_local_rank()]"), DEFAULTS),
    AfterImport(
        engine.amp_without_cuda,
        says("assert torch.cuda.is_available()"),
        "detectron2.engine.train_loop",
    ),
    # Without panopticapi
    WhenAbsent(packages.panopticapi_absent, packages.detectron2_is_used, *packages.PANOPTICAPI),
    # Names that only the authors' own repository has
    AfterImport(
        packages.cityscapes_internal_when_called,
        says(f" {packages.CITYSCAPES}.", without="deeplearning"),
        *packages.CITYSCAPES_CALLERS,
    ),
    # The demo imports this before its predictor.
    AfterImport(packages.demo_internal, packages.script_imports_internal_demo, IMAGES),
)
