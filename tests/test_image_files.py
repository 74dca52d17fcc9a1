"""Turned images, their sizes, and images that are refused, against what Pillow decodes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps, PngImagePlugin

from regnet_backbones.runs.image_files import open_upright, sample, upright_size

WIDTH, HEIGHT = 50, 30
PIXELS = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def exif(orientation):
    data = Image.Exif()
    data[0x0112] = orientation
    return data


def xmp(orientation):
    return f'<rdf:Description tiff:Orientation="{orientation}"/>'


def save_exif(path, orientation, **options):
    Image.fromarray(PIXELS).save(path, exif=exif(orientation), **options)


def save_xmp(path, orientation):
    if path.suffix == ".png":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp(orientation))
        Image.fromarray(PIXELS).save(path, pnginfo=info)
    elif path.suffix == ".tif":
        data = Image.Exif()
        data[700] = xmp(orientation).encode()
        Image.fromarray(PIXELS).save(path, exif=data)
    else:
        Image.fromarray(PIXELS).save(path, xmp=xmp(orientation).encode())


def size_as_read(path):
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).size


def sizes(path):
    """Return the size before the pixels are decoded, and after."""
    with Image.open(path) as image:
        before = upright_size(image)
        image.load()
        after = upright_size(image)
    with Image.open(path) as image:
        image.load()
        assert upright_size(image) == after
    return before, after


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("save", [save_exif, save_xmp])
def test_the_size_is_that_of_the_turned_image(save, suffix, orientation, tmp_path):
    file = tmp_path / f"a.{suffix}"
    save(file, orientation)
    size = (HEIGHT, WIDTH) if orientation in (6, 8) else (WIDTH, HEIGHT)
    assert size_as_read(file) == size
    assert sizes(file) == (size, size)


@pytest.mark.parametrize("compression", ["jpeg", "tiff_lzw"])
def test_compressed_tiffs(compression, tmp_path):
    file = tmp_path / "a.tif"
    save_exif(file, 6, compression=compression)
    assert size_as_read(file) == (HEIGHT, WIDTH)
    assert sizes(file) == ((HEIGHT, WIDTH), (HEIGHT, WIDTH))


def test_a_tiff_whose_size_older_versions_of_pillow_do_not_turn(tmp_path):
    file = tmp_path / "a.tif"
    save_exif(file, 6)
    with Image.open(file) as image:
        image._size = (WIDTH, HEIGHT)  # as it is there until the pixels are decoded
        assert upright_size(image) == (HEIGHT, WIDTH)


def save_plain(path, orientation):
    Image.fromarray(PIXELS).save(path)


@pytest.mark.parametrize("save", [save_exif, save_xmp, save_plain])
def test_a_png_is_not_decoded_for_its_size(save, tmp_path, monkeypatch):
    file = tmp_path / "a.png"
    save(file, 6)
    with Image.open(file) as image:
        with monkeypatch.context() as patch:
            patch.delattr(ImageFile.ImageFile, "load")
            size = upright_size(image)
        np.testing.assert_array_equal(image, PIXELS)  # it goes on where it was
    assert size == size_as_read(file)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_an_image_is_read_turned(suffix, tmp_path):
    file = tmp_path / f"a.{suffix}"
    save_exif(file, 6)
    with Image.open(file) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(open_upright(file), expected)


@pytest.mark.parametrize(
    ("pixels", "suffix"),
    [
        (np.full((4, 4), 4096, np.uint16), "png"),
        (np.full((4, 4), 4096, np.uint16), "tif"),
        (np.full((4, 4), 70000, np.int32), "tif"),
        (np.full((4, 4), 0.5, np.float32), "tif"),
    ],
)
def test_an_image_of_more_bits_is_refused(pixels, suffix, tmp_path):
    file = tmp_path / f"deep.{suffix}"
    Image.fromarray(pixels).save(file)
    with pytest.raises(ValueError, match=r"deep\..* has more than 8 bits per channel"):
        open_upright(file)


def test_an_image_that_breaks_off_is_named(tmp_path):
    file = tmp_path / "broken.png"
    save_plain(file, 1)
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"broken.png' cannot be read"):
        open_upright(file)


@pytest.mark.parametrize(
    ("count", "taken"), [(1, [0]), (3, [0, 3, 6]), (10, range(10)), (11, range(10))]
)
def test_a_sample_is_spread_over_all_images(count, taken):
    paths = [Path(f"{number}.png") for number in range(10)]
    assert sample(paths, count) == [paths[index] for index in taken]
