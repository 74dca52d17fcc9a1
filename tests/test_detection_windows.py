"""Detectors in windows: where these are, and how what is seen in them is merged, next to SAHI."""

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances

from regnet_backbones.detection.config import default_config
from regnet_backbones.detection.windows import SlidingDetector, merged
from regnet_backbones.errors import UserError
from regnet_backbones.runs.windows import stride_of, window_starts


def random_boxes(seed, count=60):
    """Return boxes of few places and sizes, scores and classes, in float32 without ties."""
    noise = np.random.default_rng(seed)
    corner, sides = noise.uniform(0, 60, (count, 2)), noise.uniform(5, 40, (count, 2))
    boxes = torch.tensor(np.concatenate([corner, corner + sides], axis=1), dtype=torch.float32)
    scores = torch.tensor(noise.permutation(count) / count, dtype=torch.float32)
    return boxes, scores, torch.tensor(noise.integers(0, 2, count))


def instances_of(boxes, scores, classes, cut):
    fields = {"scores": scores, "pred_classes": classes, "is_cut": cut}
    return Instances((100, 100), pred_boxes=Boxes(boxes), **fields)


@pytest.mark.parametrize("seed", range(5))
def test_whole_instances_are_merged_as_sahi_merges_unsure_ones(seed):
    """By non-maximum suppression, its choice below a threshold of 0.1."""
    pytest.importorskip("sahi")
    from sahi.postprocess.combine import batched_nms

    boxes, scores, classes = random_boxes(seed)
    table = torch.cat([boxes, scores[:, None], classes[:, None]], dim=1)
    theirs = batched_nms(table.numpy(), match_metric="IOU", match_threshold=0.5)
    every = instances_of(boxes, scores, classes, torch.zeros(len(boxes), dtype=torch.bool))
    for limit in (None, 3):
        found = merged([every, every[:0]], limit)
        counted = [
            index
            for place, index in enumerate(theirs)
            if sum(classes[other] == classes[index] for other in theirs[:place]) < (limit or 999)
        ]
        assert len(found) == len(counted) < len(boxes)
        assert torch.equal(found.pred_boxes.tensor, boxes[counted])
        assert torch.equal(found.scores, scores[counted])


def test_windows_are_where_sahi_has_them():
    pytest.importorskip("sahi")
    from sahi.slicing import get_slice_bboxes

    for height, width, window, overlap in ((100, 230, 64, 16), (64, 64, 64, 32), (65, 300, 50, 10)):
        options = {
            "overlap_height_ratio": overlap / window,
            "overlap_width_ratio": overlap / window,
        }
        theirs = get_slice_bboxes(height, width, window, window, **options)
        tops, lefts = (window_starts(side, window, window - overlap) for side in (height, width))
        assert sorted({box[1] for box in theirs}) == tops
        assert sorted({box[0] for box in theirs}) == lefts


def test_what_a_window_cuts_gives_way_to_the_whole():
    """However sure it is; but not to another class, and not where nothing else is seen of it."""
    boxes = torch.tensor([[0.0, 0, 20, 20], [0, 0, 8, 20], [0, 0, 8, 20], [50, 0, 60, 9]])
    scores, classes = torch.tensor([0.5, 0.9, 0.8, 0.7]), torch.tensor([0, 0, 1, 0])
    every = instances_of(boxes, scores, classes, torch.tensor([False, True, True, True]))
    assert merged([every, every[:0]]).scores.tolist() == [*scores[[2, 3, 0]].tolist()]


VALUES = (250, 240, 230)


class Finder:
    """A model that finds things of a colour of `VALUES` that are 6 pixels wide in what it sees."""

    def __call__(self, inputs):
        return [{"instances": self.find(**each)} for each in inputs]

    def find(self, image, height, width):
        instances, found = Instances((height, width)), []
        for value in VALUES:
            mask = image.amax(0) == value
            if mask.any(0).sum() >= 6:
                mask = torch.nn.functional.interpolate(mask[None, None].float(), (height, width))
                found.append((value / 255 - 0.1 * (image.shape[-1] < width), mask[0, 0] > 0.5))
        instances.scores = torch.tensor([score for score, _ in found])
        instances.pred_classes = torch.zeros(len(found), dtype=torch.long)
        instances.pred_masks = torch.zeros(len(found), height, width, dtype=torch.bool)
        for mask, (_, seen) in zip(instances.pred_masks, found, strict=True):
            mask[:] = seen
        instances.pred_boxes = BitMasks(instances.pred_masks).get_bounding_boxes()
        corners = instances.pred_boxes.tensor[:, :2]
        instances.pred_keypoints = torch.cat([corners, corners[:, :1] * 0 + 0.5], dim=1)[:, None]
        return instances


def test_small_things_are_found_and_those_over_an_edge_are_whole():
    image = torch.zeros(3, 96, 160, dtype=torch.uint8)
    boxes = [(4, 4, 14, 16), (40, 30, 64, 44), (140, 80, 152, 92)]
    for value, (left, top, right, bottom) in zip(VALUES, boxes, strict=True):
        image[:, top:bottom, left:right] = value
    cfg, inputs = default_config(), [{"image": image, "height": 96, "width": 160}]
    cfg.INPUT.MIN_SIZE_TEST = 48  # of windows all pixels, of the image half
    for batch_size in (1, 4):
        (output,) = SlidingDetector(cfg, Finder(), 48, 36, batch_size=batch_size)(inputs)
        found = output["instances"]
        assert found.image_size == (96, 160)
        assert found.pred_boxes.tensor.tolist() == [list(box) for box in boxes]
        assert found.pred_keypoints[:, 0].tolist() == [[*box[:2], 0.5] for box in boxes]
        for mask, value in zip(found.pred_masks, VALUES, strict=True):
            assert torch.equal(mask, image[0] == value)
    (whole,) = SlidingDetector(cfg, Finder(), 160, 160)(inputs)
    assert len(whole["instances"]) == 1


def test_other_outputs_are_refused():
    cfg, inputs = default_config(), [{"image": torch.zeros(3, 8, 8, dtype=torch.uint8)}]
    with pytest.raises(UserError, match="sem_seg"):
        SlidingDetector(cfg, lambda given: [{"sem_seg": None} for _ in given], 8, 8)(inputs)
    cfg.MODEL.LOAD_PROPOSALS = True
    with pytest.raises(UserError, match="LOAD_PROPOSALS"):
        SlidingDetector(cfg, Finder(), 8, 8)


@pytest.mark.parametrize(("window", "stride"), [(0, None), (8, 0), (8, 9)])
def test_windows_with_gaps_are_refused(window, stride):
    with pytest.raises(UserError, match="window_stride"):
        stride_of(window, stride)
