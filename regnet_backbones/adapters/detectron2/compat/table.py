"""Every fix: in which modules, why, when it is needed, and what it does.

A new one is a row here and a function, named after the cause, in the file of that cause.
"""

import regnet_backbones.adapters.detectron2.compat.engine as engine
import regnet_backbones.adapters.detectron2.compat.extension as extension
import regnet_backbones.adapters.detectron2.compat.libraries as libraries
import regnet_backbones.adapters.detectron2.compat.packages as packages
from regnet_backbones.adapters.detectron2.compat.hook import AfterImport, DuringImport, Fix

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
        needed=packages.imports_absent(extension.EXTENSION, "from detectron2 import _C"),
        apply=extension.extension_absent,
    ),
    AfterImport(
        modules=("detectron2.evaluation.fast_eval_api",),
        cause="COCOeval_opt runs in detectron2._C, so evaluation fails after all of inference",
        needed=packages.absent(extension.EXTENSION),
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
        needed=packages.absent(extension.EXTENSION),
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
        needed=libraries.uses_removed_numpy_alias,
        apply=libraries.numpy_alias_removed,
    ),
    AfterImport(
        modules=("cityscapesscripts.helpers.csHelpers",),
        cause="numpy 2.4 counts in numbers of its own, which json cannot write",
        needed=libraries.counts_are_numpys,
        apply=libraries.count_refused_by_json,
    ),
    DuringImport(
        modules=("detectron2.data.transforms.transform",),
        cause="Pillow 10 removed Image.LINEAR",
        needed=libraries.uses_removed_pillow_linear,
        apply=libraries.pillow_linear_removed,
    ),
    AfterImport(
        modules=("detectron2.data.detection_utils",),
        cause="Pillow turns a TIFF as its EXIF data say when it loads it, detectron2 once more",
        needed=libraries.turns_tiff_twice,
        apply=libraries.tiff_turned_twice,
    ),
    AfterImport(
        modules=("detectron2.data.common",),
        cause="Python 3.11 removed sampling from a set, which replaces unusable images",
        needed=libraries.samples_from_a_set,
        apply=libraries.sampling_from_a_set_removed,
    ),
    AfterImport(
        modules=("detectron2.modeling.meta_arch.retinanet",),
        cause="torch refuses GroupNorm(32, 1), with which the head probes its norm",
        needed=libraries.probes_norm_with_one_channel,
        apply=libraries.group_norm_with_one_channel_refused,
    ),
    AfterImport(
        modules=("detectron2.engine.hooks",),
        cause="torch removed the autograd profiler's use_cuda",
        needed=libraries.profiles_with_use_cuda,
        apply=libraries.profiler_use_cuda_removed,
    ),
    DuringImport(
        modules=("detectron2.model_zoo.model_zoo",),
        cause="setuptools 81 removed pkg_resources",
        needed=packages.imports_absent("pkg_resources", "import pkg_resources"),
        apply=packages.pkg_resources_absent,
    ),
    DuringImport(
        modules=("detectron2.export",),
        cause="torch ships no Caffe2, which tracing and scripting do not need",
        needed=packages.imports_absent_caffe2,
        apply=packages.caffe2_absent,
    ),
    # Checkpoints
    AfterImport(
        modules=("detectron2.engine.defaults",),
        cause="DefaultTrainer saves no optimizer state, so --resume restarts momentum",
        needed=engine.trainer_saves_no_optimizer,
        apply=engine.optimizer_left_out_of_checkpoint,
    ),
    AfterImport(
        modules=("detectron2.engine.defaults",),
        cause="a trainer that saves the optimizer cannot resume where 0.6 saved none",
        needed=engine.trainer_demands_optimizer,
        apply=engine.checkpoint_without_optimizer_refused,
    ),
    AfterImport(
        modules=("detectron2.engine.hooks",),
        cause="the LR hook knows torch's schedulers by a base class they no longer have",
        needed=engine.hook_ignores_torch_scheduler,
        apply=engine.torch_scheduler_left_out_of_checkpoint,
    ),
    AfterImport(
        modules=("detectron2.checkpoint.detection_checkpoint",),
        cause="torch.load refuses the numpy scalars that checkpoints hold",
        needed=libraries.refuses_numpy_scalars,
        apply=libraries.numpy_scalars_refused,
    ),
    # No GPU
    AfterImport(
        modules=(engine.LAUNCH,),
        cause="child processes start without the fixes, and only with CUDA and NCCL",
        needed=engine.starts_stock_worker,
        apply=engine.child_processes_lack_fixes_and_gloo,
    ),
    AfterImport(
        modules=("detectron2.engine.defaults",),
        cause="DDP refuses device_ids for a model on the CPU",
        needed=engine.passes_device_ids,
        apply=engine.device_ids_given_for_cpu_model,
    ),
    AfterImport(
        modules=("detectron2.engine.train_loop",),
        cause="AMP on the CPU stops at an assertion after everything was built",
        needed=engine.amp_asserts_cuda,
        apply=engine.amp_without_cuda,
    ),
    # Without panopticapi
    DuringImport(
        modules=("detectron2.projects.panoptic_deeplab.dataset_mapper",),
        cause="imports panopticapi, which is not on the package index",
        needed=packages.imports_absent("panopticapi", "from panopticapi"),
        apply=packages.panopticapi_absent,
    ),
    AfterImport(
        modules=tuple(packages.PANOPTIC_CALLERS),
        cause="imports panopticapi when called, which is not on the package index",
        needed=packages.absent("panopticapi"),
        apply=packages.panopticapi_absent_when_called,
    ),
    # Names that only the authors' own repository has
    AfterImport(
        modules=tuple(packages.CITYSCAPES_CALLERS),
        cause="imports cityscapesscripts from a package of the authors' own, when called",
        needed=packages.imports_internal_cityscapes,
        apply=packages.cityscapes_internal_when_called,
    ),
    AfterImport(
        modules=("detectron2.data.detection_utils",),  # which the demo imports before
        cause="demo/demo.py imports its predictor.py from a package of the authors' own",
        needed=packages.script_imports_internal_demo,
        apply=packages.demo_internal,
    ),
)
