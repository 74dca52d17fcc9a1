"""Code that runs other people's projects, each in a process of its own; see test_projects.py."""

START = """
import os, sys, types
os.environ.update(DETECTRON2_ENV_MODULE="regnet_backbones", DETECTRON2_DATASETS=".")
IMAGE = "shapes/images/val/000000.png"
"""

# The project's training script, which ends with an evaluation, and a predictor.
SCRIPT = """
import cv2, runpy, torch
from detectron2.engine import DefaultPredictor, default_argument_parser
script = runpy.run_path({script!r}, run_name="project")
args = default_argument_parser().parse_args({arguments!r})
script["main"](args)
cfg = script["setup"](args).clone()
cfg.defrost()
cfg.MODEL.WEIGHTS = cfg.OUTPUT_DIR + "/model_final.pth"
predictor = DefaultPredictor(cfg)
assert any(m.__class__.__name__ == "RegNetBackbone" for m in predictor.model.modules())
saved, loaded = torch.load(cfg.MODEL.WEIGHTS)["model"], predictor.model.state_dict()
assert all(torch.equal(loaded[name], saved[name]) for name in loaded)
print("predicted", *predictor(cv2.imread(IMAGE)))
"""


# Shapes as people with a few points each. The real symmetry of bodies is a file of the authors'.
PEOPLE = """
import numpy, scipy.io, torch
from detectron2.data import DatasetCatalog, MetadataCatalog

def people():
    records = DatasetCatalog.get("shapes_train")
    for annotation in (each for record in records for each in record["annotations"]):
        annotation |= {"category_id": 0, "dp_masks": torch.ones(256, 256), "dp_I": [1.0, 2.0]}
        annotation |= {f"dp_{key}": [60.0, 90.0] for key in "xy"}
        annotation |= {f"dp_{key}": [0.2, 0.8] for key in "UV"}
    return records

maps = numpy.empty((1, 24), object)
maps[0] = [numpy.zeros((256, 256))] * 24
scipy.io.savemat("symmetry.mat", {"U_transforms": maps, "V_transforms": maps})
DatasetCatalog.register("people", people)
MetadataCatalog.get("people").set(categories={0: "p"}, densepose_transform_src="symmetry.mat")
"""

# Segmenters of geospatial projects, by Lightning.
SEGMENT = """
import lightning, numpy, regnet_backbones, torch
from regnet_backbones import shapes
from torch.utils.data import DataLoader
drawn = [shapes.draw(shapes.ShapesSpec(image_size={side}), "train", n) for n in range(4)]
data = [
    {{
        "image": torch.tensor(d.image).permute(2, 0, 1) / 255,
        "mask": torch.tensor(numpy.array([0, *d.categories])[d.instances]),
    }}
    for d in drawn
]
{task}
assert any(isinstance(m, regnet_backbones.RegNetFeatures) for m in task.modules())
options = dict(accelerator="cpu", logger=False, enable_checkpointing=False, max_steps=2)
trainer = lightning.Trainer(**options, num_sanity_val_steps=0)
trainer.fit(task, DataLoader(data, 2), DataLoader(data, 2))
(predicted,) = trainer.predict(task, DataLoader(data[:1], 1))
print("predicted", type(predicted))
"""
TORCHGEO = """
from torchgeo.trainers import SemanticSegmentationTask
task = SemanticSegmentationTask(model="unet", backbone="regnety_002", in_channels=3, num_classes=6)
"""
TERRATORCH = """
from terratorch.tasks import SemanticSegmentationTask
model = dict(backbone="regnety_002", model="Unet", bands=["RED", "GREEN", "BLUE"])
model |= dict(num_classes=6, pretrained=False)
task = SemanticSegmentationTask(model_args=model, model_factory="SMPModelFactory", ignore_index=255)
"""
SAHI = """
import cv2, numpy, torch
from regnet_backbones.cli.main import main
from sahi import AutoDetectionModel
from sahi.predict import get_sliced_prediction
small = "INPUT.MIN_SIZE_TRAIN (64,) INPUT.MIN_SIZE_TEST 64 SOLVER.MAX_ITER 2 OUTPUT_DIR output"
assert not main(["train-detector", "--config-file", {config!r}, *small.split()])
files = dict(config_path="output/config.yaml", model_path="output/model_final.pth")
options = dict(confidence_threshold=0.01, device="cpu")
model = AutoDetectionModel.from_pretrained(model_type="detectron2", **files, **options)
bgr = cv2.imread(IMAGE)
expected = model.model(bgr)["instances"].scores
model.model.input_format = "as given"  # SAHI gives RGB, of which the predictor would make BGR
model.perform_inference(bgr[:, :, ::-1])
assert len(expected) > 0
torch.testing.assert_close(model.original_predictions["instances"].scores, expected)
found = get_sliced_prediction(IMAGE, model, slice_height=40, slice_width=40)
print("predicted", len(found.object_prediction_list))
"""
LIGHTLY = """
import lightly_train, regnet_backbones, torch
options = dict(epochs=1, batch_size=2, num_workers=0, accelerator="cpu", devices=1)
options |= dict(method="simclr", transform_args=dict(image_size=(64, 64)))
lightly_train.pretrain(out="output", data="shapes/images", model="timm/regnety_002", **options)
network = regnet_backbones.RegNetFeatures("regnety_002").eval()
report = regnet_backbones.weights.load(network, "output/exported_models/exported_last.pt")
print("predicted", *(tuple(each.shape) for each in network(torch.rand(1, 3, 64, 64))), report)
"""
