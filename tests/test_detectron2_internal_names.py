"""What upstream main imports from its authors' own repository, on whichever detectron2 there is."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from detectron2.data import detection_utils  # noqa: F401  (whose import the demo's fix waits for)
from detectron2.data.datasets import cityscapes
from detectron2.evaluation import cityscapes_evaluation

REPOSITORY = Path(__file__).resolve().parent.parent


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
    (record,) = cityscapes.load_cityscapes_instances(*city, from_json=True, to_polygons=True)
    assert (record["height"], record["width"]) == (20, 30)
    (annotation,) = record["annotations"]
    # The third class that has instances; half a pixel around the centres of the outline's.
    assert annotation["category_id"] == 2
    assert annotation["bbox"] == pytest.approx((5, 5, 16, 11))


@pytest.mark.parametrize("kind", ["CityscapesInstanceEvaluator", "CityscapesSemSegEvaluator"])
def test_cityscapes_evaluators_find_the_labels(kind):
    evaluator = getattr(cityscapes_evaluation, kind)
    assert evaluator.process(evaluator.__new__(evaluator), [], []) is None


def test_without_the_scripts_the_error_names_them(monkeypatch):
    monkeypatch.setitem(sys.modules, "cityscapesscripts", None)  # an import of it fails
    for name in [n for n in sys.modules if n.startswith("cityscapesscripts.")]:
        monkeypatch.delitem(sys.modules, name)
    evaluator = cityscapes_evaluation.CityscapesInstanceEvaluator
    with pytest.raises(ModuleNotFoundError, match="cityscapesscripts'"):
        evaluator.process(evaluator.__new__(evaluator), [], [])


def test_nothing_of_it_stays():
    evaluator = cityscapes_evaluation.CityscapesInstanceEvaluator
    evaluator.process(evaluator.__new__(evaluator), [], [])
    assert not {"deeplearning", "vision"} & set(sys.modules)


def test_a_demo_finds_the_predictor_beside_it(tmp_path):
    (tmp_path / "predictor.py").write_text("answer = 42\n")
    script = """
        from detectron2.data.detection_utils import read_image
        from vision.fair.detectron2.demo.predictor import answer
        print(answer)
    """
    (tmp_path / "demo.py").write_text(textwrap.dedent(script))
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", tmp_path / "demo.py"],
        env={**os.environ, "PYTHONPATH": path, "DETECTRON2_ENV_MODULE": "regnet_backbones"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "42\n", done.stderr
