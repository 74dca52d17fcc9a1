"""runs/drawing.py: pictures of other processes are ours, their errors too, and they end with us."""

import errno
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from demo_datasets import names_of_all_classes_are_thing_classes
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances
from drawn import draw
from PIL import Image
from small_segmenter import train_segmenter
from torchvision.utils import draw_segmentation_masks

from regnet_backbones import shapes
from regnet_backbones.detection.pictures import drawing_task, write_overlay
from regnet_backbones.errors import UserError
from regnet_backbones.runs import drawing
from regnet_backbones.runs.colors import palette
from regnet_backbones.runs.drawing import Drawing, process_count
from regnet_backbones.semseg import overlays
from regnet_backbones.semseg.datamodule import SegmentationData

TESTS = Path(__file__).parent


@pytest.fixture(params=["here", "in forks"])
def processes(request, monkeypatch):
    count = 0 if request.param == "here" else 2
    monkeypatch.setattr(drawing, "process_count", lambda pictures: count)
    return count


@pytest.fixture
def one_process(monkeypatch):
    monkeypatch.setattr(drawing, "process_count", lambda pictures: 1)


def test_few_pictures_are_drawn_here_and_many_by_as_many_processes_as_cores_allow(monkeypatch):
    for cores, expected in ((1, 0), (2, 1), (3, 1), (8, 4), (64, 4)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=cores: range(n), raising=False)
        assert process_count(1000) == expected
        assert process_count(drawing.FEW) == process_count(0) == 0
    monkeypatch.setattr(sys, "platform", "darwin")
    assert process_count(1000) == 0


def test_all_pictures_are_drawn_at_the_end(processes, tmp_path):
    """Of the arguments as they were."""
    pixels = np.zeros(2, int)
    with Drawing(draw, 20) as pictures:
        for number in range(20):
            pictures.add(Path("a.jpg"), tmp_path / str(number), "", pixels)
            pixels += 1
        pids = set(pictures._pool._processes or ())
    for number in range(20):
        drawn = (tmp_path / str(number)).read_text().split(maxsplit=1)
        assert drawn[1] == str([np.int64(number)] * 2)
        if number < 2 * processes:  # the first are not drawn here
            assert int(drawn[0]) in pids
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_pictures_that_wait_are_bounded(one_process, tmp_path):
    waiting = []
    with Drawing(draw, 20) as pictures:
        for number in range(20):
            pictures.add(Path("a.jpg"), tmp_path / str(number), "slow")
            waiting.append(len(pictures._waiting))
    assert max(waiting) == 2
    assert len(list(tmp_path.iterdir())) == 20


def draw_all(folder, images):
    """Draw pictures of images by what is to happen."""
    with Drawing(draw, 20) as pictures:
        for number, (image, what) in enumerate(images):
            pictures.add(Path(image), folder / str(number), what)


@pytest.mark.parametrize("then", [0, 10])
def test_errors_are_those_of_the_command_and_name_the_image(processes, then, tmp_path):
    others = [("right.jpg", "")] * then
    with pytest.raises(OSError, match="at all") as raised:
        draw_all(tmp_path, [("wrong.jpg", "no folder"), *others])
    assert raised.value.errno == errno.ENOENT  # the command prints it in a line
    assert "'wrong.jpg'" in "".join(raised.value.__notes__)
    with pytest.raises(ArithmeticError, match="something is wrong") as raised:
        draw_all(tmp_path, [("wrong.jpg", "raise"), *others])
    assert "'wrong.jpg'" in "".join(raised.value.__notes__)


def test_a_process_that_was_killed_is_an_error(one_process, tmp_path):
    with pytest.raises(UserError, match=r"'large.jpg'.*--no-pictures"):
        draw_all(tmp_path, [("large.jpg", "exit"), ("small.jpg", "")])


# No process is left

ENDED = """
    import sys
    from pathlib import Path
    from drawn import draw
    from regnet_backbones.runs import drawing

    drawing.process_count = lambda pictures: 2
    with drawing.Drawing(draw, 20) as pictures:
        for number in range(3):
            pictures.add(Path("a"), Path("a"), sys.argv[1])
        print("started", flush=True)
        sys.stdin.read()
"""

# Until a picture is with the processes.
PREDICT = """
    import sys
    from regnet_backbones.cli.main import main
    from regnet_backbones.runs import drawing

    drawing.process_count = lambda pictures: 2
    add = drawing.Drawing.add

    def add_and_wait(pictures, *task):
        add(pictures, *task)
        if pictures._waiting:
            print("started", flush=True)
            sys.stdin.read()

    drawing.Drawing.add = add_and_wait
    sys.exit(main(["predict", *sys.argv[1:]]))
"""


def end_command(code, arguments, number, folder):
    """Run a code until it has started to draw, and send it a signal.

    Return its exit status and what was printed to stderr, by its processes, too: when stderr ends
    they have ended.
    """
    path = os.pathsep.join([str(TESTS), *filter(None, sys.path)])
    command = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
    )
    with command:
        assert command.stdout.readline() == "started\n"
        command.send_signal(number)
        _, printed = command.communicate(timeout=60)
    return command.returncode, printed


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_processes_end_with_a_script_that_is_ended(number, tmp_path):
    status, printed = end_command(ENDED, ["slow"], number, tmp_path)
    assert status == -number
    assert printed.count("Traceback") == (number == signal.SIGINT)  # its own


def test_ctrl_c_does_not_wait_for_a_picture(tmp_path):
    status, _ = end_command(ENDED, ["hang"], signal.SIGINT, tmp_path)
    assert status == -signal.SIGINT


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    """Return a trained segmenter and the folder of its images."""
    folder = tmp_path_factory.mktemp("segmenter")
    spec = shapes.ShapesSpec(num_train=2, num_val=4, image_size=64)
    dataset = shapes.write(folder / "shapes", spec)
    data = SegmentationData(
        "ade20k", str(dataset.root / "semantic"), crop_size=64, batch_size=2, num_workers=0
    )
    train_segmenter(data).save_checkpoint(folder / "checkpoints" / "last.ckpt")
    return folder, dataset.images("val")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_the_command(number, segmenter, tmp_path):
    run, images = segmenter
    arguments = [run, images, "--output", tmp_path / "out", "--device", "cpu"]
    status, printed = end_command(PREDICT, arguments, number, tmp_path)
    assert status == (130 if number == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in printed


# Pictures


def instances(seed, **fields):
    """Return random instances of an image of 60 x 50 pixels."""
    torch.manual_seed(seed)
    corners = torch.rand(4, 2) * 20
    boxes = Boxes(torch.cat([corners, corners + 10 + torch.rand(4, 2) * 20], dim=1))
    known = {"scores": torch.rand(4), "pred_classes": torch.arange(4)}
    return Instances((60, 50), pred_boxes=boxes, **known, **fields)


def test_processes_draw_the_same_bytes(one_process, tmp_path):
    names_of_all_classes_are_thing_classes("shapes_panoptic_train")
    things, both = (MetadataCatalog.get(f"shapes{n}_train") for n in ("_keypoints", "_panoptic"))
    classes = np.tile(np.arange(60)[:, None] // 12, (1, 50))
    segments = torch.from_numpy(classes * 1000 + 1)
    with_masks = instances(1, pred_masks=torch.rand(4, 60, 50) > 0.4)
    cases = (
        ({"instances": instances(0)}, things),
        ({"instances": with_masks}, things),
        ({"instances": with_masks[:0]}, things),
        ({"instances": instances(2, pred_keypoints=torch.rand(4, 4, 3) * 40)}, things),
        ({"sem_seg": classes, "instances": with_masks}, both),
        ({"panoptic_seg": (segments, None)}, both),
    )
    pixels = np.random.default_rng(0).integers(0, 255, (60, 50, 3), np.uint8)
    with Drawing(write_overlay, 20) as pictures:
        for number, (seen, metadata) in enumerate(cases):
            task = pickle.dumps((pixels, *drawing_task(seen, metadata)))
            pictures.add(Path("a"), tmp_path / f"{number}.there.jpg", *pickle.loads(task))
            np.random.rand()  # colours are not those of who draws
            write_overlay(tmp_path / f"{number}.here.jpg", *pickle.loads(task))
    here = [(tmp_path / f"{number}.here.jpg").read_bytes() for number in range(len(cases))]
    there = [(tmp_path / f"{number}.there.jpg").read_bytes() for number in range(len(cases))]
    assert here == there
    assert len(set(here)) == len(cases)


def test_classes_are_painted_as_torchvision_does():
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (40, 50, 3), np.uint8)
    mask = generator.integers(0, 7, (40, 50))
    mask[0], mask[1] = 255, -1
    colors = palette(7)
    painted = overlays.paint(image, mask, colors)
    masks = torch.from_numpy(np.stack([mask == label for label in range(7)]))
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    expected = draw_segmentation_masks(pixels, masks, overlays.OPACITY, colors)
    assert (painted[2:] == expected.permute(1, 2, 0).numpy()[2:]).all()
    assert (painted[:2] == image[:2]).all()


def test_grey_images_have_overlays(tmp_path):
    grey = np.full((20, 30, 1), 90, np.uint8)
    args = np.zeros((20, 30), np.uint8), ["a"], [(200, 0, 0)]
    overlays.write_overlay(tmp_path / "grey.jpg", grey, *args)
    overlays.write_overlay(tmp_path / "rgb.jpg", grey.repeat(3, axis=2), *args)
    assert (tmp_path / "grey.jpg").read_bytes() == (tmp_path / "rgb.jpg").read_bytes()
    assert Image.open(tmp_path / "rgb.jpg").width > 30
