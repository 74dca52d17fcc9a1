"""Every fix: in which modules, why, when it is needed, and what it does.

A new one is a row here and a function, named after the cause, in the file of that cause.
"""

from regnet_backbones.adapters.detectron2.compat import (
    cpu_processes,
    extension,
    image_orientation,
    internal_names,
    panoptic,
    removed_names,
    training_state,
)
from regnet_backbones.adapters.detectron2.compat.hook import AfterImport, DuringImport, Fix

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
        needed=extension.imports_absent_extension,
        apply=extension.extension_absent,
    ),
    AfterImport(
        modules=("detectron2.evaluation.fast_eval_api",),
        cause="COCOeval_opt runs in detectron2._C, so evaluation fails after all of inference",
        needed=extension.is_absent,
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
        needed=extension.is_absent,
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
            *internal_names.CITYSCAPES_EVALUATIONS,
            "lvis.eval",
        ),
        cause="numpy 1.24 removed np.int and its like, and 2.4 np.in1d",
        needed=removed_names.uses_removed_numpy_alias,
        apply=removed_names.numpy_alias_removed,
    ),
    AfterImport(
        modules=("cityscapesscripts.helpers.csHelpers",),
        cause="numpy 2.4 counts in numbers of its own, which json cannot write",
        needed=removed_names.counts_are_numpys,
        apply=removed_names.count_refused_by_json,
    ),
    DuringImport(
        modules=("detectron2.data.transforms.transform",),
        cause="Pillow 10 removed Image.LINEAR",
        needed=removed_names.uses_removed_pillow_linear,
        apply=removed_names.pillow_linear_removed,
    ),
    AfterImport(
        modules=("detectron2.data.detection_utils",),
        cause="Pillow turns a TIFF as its EXIF data say when it loads it, detectron2 once more",
        needed=image_orientation.turns_tiff_twice,
        apply=image_orientation.tiff_turned_twice,
    ),
    AfterImport(
        modules=("detectron2.data.common",),
        cause="Python 3.11 removed sampling from a set, which replaces unusable images",
        needed=removed_names.samples_from_a_set,
        apply=removed_names.sampling_from_a_set_removed,
    ),
    AfterImport(
        modules=("detectron2.modeling.meta_arch.retinanet",),
        cause="torch refuses GroupNorm(32, 1), with which the head probes its norm",
        needed=removed_names.probes_norm_with_one_channel,
        apply=removed_names.group_norm_with_one_channel_refused,
    ),
    AfterImport(
        modules=("detectron2.engine.hooks",),
        cause="torch removed the autograd profiler's use_cuda",
        needed=removed_names.profiles_with_use_cuda,
        apply=removed_names.profiler_use_cuda_removed,
    ),
    DuringImport(
        modules=("detectron2.model_zoo.model_zoo",),
        cause="setuptools 81 removed pkg_resources",
        needed=removed_names.imports_absent_pkg_resources,
        apply=removed_names.pkg_resources_absent,
    ),
    DuringImport(
        modules=("detectron2.export",),
        cause="torch ships no Caffe2, which tracing and scripting do not need",
        needed=removed_names.imports_absent_caffe2,
        apply=removed_names.caffe2_absent,
    ),
    # Checkpoints
    AfterImport(
        modules=("detectron2.engine.defaults",),
        cause="DefaultTrainer saves no optimizer state, so --resume restarts momentum",
        needed=training_state.trainer_saves_no_optimizer,
        apply=training_state.optimizer_left_out_of_checkpoint,
    ),
    AfterImport(
        modules=("detectron2.engine.defaults",),
        cause="a trainer that saves the optimizer cannot resume where 0.6 saved none",
        needed=training_state.trainer_demands_optimizer,
        apply=training_state.checkpoint_without_optimizer_refused,
    ),
    AfterImport(
        modules=("detectron2.engine.hooks",),
        cause="the LR hook knows torch's schedulers by a base class they no longer have",
        needed=training_state.hook_ignores_torch_scheduler,
        apply=training_state.torch_scheduler_left_out_of_checkpoint,
    ),
    AfterImport(
        modules=("detectron2.checkpoint.detection_checkpoint",),
        cause="torch.load refuses the numpy scalars that checkpoints hold",
        needed=training_state.refuses_numpy_scalars,
        apply=training_state.numpy_scalars_refused,
    ),
    # No GPU
    AfterImport(
        modules=(cpu_processes.LAUNCH,),
        cause="child processes start without the fixes, and only with CUDA and NCCL",
        needed=cpu_processes.starts_stock_worker,
        apply=cpu_processes.child_processes_lack_fixes_and_gloo,
    ),
    AfterImport(
        modules=("detectron2.engine.defaults",),
        cause="DDP refuses device_ids for a model on the CPU",
        needed=cpu_processes.passes_device_ids,
        apply=cpu_processes.device_ids_given_for_cpu_model,
    ),
    AfterImport(
        modules=("detectron2.engine.train_loop",),
        cause="AMP on the CPU stops at an assertion after everything was built",
        needed=cpu_processes.amp_asserts_cuda,
        apply=cpu_processes.amp_without_cuda,
    ),
    # Without panopticapi
    DuringImport(
        modules=("detectron2.projects.panoptic_deeplab.dataset_mapper",),
        cause="imports panopticapi, which is not on the package index",
        needed=panoptic.imports_absent_panopticapi,
        apply=panoptic.panopticapi_absent,
    ),
    AfterImport(
        modules=tuple(panoptic.CALLERS),
        cause="imports panopticapi when called, which is not on the package index",
        needed=panoptic.is_absent,
        apply=panoptic.panopticapi_absent_when_called,
    ),
    # Names that only the authors' own repository has
    AfterImport(
        modules=tuple(internal_names.CALLERS),
        cause="imports cityscapesscripts from a package of the authors' own, when called",
        needed=internal_names.imports_internal_cityscapes,
        apply=internal_names.cityscapes_internal_when_called,
    ),
    AfterImport(
        modules=("detectron2.data.detection_utils",),  # which the demo imports before
        cause="demo/demo.py imports its predictor.py from a package of the authors' own",
        needed=internal_names.script_imports_internal_demo,
        apply=internal_names.demo_internal,
    ),
)
