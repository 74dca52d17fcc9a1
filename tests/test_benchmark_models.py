"""The benchmark's detectors and segmenters, and a peer that is compiled."""

import pytest
import torch
from torch import nn

from benchmarks import whole_models
from benchmarks.cases import Case
from benchmarks.entries import Entry
from benchmarks.runner import measure
from benchmarks.settings import Setting
from benchmarks.steps import make_step


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "build", [whole_models.our_detector, whole_models.detector_of_detectron2], ids=["ours", "peer"]
)
def test_detectors_find_instances_and_train(build, training):
    case = Case("detector", training, "regnetx_002", (64, 64), 1)
    model = build(case).train(training)
    step = make_step(model, case)
    if not training:
        (found,) = step.outputs()
        assert len(found["instances"]) > 0
        assert found["instances"].pred_masks.shape[1:] == (64, 64)
        return
    step.forward().backward()
    trained = {n for n, p in model.named_parameters() if p.grad is not None}
    assert any(n.startswith("backbone.bottom_up.s4") for n in trained)
    # The recipe's FREEZE_AT 2.
    assert not any(
        n.startswith(("backbone.bottom_up.s1", "backbone.bottom_up.stem")) for n in trained
    )


def test_the_peer_detector_stands_on_detectron2s_own_regnet():
    case = Case("detector", False, "regnetx_002", (64, 64), 1)
    peer = whole_models.detector_of_detectron2(case)
    assert type(peer.backbone.bottom_up).__module__ == "detectron2.modeling.backbone.regnet"


@pytest.mark.parametrize("training", [False, True])
def test_segmenters_run_on_both_encoders(training):
    case = Case("segmenter", training, "regnetx_002", (32, 64), 1)
    for build in (whole_models.our_segmenter, whole_models.segmenter_of_smp):
        step = make_step(build(case).train(training), case)
        step()
        assert step.outputs().shape == (1, 150, 32, 64)


def test_a_compiled_peer_gives_what_it_gave(traced_graphs):
    case = Case("features", False, "regnetx_002", (32, 32), 1)

    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())

        def forward(self, x):
            return [self.stem(x)]

    model = Tiny().eval()
    with torch.inference_mode():
        (expected,) = model(case.images())
    tiny = Entry("tiny", Setting(channels_last=True, compiled=True), lambda _: model)
    result = measure(case, [tiny], reference="tiny", runs=1)
    assert {row.name: (row.status, row.note) for row in result.rows} == {
        "tiny, channels_last, compiled": ("measured", "")
    }
    assert len(traced_graphs) == 1
    with torch.inference_mode():
        (found,) = model(case.images())
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last)
