"""Inference on images of any size: windows, scales and mirroring against sums by hand."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from regnet_backbones.errors import UserError
from regnet_backbones.semseg.inference import Inference


def picture(height=20, width=30, images=1):
    return torch.randn(images, 3, height, width)


def network():
    """Return a network that is different at other places and mirrored."""
    return nn.Conv2d(3, 4, 3, padding=1).eval()


def identity(image):
    """Stand in for a network: its logits are the image."""
    return image


def columns(image):
    """Return logits that count the columns of what the network is given, and zeros."""
    count = torch.arange(image.shape[-1]).expand(*image.shape[:1], 1, *image.shape[-2:])
    return torch.cat([count.float(), torch.zeros_like(count)], dim=1)


class Sizes:
    """Answers with the image and keeps the sizes it was called with."""

    def __init__(self):
        self.seen = []

    def __call__(self, image):
        self.seen.append(tuple(image.shape[-2:]))
        return image


def test_one_pass_is_the_softmax_of_the_network():
    image, net = picture(21, 33, images=2), network()
    expected = net(image).softmax(1)
    assert torch.equal(Inference()(net, image), expected)
    assert torch.equal(Inference().classes(net, image), expected.argmax(1))
    assert not Inference()(net, image).requires_grad


# Windows


@pytest.mark.parametrize(
    ("width", "logits"),
    [
        # Windows of 3 from columns 0 and 2.
        (5, [0, 1, (2 + 0) / 2, 1, 2]),
        # From 0, 2 and 3: the last one ends with the image.
        (6, [0, 1, (2 + 0) / 2, (1 + 0) / 2, (2 + 1) / 2, 2]),
        (3, [0, 1, 2]),
        (2, [0, 1]),
    ],
)
def test_logits_are_averaged_where_windows_overlap(width, logits):
    found = Inference(window=3, window_stride=2)(columns, picture(7, width))
    expected = 1 / (1 + np.exp(-np.array(logits)))
    np.testing.assert_allclose(found[0, 0].numpy(), np.tile(expected, (7, 1)), rtol=1e-6)


@pytest.mark.parametrize("size", [(5, 5), (8, 8), (9, 30), (31, 8), (16, 23), (24, 24), (25, 40)])
@pytest.mark.parametrize("stride", [None, 1, 3, 8])
def test_windows_cover_every_pixel_and_stay_inside(size, stride):
    seen = torch.zeros(size)
    numbers = torch.arange(size[0] * size[1]).view(1, 1, *size).float()

    def look(image):
        assert image.shape[-2:] == (min(8, size[0]), min(8, size[1]))
        seen.view(-1)[image.long().view(-1)] += 1
        return image

    Inference(window=8, window_stride=stride)(look, numbers)
    assert (seen > 0).all()


def test_windows_of_a_pixelwise_network_give_what_the_whole_image_gives():
    net, image = nn.Conv2d(3, 4, 1).eval(), picture(50, 37, images=2)
    whole = Inference()(net, image)
    for stride in (None, 5, 16):
        found = Inference(window=16, window_stride=stride)(net, image)
        torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-6)


def test_windows_slide_over_the_resized_image():
    sizes = Sizes()
    found = Inference(short_side=10, window=8, window_stride=8)(sizes, picture(20, 30))
    assert sizes.seen == [(8, 8)] * 4  # 10 x 15: from rows 0 and 2, columns 0 and 7
    assert found.shape == (1, 3, 20, 30)


# Sizes


def test_sizes_that_the_network_is_given():
    sizes = Sizes()
    found = Inference(short_side=20, scales=(0.5, 1.0, 1.5))(sizes, picture(30, 46))
    # A short side of 20 makes 30 to 20 and 46 to 30.67.
    assert sizes.seen == [(10, 15), (20, 31), (30, 46)]
    assert found.shape == (1, 3, 30, 46)
    sizes.seen.clear()
    Inference(scales=(0.01, 1.25), flip=True)(sizes, picture(30, 46))
    assert sizes.seen == [(1, 1)] * 2 + [(38, 58)] * 2  # 37.5 and 57.5 go to the even number


def test_scales_are_averaged_as_pillow_resizes():
    image = picture(24, 36)

    def resized(channel, width, height):
        return np.asarray(Image.fromarray(channel).resize((width, height), Image.BILINEAR))

    expected = np.zeros((3, 24, 36))
    for width, height in ((18, 12), (36, 24), (54, 36)):
        logits = torch.stack(
            [torch.tensor(resized(channel, width, height)) for channel in image[0].numpy()]
        )
        # Pillow smooths what it makes smaller. Logits are not smoothed on the way back.
        if width > 36:
            logits = nn.functional.grid_sample(logits[None], centres(24, 36), align_corners=False)
            expected += logits[0].softmax(0).numpy()
        else:
            back = [torch.tensor(resized(channel.numpy(), 36, 24)) for channel in logits]
            expected += torch.stack(back).softmax(0).numpy()
    found = Inference(scales=(0.5, 1.0, 1.5))(identity, image)[0].numpy()
    np.testing.assert_allclose(found, expected / 3, rtol=1e-4, atol=1e-5)


def centres(height, width):
    """Return the centres of pixels as grid_sample wants them: -1 to 1, borders at the ends."""
    y, x = ((torch.arange(side) * 2 + 1) / side - 1 for side in (height, width))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None]


# Mirroring


def test_mirrored_images_are_averaged_by_hand():
    image, net = picture(), network()
    with torch.no_grad():
        mirrored = net(image.flip(-1)).softmax(1).flip(-1)
        expected = (net(image).softmax(1) + mirrored) / 2
    found = Inference(flip=True)
    torch.testing.assert_close(found(net, image), expected)
    assert torch.equal(found.classes(net, image), expected.argmax(1))
    assert not torch.allclose(Inference()(net, image), expected, atol=1e-3)


@pytest.mark.parametrize(
    "options", [{}, {"window": 12, "window_stride": 9}, {"scales": (0.5, 1.25), "short_side": 16}]
)
def test_with_mirroring_a_mirrored_image_is_predicted_mirrored(options):
    image, net = picture(20, 30), network()
    inference = Inference(flip=True, **options)
    found = inference(net, image.flip(-1)).flip(-1)
    torch.testing.assert_close(found, inference(net, image), rtol=1e-4, atol=1e-5)


def test_probabilities_sum_to_one_and_are_float32_whatever_the_precision():
    net = network().bfloat16()
    inference = Inference(short_side=11, window=8, flip=True, scales=(0.75, 1.5))
    found = inference(net, picture().bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.sum(1), torch.ones(1, 20, 30))


# Settings


def test_settings_that_are_invalid_are_named():
    for options, name in (
        ({"window": 0}, "window"),
        ({"window_stride": 8}, "window_stride"),
        ({"window": 8, "window_stride": 9}, "window_stride"),
        ({"scales": ()}, "scales"),
        ({"scales": (1.0, 0.0)}, "scales"),
        ({"scales": (float("nan"),)}, "scales"),
        ({"scales": (float("inf"),)}, "scales"),
    ):
        with pytest.raises(UserError, match=name):
            Inference(**options)
