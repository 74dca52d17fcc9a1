"""Each fix is tested by the use that fails without it, on whichever detectron2 is installed."""

import importlib
import importlib.util
import json
import logging
import os
import pickle
import subprocess
import sys
import textwrap
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import wrapt
from fresh_processes import run_in_fresh_processes
from PIL import Image, ImageOps
from torch import nn
from torch.nn import functional as F

from regnet_backbones.adapters.detectron2 import compat
from regnet_backbones.adapters.detectron2.compat import libraries, packages
from regnet_backbones.adapters.detectron2.compat.hook import (
    AfterImport,
    DuringImport,
    FixFinder,
    WhenAbsent,
)
from regnet_backbones.adapters.detectron2.compat.table import FIXES

pytest.importorskip("detectron2")
compat.install()

REPOSITORY = Path(__file__).resolve().parent.parent
LOGGER = "regnet_backbones.adapters.detectron2.compat"


def module_of(name: str) -> types.ModuleType:
    """Import `name`; never the function of the same name in its package."""
    importlib.import_module(name)
    return sys.modules[name]


class TestFinder:
    """The mechanism, on modules made up here."""

    @pytest.fixture
    def package(self, tmp_path, monkeypatch):
        """Importable modules `compat_demo.a` and `compat_demo.b`."""
        folder = tmp_path / "compat_demo"
        folder.mkdir()
        (folder / "__init__.py").write_text("")
        (folder / "a.py").write_text("import sys\nseen = 'stand_in' in sys.modules\nvalue = 1\n")
        (folder / "b.py").write_text("value = 1\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
        yield "compat_demo"
        for name in [n for n in sys.modules if n.split(".")[0] == "compat_demo"]:
            del sys.modules[name]

    @staticmethod
    def double(module):
        module.value *= 2

    def after(self, apply=None, needed=lambda source: True, name="compat_demo.a"):
        return AfterImport(apply or self.double, needed, name)

    def test_context_is_open_during_the_import_only(self, package):
        during = DuringImport(
            lambda: packages.stand_in_modules(types.ModuleType("stand_in")),
            lambda source: "value = 1" in source,
            "compat_demo.a",
        )
        FixFinder([during]).install()
        assert importlib.import_module("compat_demo.a").seen
        assert "stand_in" not in sys.modules

    def test_change_after_the_import_of_the_named_module_only(self, package):
        finder = FixFinder([self.after()])
        finder.install()
        assert importlib.import_module("compat_demo.a").value == 2
        assert importlib.import_module("compat_demo.b").value == 1
        assert [(row.module, row.name) for row in finder.applied] == [("compat_demo.a", "double")]

    def test_nothing_happens_where_the_cause_is_absent(self, package):
        finder = FixFinder([self.after(needed=lambda source: "value = 2" in source)])
        finder.install()
        assert importlib.import_module("compat_demo.a").value == 1
        assert finder.applied == ()

    def test_module_that_is_imported_already_is_changed_once(self, package):
        module = importlib.import_module("compat_demo.a")
        finder = FixFinder([self.after()])
        finder.install()
        finder.install()
        assert module.value == 2
        assert sys.meta_path.count(finder) == 1

    def test_module_that_is_still_running_is_left_alone(self, package, tmp_path):
        finder = FixFinder([self.after()])
        sys.modules["compat_demo_install"] = types.SimpleNamespace(run=finder.install)
        source = "import compat_demo_install\ncompat_demo_install.run()\nvalue = 1\n"
        (tmp_path / "compat_demo" / "a.py").write_text(source)
        try:
            assert importlib.import_module("compat_demo.a").value == 1
        finally:
            del sys.modules["compat_demo_install"]

    def test_reload_is_fixed_again(self, package):
        FixFinder([self.after()]).install()
        module = importlib.import_module("compat_demo.a")
        assert importlib.reload(module).value == 2

    def test_nothing_of_the_finder_stays_in_the_module(self, package):
        expected = type(importlib.util.find_spec("compat_demo.b").loader)
        FixFinder([self.after()]).install()
        module = importlib.import_module("compat_demo.a")
        assert type(module.__loader__) is expected
        assert type(module.__spec__.loader) is expected

    def test_find_spec_before_the_import_can_do_what_it_can_without_us(self, package):
        FixFinder([self.after()]).install()
        spec = importlib.util.find_spec("compat_demo.a")
        assert spec.origin.endswith("a.py")
        assert "value = 1" in spec.loader.get_source("compat_demo.a")
        assert importlib.util.find_spec("compat_demo.missing") is None
        assert "compat_demo.a" not in sys.modules

    @pytest.mark.parametrize(("ours", "seen_value"), [(0, 1), (1, 2)], ids=["before", "behind"])
    def test_wrapt_hook_on_the_same_module_runs_once(self, package, ours, seen_value):
        seen = []
        wrapt.register_post_import_hook(lambda module: seen.append(module.value), "compat_demo.a")
        hooks = [finder for finder in sys.meta_path if type(finder).__module__ == "wrapt.importer"]
        others = [finder for finder in sys.meta_path if finder not in hooks]
        finder = FixFinder([self.after()])
        sys.meta_path[:] = [*hooks, *others]
        sys.meta_path.insert(ours, finder)
        assert len(hooks) == 1
        assert importlib.import_module("compat_demo.a").value == 2
        assert seen == [seen_value]  # the inner one of two hooks comes first

    def test_fix_that_does_not_fit_warns_and_lets_the_import_go_on(self, package, caplog):
        def misfit(module):
            module.no_such_name()

        finder = FixFinder([self.after(misfit)])
        finder.install()
        assert importlib.import_module("compat_demo.a").value == 1
        assert "misfit does not fit this version of compat_demo.a" in caplog.text
        assert finder.applied == ()

    @pytest.mark.parametrize("needed", [True, False])
    def test_absent_module_is_provided_where_it_is_needed(self, package, needed):
        names = ("compat_demo_absent", "compat_demo_absent.part")
        finder = FixFinder([WhenAbsent(self.fill, lambda source: needed, *names)])
        finder.install()
        if not needed:
            with pytest.raises(ModuleNotFoundError, match="compat_demo_absent"):
                importlib.import_module(names[1])
            return
        try:
            assert importlib.import_module(names[1]).value == 3
            assert [row.module for row in finder.applied] == list(names)
            with pytest.raises(ModuleNotFoundError, match="other"):
                importlib.import_module("compat_demo_absent.other")
        finally:
            for name in names:
                del sys.modules[name]

    def test_real_package_wins_and_gets_nothing_added(self, package):
        names = ("compat_demo", "compat_demo.a", "compat_demo.missing")
        finder = FixFinder([WhenAbsent(self.fill, lambda source: True, *names)])
        finder.install()
        assert importlib.import_module("compat_demo.a").value == 1
        with pytest.raises(ModuleNotFoundError, match=r"compat_demo\.missing"):
            importlib.import_module("compat_demo.missing")
        assert finder.applied == ()

    @staticmethod
    def fill(module):
        module.value = 3


# The modules of the table that exist; those of the internal name do so during calls.
OUTSIDE_CALLS = [
    name
    for fix in FIXES
    for name in fix.modules
    if not name.startswith(packages.CITYSCAPES) and not isinstance(fix, WhenAbsent)
]


class TestInstall:
    def test_installing_again_changes_nothing(self):
        worker = module_of("detectron2.engine.launch")._distributed_worker
        distributed = module_of("detectron2.engine.defaults").DistributedDataParallel
        before = compat.applied()
        compat.install()
        assert compat.applied() == before
        assert module_of("detectron2.engine.launch")._distributed_worker is worker
        assert module_of("detectron2.engine.defaults").DistributedDataParallel is distributed

    def test_every_module_of_the_table_is_one_of_detectron2_or_of_what_it_evaluates_with(self):
        assert {name.split(".")[0] for name in OUTSIDE_CALLS} == {
            *("detectron2", "lvis", "cityscapesscripts")
        }
        assert all(importlib.util.find_spec(name) is not None for name in OUTSIDE_CALLS)

    def test_no_library_is_changed(self):
        for name in OUTSIDE_CALLS:
            module_of(name)
        assert not {"int", "str"} & set(vars(np))
        assert not hasattr(Image, "LINEAR")
        assert not {"detectron2._C", "detectron2.export.api"} & set(sys.modules)


@pytest.fixture
def uncompiled():
    if importlib.util.find_spec("detectron2._C") is not None:
        pytest.skip("this detectron2 has its compiled extension")


@pytest.mark.usefixtures("uncompiled")
class TestWithoutExtension:
    def test_rotated_operators_say_what_is_missing(self):
        boxes = torch.tensor([[4.0, 4.0, 2.0, 2.0, 30.0]])
        rotated_boxes = module_of("detectron2.layers.rotated_boxes")
        align = module_of("detectron2.layers.roi_align_rotated").ROIAlignRotated((2, 2), 1.0, 0)
        rois = torch.cat([torch.zeros(1, 1), boxes], dim=1)
        message = "without its compiled extension"
        with pytest.raises(ImportError, match=message):
            rotated_boxes.pairwise_iou_rotated(boxes, boxes)
        with pytest.raises(ImportError, match=message):
            module_of("detectron2.layers.nms").nms_rotated(boxes, torch.ones(1), 0.5)
        with pytest.raises(ImportError, match=message):
            align(torch.zeros(1, 1, 8, 8), rois)

    def test_stand_in_is_gone_after_the_import(self):
        module_of("detectron2.layers.deform_conv")
        with pytest.raises(ImportError):
            importlib.import_module("detectron2._C")

    def test_coco_evaluation_with_the_default_implementation(self, capsys):
        """One box found exactly, one missed by a category of its own: AP 1 and 0."""
        from pycocotools.coco import COCO

        evaluation = module_of("detectron2.evaluation.coco_evaluation")
        truth = COCO()
        box = {"bbox": [2, 2, 10, 10], "area": 100, "iscrowd": 0, "image_id": 1}
        truth.dataset = {
            "info": {},
            "images": [{"id": 1, "width": 32, "height": 32}],
            "categories": [{"id": 1, "name": "found"}, {"id": 2, "name": "missed"}],
            "annotations": [{**box, "id": 1, "category_id": 1}, {**box, "id": 2, "category_id": 2}],
        }
        truth.createIndex()
        found = {"image_id": 1, "category_id": 1, "bbox": [2, 2, 10, 10], "score": 0.9}
        result = evaluation._evaluate_predictions_on_coco(truth, [found], "bbox")
        assert result.stats[0] == pytest.approx(0.5)

    def test_fast_implementation_imported_by_other_code(self):
        from pycocotools.cocoeval import COCOeval

        assert module_of("detectron2.evaluation.fast_eval_api").COCOeval_opt is COCOeval


class TestDeformableConvolution:
    """Against plain convolution, which deformable convolution is for offsets of zero."""

    @pytest.fixture
    def layers(self):
        return module_of("detectron2.layers")

    def test_zero_offset_is_plain_convolution(self, layers):
        layer = layers.DeformConv(
            4, 6, 3, stride=2, padding=2, dilation=2, groups=2, deformable_groups=2
        )
        x = torch.randn(2, 4, 9, 10)
        expected = F.conv2d(x, layer.weight, None, 2, 2, 2, 2)
        offset = torch.zeros(2, 2 * 2 * 9, *expected.shape[2:])
        torch.testing.assert_close(layer(x, offset), expected)

    def test_offset_is_vertical_then_horizontal(self, layers):
        layer = layers.DeformConv(3, 4, 3)
        x = torch.randn(1, 3, 8, 8)
        offset = torch.zeros(1, 18, 6, 6)
        offset[:, 1::2] = 1  # one pixel to the right
        expected = F.conv2d(x, layer.weight)[..., 1:]
        torch.testing.assert_close(layer(x, offset)[..., :-1], expected)

    def test_mask_scales_and_bias_is_added(self, layers):
        layer = layers.ModulatedDeformConv(4, 6, 3, padding=1, groups=2)
        nn.init.normal_(layer.bias)
        x = torch.randn(2, 4, 7, 7)
        offset, mask = torch.zeros(2, 18, 7, 7), torch.full((2, 9, 7, 7), 0.5)
        expected = 0.5 * F.conv2d(x, layer.weight, None, 1, 1, 1, 2) + layer.bias[:, None, None]
        torch.testing.assert_close(layer(x, offset, mask), expected)

    def test_gradients(self, layers):
        layer = layers.ModulatedDeformConv(2, 2, 2).double()
        x = torch.randn(1, 2, 3, 3, dtype=torch.double, requires_grad=True)
        # Away from whole pixels, where bilinear sampling has no derivative.
        offset = torch.empty(1, 8, 2, 2, dtype=torch.double).uniform_(0.2, 0.4).requires_grad_()
        mask = torch.rand(1, 4, 2, 2, dtype=torch.double, requires_grad=True)
        assert torch.autograd.gradcheck(layer, (x, offset, mask), fast_mode=True)

    def test_version_one_trains_on_the_cpu(self, layers):
        layer = layers.DeformConv(2, 2, 3, padding=1)
        x = torch.randn(1, 2, 4, 4)
        layer(x, torch.zeros(1, 18, 4, 4)).sum().backward()
        plain = layer.weight.detach().clone().requires_grad_()
        F.conv2d(x, plain, padding=1).sum().backward()
        torch.testing.assert_close(layer.weight.grad, plain.grad)

    def test_no_image(self, layers):
        layer = layers.DeformConv(2, 3, 3, padding=1)
        assert layer(torch.zeros(0, 2, 4, 4), torch.zeros(0, 18, 4, 4)).shape == (0, 3, 4, 4)


class TestRemovedNames:
    def test_class_histogram_and_category_check(self, caplog):
        build = module_of("detectron2.data.build")
        caplog.set_level(logging.INFO, logger=build.__name__)
        images = [{"annotations": [{"category_id": 0}, {"category_id": 1}, {"category_id": 1}]}]
        build.print_instances_class_histogram(images, ["circle", "square"])
        assert "Distribution of instances among all 2 categories" in caplog.text
        assert "| 2 " in caplog.text
        with pytest.raises(AssertionError, match="invalid category_id=1 for a dataset of 1"):
            build.print_instances_class_histogram(images, ["circle"])

    def test_semantic_segmentation_evaluation(self, tmp_path):
        """Class 0: 2 of 3 pixels right and none wrong; class 1: 1 right, 1 too many."""
        evaluation = module_of("detectron2.evaluation.sem_seg_evaluation")
        catalog = module_of("detectron2.data").MetadataCatalog
        truth = tmp_path / "truth.png"
        Image.fromarray(np.array([[0, 0], [0, 1]], dtype=np.uint8)).save(truth)
        metadata = catalog.get("compat_sem_seg")
        metadata.set(stuff_classes=["zero", "one"], ignore_label=255)
        registry = module_of("detectron2.data").DatasetCatalog
        registry.register(
            "compat_sem_seg", lambda: [{"file_name": "x.png", "sem_seg_file_name": str(truth)}]
        )
        try:
            evaluator = evaluation.SemSegEvaluator("compat_sem_seg", distributed=False)
            evaluator.reset()
            scores = torch.tensor([[[1.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 1.0]]])
            evaluator.process([{"file_name": "x.png"}], [{"sem_seg": scores}])
            result = evaluator.evaluate()["sem_seg"]
        finally:
            registry.remove("compat_sem_seg")
            catalog.remove("compat_sem_seg")
        assert result["IoU-zero"] == pytest.approx(100 * 2 / 3)
        assert result["IoU-one"] == pytest.approx(100 * 1 / 2)
        assert result["mIoU"] == pytest.approx(100 * 7 / 12)

    def test_pascal_voc_list_of_images(self, tmp_path):
        voc = module_of("detectron2.data.datasets.pascal_voc")
        (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
        (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("000001\n000002\n")
        (tmp_path / "Annotations").mkdir()
        for name in ("000001", "000002"):
            (tmp_path / "Annotations" / f"{name}.xml").write_text(
                "<annotation><size><width>8</width><height>6</height></size></annotation>"
            )
        images = voc.load_voc_instances(str(tmp_path), "train", ("aeroplane",))
        assert [(i["image_id"], i["height"]) for i in images] == [("000001", 6), ("000002", 6)]

    def test_masks_are_boolean(self):
        masks = module_of("detectron2.structures.masks")
        mask = masks.polygons_to_bitmask([np.array([1.0, 1.0, 3.0, 1.0, 3.0, 3.0, 1.0, 3.0])], 4, 4)
        assert mask.dtype == bool
        assert mask.sum() == 4

    @pytest.mark.parametrize("alias", [bool, int])
    def test_alias_means_the_builtin_and_the_rest_is_numpy(self, alias, monkeypatch, tmp_path):
        name = alias.__name__
        monkeypatch.delattr(np, name, raising=False)
        (tmp_path / "compat_alias.py").write_text(
            f"import numpy as np\ndef get():\n    return np.{name}, np.zeros\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        module = importlib.import_module("compat_alias")
        try:
            libraries.numpy_alias_removed(module)
            assert module.get() == (alias, np.zeros)
            assert name not in vars(np)
        finally:
            del sys.modules["compat_alias"]

    def test_default_interpolation_of_a_transform(self):
        transforms = module_of("detectron2.data.transforms.transform")
        assert transforms.ExtentTransform((0, 0, 2, 2), (2, 2)).interp == Image.BILINEAR

    @pytest.mark.parametrize("suffix", ["tif", "jpg", "png"])
    def test_images_are_read_as_pillow_turns_them(self, tmp_path, suffix):
        read_image = module_of("detectron2.data.detection_utils").read_image
        pixels = np.random.default_rng(0).integers(0, 255, (3, 5, 3), np.uint8)
        path, exif = tmp_path / f"image.{suffix}", Image.Exif()
        for orientation in range(1, 9):
            exif[0x0112] = orientation
            Image.fromarray(pixels).save(path, exif=exif)
            expected = np.asarray(ImageOps.exif_transpose(Image.open(path)))
            assert expected.shape == ((3, 5, 3) if orientation < 5 else (5, 3, 3))
            assert np.array_equal(read_image(str(path), "RGB"), expected)

    def test_unusable_images_are_replaced_by_others(self):
        common = module_of("detectron2.data.common")
        dataset = common.MapDataset([0, 0, 5, 0], lambda element: element or None)
        assert pickle.loads(pickle.dumps(dataset))[0] == 5
        assert [dataset[i] for i in range(4)] == [5, 5, 5, 5]

    def test_retinanet_head_with_group_norm(self):
        retinanet = module_of("detectron2.modeling.meta_arch.retinanet")
        shape = module_of("detectron2.layers").ShapeSpec(channels=64)
        head = retinanet.RetinaNetHead(
            input_shape=[shape], num_classes=2, num_anchors=3, conv_dims=[64], norm="GN"
        )
        norms = [m for m in head.modules() if isinstance(m, nn.GroupNorm)]
        assert [(norm.num_groups, norm.num_channels) for norm in norms] == [(32, 64), (32, 64)]
        logits, deltas = head([torch.zeros(1, 64, 4, 4)])
        assert logits[0].shape[1] == 3 * 2
        assert deltas[0].shape[1] == 3 * 4

    def test_autograd_profiler_writes_its_trace(self, tmp_path):
        hooks = module_of("detectron2.engine.hooks")
        with pytest.warns(UserWarning, match="TorchProfiler"):
            hook = hooks.AutogradProfiler(lambda trainer: trainer.iter == 1, str(tmp_path))
        for iteration in range(3):
            hook.trainer = types.SimpleNamespace(iter=iteration)
            hook.before_step()
            torch.ones(2).add(1)
            hook.after_step()
        (trace,) = tmp_path.iterdir()
        assert trace.name == "profiler-trace-iter1.json"
        assert "aten::add" in trace.read_text()

    def test_model_zoo_without_pkg_resources(self, monkeypatch):
        package = module_of("detectron2.model_zoo")
        name = "detectron2.model_zoo.model_zoo"
        monkeypatch.setattr(package, "model_zoo", package.model_zoo)
        monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "pkg_resources", None)
        zoo = importlib.import_module(name)
        expected = os.path.join(os.path.dirname(package.__file__), "configs", "a.yaml")
        assert zoo.pkg_resources.resource_filename(package.__name__, "configs/a.yaml") == expected
        with pytest.raises(RuntimeError, match=r"no-such\.yaml not available in Model Zoo"):
            zoo.get_config_file("no-such.yaml")

    def test_export_by_tracing_and_scripting(self):
        export = module_of("detectron2.export")
        adapter = export.TracingAdapter(nn.Linear(2, 1), torch.ones(1, 2))
        assert torch.jit.trace(adapter, (torch.ones(1, 2),))(torch.ones(1, 2))[0].shape == (1, 1)
        assert callable(export.scripting_with_instances)


class TestCausesAreTested:
    """No fix where the library still has what detectron2 uses, or detectron2 does without."""

    @pytest.mark.parametrize(
        "source",
        [
            "from detectron2 import _C",
            "import pkg_resources",
            "\nfrom .api import *",
        ],
    )
    def test_packages_are_there(self, source, monkeypatch):
        def needed():
            return [fix for fix in FIXES if isinstance(fix, DuringImport) and fix.needed(source)]

        monkeypatch.setattr(packages, "is_importable", lambda name: False)
        assert len(needed()) == 1
        monkeypatch.setattr(packages, "is_importable", lambda name: True)
        assert needed() == []

    def test_module_uses_no_removed_alias(self):
        assert not libraries.removed_aliases("import numpy as np\nx = np.int64, np.bool_\n")

    def test_caffe2_is_imported_with_care(self):
        (fix,) = (fix for fix in FIXES if fix.modules == ("detectron2.export",))
        assert not fix.needed("try:\n    import caffe2\nelse:\n    from .api import *")


class LinearLoss(nn.Module):
    """A model with detectron2's interface: a loss in, nothing else out."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 1)

    def forward(self, x):
        return {"loss": self.linear(x).square().mean()}


@pytest.fixture
def make_trainer(tmp_path):
    """Make DefaultTrainers of a toy model that share an output folder, or not."""
    defaults = module_of("detectron2.engine.defaults")
    config = module_of("detectron2.config")

    class Trainer(defaults.DefaultTrainer):
        @classmethod
        def build_model(cls, cfg):
            torch.manual_seed(1)
            return LinearLoss()

        @classmethod
        def build_train_loader(cls, cfg):
            return [torch.tensor([[1.0, 2.0], [3.0, -1.0]])] * cfg.SOLVER.MAX_ITER

        def build_writers(self):
            return []

    def make(folder, iterations):
        cfg = config.get_cfg()
        cfg.OUTPUT_DIR = str(tmp_path / folder)
        os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
        cfg.SOLVER.MAX_ITER = iterations
        cfg.SOLVER.STEPS = ()
        cfg.SOLVER.BASE_LR = 0.05
        cfg.SOLVER.WARMUP_ITERS = 0
        return Trainer(cfg)

    return make


class TestTrainingState:
    @staticmethod
    def stop_after_two(make_trainer):
        trainer = make_trainer("interrupted", 2)
        trainer.train()
        return trainer.cfg.OUTPUT_DIR

    def test_resumed_training_equals_uninterrupted_training(self, make_trainer):
        self.stop_after_two(make_trainer)
        resumed = make_trainer("interrupted", 4)
        resumed.resume_or_load(resume=True)
        assert resumed.start_iter == 2
        resumed.train()
        straight = make_trainer("straight", 4)
        straight.train()
        torch.testing.assert_close(
            resumed.model.linear.weight, straight.model.linear.weight, rtol=0, atol=0
        )
        momentum = [
            trainer.optimizer.state[trainer.model.linear.weight]["momentum_buffer"]
            for trainer in (resumed, straight)
        ]
        torch.testing.assert_close(*momentum, rtol=0, atol=0)

    def test_checkpoint_without_optimizer_still_loads(self, make_trainer, caplog):
        folder = self.stop_after_two(make_trainer)
        path = os.path.join(folder, "model_final.pth")
        checkpoint = torch.load(path)
        del checkpoint["trainer"]["_trainer"]
        torch.save(checkpoint, path)
        resumed = make_trainer("interrupted", 4)
        caplog.set_level(logging.WARNING, logger=LOGGER)
        resumed.resume_or_load(resume=True)
        assert resumed.start_iter == 2
        assert "no optimizer state" in caplog.text

    def test_state_of_a_torch_scheduler(self):
        hooks = module_of("detectron2.engine.hooks")

        def make_hook():
            optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
            scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
            return hooks.LRScheduler(optimizer, scheduler)

        hook = make_hook()
        for _ in range(2):
            hook._optimizer.step()
            hook.scheduler.step()
        state = hook.state_dict()
        restored = make_hook()
        restored.load_state_dict(state)
        assert restored.scheduler.last_epoch == 2

    def test_fvcore_scheduler_has_no_state(self):
        from fvcore.common.param_scheduler import ConstantParamScheduler

        hooks = module_of("detectron2.engine.hooks")
        assert hooks.LRScheduler(scheduler=ConstantParamScheduler(1.0)).state_dict() == {}


class TestNumpyInCheckpoints:
    @staticmethod
    def load(path):
        checkpointer = module_of("detectron2.checkpoint").DetectionCheckpointer(nn.Linear(2, 1))
        return checkpointer.load(str(path))

    @staticmethod
    def rename_numpy_core(path):
        """Write the names of the other major numpy version into a checkpoint."""
        with zipfile.ZipFile(path) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for name, content in files.items():
                renamed = content.replace(b"cnumpy._core.", b"cnumpy.swap.")
                renamed = renamed.replace(b"cnumpy.core.", b"cnumpy._core.")
                archive.writestr(name, renamed.replace(b"cnumpy.swap.", b"cnumpy.core."))

    @pytest.mark.parametrize("other_numpy", [False, True])
    def test_scalars_and_arrays(self, tmp_path, other_numpy):
        path = tmp_path / "model.pth"
        best = {"score": np.float64(41.5), "iteration": np.int64(7), "curve": np.arange(3.0)}
        torch.save({"model": nn.Linear(2, 1).state_dict(), "best": best}, path)
        if other_numpy:
            self.rename_numpy_core(path)
        best = self.load(path)["best"]
        assert (best["score"], best["iteration"]) == (41.5, 7)
        assert best["curve"].tolist() == [0, 1, 2]

    def test_pycls_file(self, tmp_path):
        path = tmp_path / "model.pyth"
        weights = nn.Linear(2, 1).state_dict()
        torch.save({"model_state": weights, "epoch": 3, "test_err": np.float64(21.5)}, path)
        model = nn.Linear(2, 1)
        module_of("detectron2.checkpoint").DetectionCheckpointer(model).load(str(path))
        torch.testing.assert_close(model.weight.data, weights["weight"])

    def test_other_objects_are_still_refused(self, tmp_path):
        path = tmp_path / "model.pth"
        torch.save({"model": {}, "anything": Path("elsewhere")}, path)
        with pytest.raises(pickle.UnpicklingError):
            self.load(path)


class TestCpu:
    def test_two_processes_over_gloo(self, tmp_path):
        """The worker is in a module that knows nothing of us, behind a main guard."""
        (tmp_path / "compat_job.py").write_text(
            textwrap.dedent(
                """
                import torch
                import torch.distributed as dist
                from detectron2.engine import create_ddp_model
                from detectron2.utils import comm

                def main(folder):
                    total = torch.tensor([comm.get_rank() + 1.0])
                    dist.all_reduce(total)
                    model = create_ddp_model(torch.nn.Linear(1, 1, bias=False))
                    model(total * comm.get_rank()).sum().backward()
                    gradient = model.module.weight.grad.item()
                    with open(f"{folder}/{comm.get_rank()}.txt", "w") as file:
                        print(total.item(), gradient, comm.get_local_size(), file=file)
                """
            )
        )
        (tmp_path / "compat_launch.py").write_text(
            textwrap.dedent(
                """
                if __name__ == "__main__":
                    import sys
                    import regnet_backbones
                    from detectron2.engine import launch
                    import compat_job
                    launch(compat_job.main, 2, dist_url="auto", args=(sys.argv[1],))
                """
            )
        )
        path = os.pathsep.join([str(REPOSITORY), str(tmp_path), os.environ.get("PYTHONPATH", "")])
        environment = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "compat_launch.py", str(tmp_path)],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        # 1 + 2 over both ranks; gradients 0 and 3, averaged; two processes on the machine.
        for rank in range(2):
            assert (tmp_path / f"{rank}.txt").read_text().split() == ["3.0", "1.5", "2"]

    def test_amp_says_what_to_set(self):
        trainer = module_of("detectron2.engine.train_loop").AMPTrainer
        model = LinearLoss()
        with pytest.raises(ValueError, match=r"SOLVER\.AMP\.ENABLED to False"):
            trainer(model, [], torch.optim.SGD(model.parameters(), lr=0.1))


class TestPanoptic:
    """By hand; one row of pixels per image."""

    CATEGORIES = (
        {"id": 1, "isthing": 1},
        {"id": 2, "isthing": 0},
        {"id": 3, "isthing": 1},
    )

    @pytest.fixture
    def quality(self):
        return importlib.import_module(
            "regnet_backbones.adapters.detectron2.compat.panoptic_quality"
        )

    @pytest.fixture
    def compute(self, quality, tmp_path):
        def write(name, pixels, segments):
            (tmp_path / name).mkdir(exist_ok=True)
            picture = quality.id2rgb(np.array([pixels]))
            Image.fromarray(picture).save(tmp_path / name / "image.png")
            info = [{"id": i, "iscrowd": 0, **s} for i, s in segments.items()]
            annotation = {"image_id": 1, "file_name": "image.png", "segments_info": info}
            content = {"annotations": [annotation], "categories": list(self.CATEGORIES)}
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
            return str(tmp_path / f"{name}.json")

        def compute(truth, true_segments, prediction, predicted_segments):
            return quality.pq_compute(
                write("truth", truth, true_segments),
                write("prediction", prediction, predicted_segments),
            )

        return compute

    def test_matches_void_and_crowd(self, compute):
        thing, stuff = {"category_id": 1}, {"category_id": 2}
        result = compute(
            [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 0, 0],
            {1: thing, 2: stuff, 3: {**thing, "iscrowd": 1}},
            [5, 5, 5, 6, 7, 7, 7, 7, 8, 8, 9, 9],
            {5: thing, 6: thing, 7: stuff, 8: thing, 9: stuff},
        )
        # Category 1: IoU 3/4, and segment 6 is too much; 8 lies in the crowd and 9 in void.
        assert result["per_class"][1] == pytest.approx({"pq": 0.5, "sq": 0.75, "rq": 2 / 3})
        assert result["per_class"][2] == pytest.approx({"pq": 1, "sq": 1, "rq": 1})
        assert result["per_class"][3] == {"pq": 0, "sq": 0, "rq": 0}
        assert result["All"] == pytest.approx({"pq": 0.75, "sq": 0.875, "rq": 5 / 6, "n": 2})
        assert result["Things"] == pytest.approx({"pq": 0.5, "sq": 0.75, "rq": 2 / 3, "n": 1})
        assert result["Stuff"] == pytest.approx({"pq": 1, "sq": 1, "rq": 1, "n": 1})

    def test_void_does_not_count_in_the_union(self, compute):
        thing = {"category_id": 1}
        result = compute([1, 1, 0, 0], {1: thing}, [4, 4, 4, 0], {4: thing})
        assert result["Things"]["sq"] == 1

    def test_half_is_no_match(self, compute):
        thing = {"category_id": 1}
        result = compute([1, 1, 1, 1], {1: thing}, [2, 2, 0, 0], {2: thing})
        assert result["Things"] == {"pq": 0, "sq": 0, "rq": 0, "n": 1}
        assert result["Stuff"]["n"] == 0
        assert np.isnan(result["Stuff"]["pq"])

    def test_large_ids(self, compute):
        thing = {"category_id": 1}
        ids = (256**2 + 5, 256**3 - 1)
        result = compute([ids[0], 0], {ids[0]: thing}, [ids[1], 0], {ids[1]: thing})
        assert result["Things"]["pq"] == 1

    def test_picture_and_list_disagree(self, compute):
        thing = {"category_id": 1}
        with pytest.raises(ValueError, match=r"ids \[7\], its segments_info \[2\]"):
            compute([1, 1], {1: thing}, [7, 7], {2: thing})

    def test_unknown_category(self, compute):
        with pytest.raises(ValueError, match=r"must be among \[1, 2, 3\], got .*9"):
            compute([1, 1], {1: {"category_id": 1}}, [2, 2], {2: {"category_id": 9}})

    def test_id_is_a_colour(self, quality):
        assert quality.rgb2id([1, 2, 3]) == 1 + 256 * 2 + 65536 * 3
        assert quality.id2rgb(1 + 256 * 2 + 65536 * 3) == [1, 2, 3]
        colors = np.array([[[255, 255, 255], [0, 1, 0]]], dtype=np.uint8)
        assert quality.rgb2id(colors).tolist() == [[16777215, 256]]
        np.testing.assert_array_equal(quality.id2rgb(quality.rgb2id(colors)), colors)

    def test_detectron2_evaluates_and_draws(self, quality, tmp_path):
        evaluation = module_of("detectron2.evaluation.panoptic_evaluation")
        catalog = module_of("detectron2.data").MetadataCatalog
        picture = quality.id2rgb(np.full((4, 4), 300))
        Image.fromarray(picture).save(tmp_path / "image.png")
        segment = {"id": 300, "category_id": 1, "iscrowd": 0, "area": 16}
        annotation = {"image_id": 1, "file_name": "image.png", "segments_info": [segment]}
        truth = {"annotations": [annotation], "categories": list(self.CATEGORIES)}
        (tmp_path / "truth.json").write_text(json.dumps(truth))
        metadata = catalog.get("compat_panoptic")
        metadata.set(
            panoptic_json=str(tmp_path / "truth.json"),
            panoptic_root=str(tmp_path),
            thing_dataset_id_to_contiguous_id={1: 0},
            stuff_dataset_id_to_contiguous_id={2: 1},
            thing_classes=["thing"],
            stuff_classes=["stuff"],
        )
        try:
            evaluator = evaluation.COCOPanopticEvaluator("compat_panoptic")
            evaluator.reset()
            info = [{"id": 1, "category_id": 0, "isthing": True}]
            output = {"panoptic_seg": (torch.ones(4, 4, dtype=torch.int32), info)}
            evaluator.process([{"image_id": 1, "file_name": "image.jpg"}], [output])
            assert evaluator.evaluate()["panoptic_seg"]["PQ"] == 100
            drawn = module_of("detectron2.utils.visualizer").Visualizer(
                np.zeros((4, 4, 3), dtype=np.uint8), metadata
            )
            info = [{"id": 300, "category_id": 0, "isthing": True}]
            dataset_dict = {
                "pan_seg_file_name": str(tmp_path / "image.png"),
                "segments_info": info,
            }
            assert drawn.draw_dataset_dict(dataset_dict).get_image().any()
        finally:
            catalog.remove("compat_panoptic")

    def test_panoptic_deeplab_imports(self):
        mapper = module_of("detectron2.projects.panoptic_deeplab.dataset_mapper")
        assert mapper.rgb2id([1, 1, 0]) == 257

    def test_projects_import_it_where_detectron2_is_used_and_a_real_one_wins(self, tmp_path):
        real = tmp_path / "real" / "panopticapi"
        real.mkdir(parents=True)
        (real / "__init__.py").touch()
        (real / "utils.py").write_text("def rgb2id(color):\n    return 'real'\n")
        codes = {
            "without_detectron2": """
                import importlib.util, regnet_backbones
                assert importlib.util.find_spec("panopticapi") is None
                try:
                    import panopticapi.utils
                except ModuleNotFoundError:
                    pass
                else:
                    raise AssertionError
                """,
            "with_detectron2": """
                import regnet_backbones, detectron2
                from panopticapi.utils import id2rgb, rgb2id
                from panopticapi.evaluation import pq_compute
                assert rgb2id([1, 1, 0]) == 257
                try:
                    from panopticapi.utils import IdGenerator
                except ImportError as error:
                    assert "regnet_backbones" in str(error), error
                else:
                    raise AssertionError
                from regnet_backbones.adapters.detectron2 import compat
                assert [row.module for row in compat.applied()].count("panopticapi.utils") == 1
                """,
            "with_a_real_one": f"""
                import sys, regnet_backbones, detectron2
                sys.path.append({str(tmp_path / "real")!r})
                from panopticapi.utils import rgb2id
                assert rgb2id([1, 1, 0]) == "real"
                from regnet_backbones.adapters.detectron2 import compat
                assert "panopticapi" not in [row.module for row in compat.applied()]
                """,
        }
        run_in_fresh_processes(codes, tmp_path)


# What upstream main imports from its authors' own repository

EVALUATION = "detectron2.evaluation.cityscapes_evaluation"


@pytest.fixture
def city(tmp_path):
    """Make a dataset of one image: a car before a road."""
    images, truth = tmp_path / "leftImg8bit" / "train", tmp_path / "gtFine" / "train"
    for folder in (images, truth):
        (folder / "ulm").mkdir(parents=True)
    (images / "ulm" / "a_leftImg8bit.png").touch()
    for kind in ("instanceIds", "labelIds"):
        (truth / "ulm" / f"a_gtFine_{kind}.png").touch()
    objects = [
        {"label": "road", "polygon": [[0, 0], [29, 0], [29, 19], [0, 19]]},
        {"label": "car", "polygon": [[5, 5], [15, 5], [15, 10], [5, 10]]},
    ]
    content = {"imgHeight": 20, "imgWidth": 30, "objects": objects}
    (truth / "ulm" / "a_gtFine_polygons.json").write_text(json.dumps(content))
    return str(images), str(truth)


def test_cityscapes_instances_are_read(city):
    (record,) = module_of("detectron2.data.datasets.cityscapes").load_cityscapes_instances(
        *city, from_json=True, to_polygons=True
    )
    assert (record["height"], record["width"]) == (20, 30)
    (annotation,) = record["annotations"]
    # The third class that has instances; half a pixel around the centres of the outline's.
    assert annotation["category_id"] == 2
    assert annotation["bbox"] == pytest.approx((5, 5, 16, 11))


@pytest.mark.parametrize("kind", ["CityscapesInstanceEvaluator", "CityscapesSemSegEvaluator"])
def test_cityscapes_evaluators_find_the_labels(kind):
    evaluator = getattr(module_of(EVALUATION), kind)
    assert evaluator.process(evaluator.__new__(evaluator), [], []) is None


def test_without_the_scripts_the_error_names_them(monkeypatch):
    monkeypatch.setitem(sys.modules, "cityscapesscripts", None)  # an import of it fails
    for name in [n for n in sys.modules if n.startswith("cityscapesscripts.")]:
        monkeypatch.delitem(sys.modules, name)
    evaluator = module_of(EVALUATION).CityscapesInstanceEvaluator
    with pytest.raises(ModuleNotFoundError, match="cityscapesscripts'"):
        evaluator.process(evaluator.__new__(evaluator), [], [])


def test_nothing_of_it_stays():
    evaluator = module_of(EVALUATION).CityscapesInstanceEvaluator
    evaluator.process(evaluator.__new__(evaluator), [], [])
    assert not {"deeplearning", "vision"} & set(sys.modules)
