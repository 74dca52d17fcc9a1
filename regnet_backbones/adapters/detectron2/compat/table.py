"""Every fix: in which modules, why, when it is needed, and what it does.

A new one is a row here and a function, named after the cause, in the file of that cause.
"""

import regnet_backbones.adapters.detectron2.compat.engine as engine
import regnet_backbones.adapters.detectron2.compat.extension as extension
import regnet_backbones.adapters.detectron2.compat.libraries as libraries
import regnet_backbones.adapters.detectron2.compat.packages as packages
from regnet_backbones.adapters.detectron2.compat.hook import AfterImport, DuringImport, Fix
from regnet_backbones.adapters.detectron2.compat.packages import says

# The scripts that evaluate Cityscapes, by the name of their package and by the internal one.
CITYSCAPES_EVALUATIONS = tuple(
    f"{prefix}cityscapesscripts.evaluation.eval{what}LevelSemanticLabeling"
    for prefix in ("", f"{packages.CITYSCAPES}.")
    for what in ("Instance", "Pixel")
)

FIXES: tuple[Fix, ...] = (
    # Without the compiled extension
    DuringImport(
        modules=(
            "detectron2.evaluation.fast_eval_api",
            "detectron2.layers.deform_conv",
            "detectron2.layers.roi_align_rotated",
            "detectron2.layers.rotated_boxes",
        ),
        cause="imports detectron2._C, which was not built",
        needed=says("from detectron2 import _C", without=extension.EXTENSION),
        apply=extension.extension_absent,
    ),
    AfterImport(
        modules=("detectron2.evaluation.fast_eval_api",),
        cause="COCOeval_opt runs in detectron2._C, so evaluation fails after all of inference",
        needed=says("COCOeval_opt", without=extension.EXTENSION),
        apply=extension.fast_coco_evaluation_absent,
    ),
    AfterImport(
        modules=("detectron2.layers.deform_conv",),
        cause="deformable convolution has no CPU kernel, and none at all without detectron2._C",
        needed=extension.has_deformable_convolution,
        apply=extension.deformable_convolution_needs_cuda_kernel,
    ),
    AfterImport(
        modules=tuple(extension.ROTATED_OPERATORS),
        cause="rotated-box operators fail without saying that detectron2._C was not built",
        needed=says("rotated", without=extension.EXTENSION),
        apply=extension.rotated_operator_absent,
    ),
    # Names that newer libraries dropped
    AfterImport(
        modules=(
            "detectron2.data.build",
            "detectron2.data.datasets.pascal_voc",
            "detectron2.evaluation.pascal_voc_evaluation",
            "detectron2.evaluation.sem_seg_evaluation",
            "detectron2.structures.masks",
            "detectron2.utils.video_visualizer",
            "detectron2.utils.visualizer",
            # Of detectron2's evaluators, after all images were predicted.
            *CITYSCAPES_EVALUATIONS,
            "lvis.eval",
        ),
        cause="numpy 1.24 removed np.int and its like, and 2.4 np.in1d",
        needed=libraries.removed_aliases,
        apply=libraries.numpy_alias_removed,
    ),
    AfterImport(
        modules=("cityscapesscripts.helpers.csHelpers",),
        cause="numpy 2.4 counts in numbers of its own, which json cannot write",
        needed=says("def writeDict2JSON"),
        apply=libraries.count_refused_by_json,
    ),
    DuringImport(
        modules=("detectron2.data.transforms.transform",),
        cause="Pillow 10 removed Image.LINEAR",
        needed=says("Image.LINEAR"),
        apply=libraries.pillow_linear_removed,
    ),
    AfterImport(
        modules=("detectron2.data.detection_utils",),
        cause="Pillow turns a TIFF as its EXIF data say when it loads it, detectron2 once more",
        needed=says("def _apply_exif_orientation"),
        apply=libraries.tiff_turned_twice,
    ),
    AfterImport(
        modules=("detectron2.data.common",),
        cause="Python 3.11 removed sampling from a set, which replaces unusable images",
        needed=says("_rng.sample(self._fallback_candidates"),
        apply=libraries.sampling_from_a_set_removed,
    ),
    AfterImport(
        modules=("detectron2.modeling.meta_arch.retinanet",),
        cause="torch refuses GroupNorm(32, 1), with which the head probes its norm",
        needed=says("get_norm(norm, 1)"),
        apply=libraries.group_norm_with_one_channel_refused,
    ),
    AfterImport(
        modules=("detectron2.engine.hooks",),
        cause="torch removed the autograd profiler's use_cuda",
        needed=says("profile(use_cuda="),
        apply=libraries.profiler_use_cuda_removed,
    ),
    DuringImport(
        modules=("detectron2.model_zoo.model_zoo",),
        cause="setuptools 81 removed pkg_resources",
        needed=says("import pkg_resources", without="pkg_resources"),
        apply=packages.pkg_resources_absent,
    ),
    DuringImport(
        modules=("detectron2.export",),
        cause="torch ships no Caffe2, which tracing and scripting do not need",
        needed=says("\nfrom .api import", without="caffe2.python"),
        apply=packages.caffe2_absent,
    ),
    # Checkpoints
    AfterImport(
        modules=("detectron2.engine.defaults",),
        cause="0.6 saves no optimizer state, main cannot resume from a checkpoint without",
        needed=says("class DefaultTrainer"),
        apply=engine.optimizer_left_out_of_checkpoint,
    ),
    AfterImport(
        modules=("detectron2.engine.hooks",),
        cause="the LR hook knows torch's schedulers by a base class they no longer have",
        needed=says("lr_scheduler._LRScheduler"),
        apply=engine.torch_scheduler_left_out_of_checkpoint,
    ),
    AfterImport(
        modules=("detectron2.checkpoint.detection_checkpoint",),
        cause="torch.load refuses the numpy scalars that checkpoints hold",
        needed=says("def _load_file"),
        apply=libraries.numpy_scalars_refused,
    ),
    # No GPU
    AfterImport(
        modules=(engine.LAUNCH,),
        cause="child processes start without the fixes, and only with CUDA and NCCL",
        needed=says("def _distributed_worker"),
        apply=engine.child_processes_lack_fixes_and_gloo,
    ),
    AfterImport(
        modules=("detectron2.engine.defaults",),
        cause="DDP refuses device_ids for a model on the CPU",
        needed=says("[comm.get_local_rank()]"),
        apply=engine.device_ids_given_for_cpu_model,
    ),
    AfterImport(
        modules=("detectron2.engine.train_loop",),
        cause="AMP on the CPU stops at an assertion after everything was built",
        needed=says("assert torch.cuda.is_available()"),
        apply=engine.amp_without_cuda,
    ),
    # Without panopticapi
    DuringImport(
        modules=("detectron2.projects.panoptic_deeplab.dataset_mapper",),
        cause="imports panopticapi, which is not on the package index",
        needed=says("from panopticapi", without="panopticapi"),
        apply=packages.panopticapi_absent,
    ),
    AfterImport(
        modules=tuple(packages.PANOPTIC_CALLERS),
        cause="imports panopticapi when called, which is not on the package index",
        needed=says("from panopticapi", without="panopticapi"),
        apply=packages.panopticapi_absent_when_called,
    ),
    # Names that only the authors' own repository has
    AfterImport(
        modules=tuple(packages.CITYSCAPES_CALLERS),
        cause="imports cityscapesscripts from a package of the authors' own, when called",
        needed=says(f" {packages.CITYSCAPES}.", without="deeplearning"),
        apply=packages.cityscapes_internal_when_called,
    ),
    AfterImport(
        modules=("detectron2.data.detection_utils",),  # which the demo imports before
        cause="demo/demo.py imports its predictor.py from a package of the authors' own",
        needed=packages.script_imports_internal_demo,
        apply=packages.demo_internal,
    ),
)
