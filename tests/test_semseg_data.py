"""Segmentation data from files in each layout to batches, and what is said of bad files."""

import logging
import struct
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import lightning
import numpy as np
import pytest
import torch
from killed_runs import forking_context
from PIL import Image
from small_segmenter import train_segmenter
from torchvision import tv_tensors

from regnet_backbones import shapes
from regnet_backbones.errors import UserError
from regnet_backbones.semseg import dataset as dataset_module
from regnet_backbones.semseg.datamodule import SegmentationData
from regnet_backbones.semseg.dataset import (
    SegmentationDataset,
    check_pairs,
    read_image,
    resize,
    train_transform,
    val_transform,
)
from regnet_backbones.semseg.labels import IGNORE, folder_labels
from regnet_backbones.semseg.layouts import (
    Pairs,
    ade20k_class_names,
    ade20k_pairs,
    cityscapes_pairs,
    folder_pairs,
)
from regnet_backbones.semseg.run import build

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
THREE = ("sky", "tree", "road")
KINDS = ("images", "masks")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    spec = shapes.ShapesSpec(num_train=6, num_val=3, image_size=64, seed=0)
    return shapes.write(tmp_path_factory.mktemp("data") / "shapes", spec)


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array)).save(path, **options)
    return path


def colours(height=40, width=48, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def labels(height=40, width=48, top=3, seed=0):
    return np.random.default_rng(seed).integers(0, top, (height, width), np.uint8)


def make_folders(root, count=4, **size):
    """Make images and masks of three classes in two folders."""
    for k in range(count):
        save(root / "images" / f"{k}.png", colours(seed=k, **size))
        save(root / "masks" / f"{k}.png", labels(seed=k, **size))
    return root


def read_mask(path, labels):
    """Return the classes of a mask, as an item of a dataset."""
    image = path.with_name("image_of_a_mask.png")
    Image.new("RGB", Image.open(path).size).save(image)
    item = SegmentationDataset(Pairs((image,), (path,), labels), lambda *pair: pair)[0]
    image.unlink()
    return item["mask"]


def pairs_of(root, names=THREE):
    return folder_pairs(root / "images", root / "masks", folder_labels(None, names))


def own_data(root, **options):
    return SegmentationData(
        "folder",
        str(root),
        **{
            **dict.fromkeys(("train_images", "val_images"), "images"),
            **dict.fromkeys(("train_masks", "val_masks"), "masks"),
            **{"num_classes": 3, "crop_size": 32, "batch_size": 2, "num_workers": 0},
            **options,
        },
    )


def png_of_depth(depth, value):
    """Write a grey PNG of one pixel in 2 or 4 bits, which Pillow cannot."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 1, 1, depth, 0, 0, 0, 0)
    pixels = zlib.compress(bytes([0, value << (8 - depth)]))
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


# Layouts


def test_ade20k_label_0_is_ignored_and_label_k_is_class_k_minus_1(tmp_path):
    row = np.array([[0, 1, 2, 150]], np.uint8)
    for split in ("training", "validation"):
        save(tmp_path / "images" / split / "ADE_1.jpg", colours(1, 4))
        save(tmp_path / "annotations" / split / "ADE_1.png", row)
    header = "Idx\tRatio\tTrain\tVal\tName\n"
    rows = [f"{k}{' ' * (k == 22)}\t0.1\t5\t2\tname{k}, other name " for k in range(1, 151)]
    (tmp_path / "objectInfo150.txt").write_text(header + "\n".join(rows) + "\n")
    pairs = ade20k_pairs(tmp_path, "train")
    assert pairs.images == (tmp_path / "images/training/ADE_1.jpg",)
    assert pairs.masks == (tmp_path / "annotations/training/ADE_1.png",)
    assert len(pairs.labels.class_names) == 150
    assert pairs.labels.class_names[0] == "name1"
    assert pairs.labels.class_names[149] == "name150"
    assert read_mask(pairs.masks[0], pairs.labels).tolist() == [[255, 0, 1, 149]]
    assert "validation" in str(ade20k_pairs(tmp_path, "val").images[0])


def test_ade20k_class_files(tmp_path, caplog):
    """Synonyms stay where the first tell too little; no file is a warning, another an error."""
    assert len(ade20k_class_names(tmp_path)) == 150
    assert "objectInfo150.txt" in caplog.text
    file = tmp_path / "objectInfo150.txt"
    file.write_text("Idx\tName\n1\tpot, flower\n2\tpot, kettle\n")
    assert ade20k_class_names(tmp_path) == ("pot, flower", "pot, kettle")
    file.write_text("wall\nsky\n")
    with pytest.raises(UserError, match="got 0"):
        ade20k_class_names(tmp_path)


def test_the_demo_dataset_is_in_ade20ks_layout(demo):
    root = demo.root / "semantic"
    train, val = (ade20k_pairs(root, split) for split in ("train", "val"))
    assert (len(train), len(val)) == (6, 3)
    assert train.labels.class_names == (
        "circle",
        "square",
        "triangle",
        "star",
        "cross",
        "background",
    )
    assert check_pairs(train)[0] == train
    written = np.asarray(Image.open(demo.semantic_masks("train") / "000000.png"))
    assert (read_mask(train.masks[0], train.labels) == written - 1).all()


CITYSCAPES = {
    **{7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12},
    **{26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18},
    **dict.fromkeys((0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30, 255), 255),
}


def make_cityscapes(root, kinds=("labelIds",)):
    ids = np.array([[*range(34), 255]], np.uint8)
    train_ids = np.array([[*range(19), *[255] * 16]], np.uint8)
    for split in ("train", "val"):
        name = f"{split}town_000000_000019"
        save(
            root / "leftImg8bit" / split / f"{split}town" / f"{name}_leftImg8bit.png",
            colours(1, 35),
        )
        for kind in kinds:
            array = {"labelIds": ids, "labelTrainIds": train_ids}[kind]
            save(root / "gtFine" / split / f"{split}town" / f"{name}_gtFine_{kind}.png", array)
    return root


def test_cityscapes_has_the_19_classes_of_the_benchmark(tmp_path):
    pairs = cityscapes_pairs(make_cityscapes(tmp_path, ("labelIds", "labelTrainIds")), "train")
    assert pairs.masks[0].name == "traintown_000000_000019_gtFine_labelIds.png"
    assert (pairs.labels.class_names[0], pairs.labels.class_names[2]) == ("road", "building")
    assert (pairs.labels.class_names[18], len(pairs.labels.class_names)) == ("bicycle", 19)
    classes = read_mask(pairs.masks[0], pairs.labels)[0].tolist()
    assert classes == [CITYSCAPES[label] for label in [*range(34), 255]]


def test_cityscapes_takes_train_ids_where_only_these_exist(tmp_path):
    pairs = cityscapes_pairs(make_cityscapes(tmp_path, ("labelTrainIds",)), "val")
    classes = read_mask(pairs.masks[0], pairs.labels)[0].tolist()
    assert classes == [*range(19), *[255] * 16]


def test_cityscapes_without_masks_or_images_is_refused(tmp_path):
    make_cityscapes(tmp_path, ())
    (tmp_path / "gtFine" / "train").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"gtFine/train' must have masks .*_gtFine_labelIds"):
        cityscapes_pairs(tmp_path, "train")
    make_cityscapes(tmp_path)
    next(tmp_path.glob("leftImg8bit/train/*/*")).unlink()
    with pytest.raises(ValueError, match=r"leftImg8bit/train' must have images"):
        cityscapes_pairs(tmp_path, "train")


def test_folders_are_paired_by_stem_whatever_the_suffix(tmp_path):
    for name in ("a.jpg", "b.JPEG", "c.png", "d.bmp", "e.tif", "f.webp", "g.x.png"):
        save(tmp_path / "images" / name, colours())
        save(tmp_path / "masks" / f"{Path(name).stem}.png", labels())
    (tmp_path / "images" / "notes.txt").write_text("")
    (tmp_path / "images" / "._a.jpg").write_text("")
    pairs = check_pairs(pairs_of(tmp_path))[0]
    assert [p.name for p in pairs.images] == [
        *("a.jpg", "b.JPEG", "c.png", "d.bmp", "e.tif", "f.webp", "g.x.png")
    ]
    assert [p.name for p in pairs.masks] == [f"{x}.png" for x in ("a", "b", "c", "d", "e", "f")] + [
        "g.x.png"
    ]
    assert read_mask(save(tmp_path / "m.png", np.uint8([[0, 2, 255]])), pairs.labels).tolist() == [
        [0, 2, 255]
    ]


def test_masks_without_an_image_are_named(tmp_path, caplog):
    make_folders(tmp_path, 2)
    save(tmp_path / "masks" / "other.png", labels())
    assert len(pairs_of(tmp_path)) == 2
    assert "1 masks of" in caplog.text
    assert "other.png" in caplog.text


def test_images_that_are_all_taken_for_masks_are_named(tmp_path):
    make_folders(tmp_path)
    with pytest.raises(UserError, match="--data.mask_suffix"):
        folder_pairs(tmp_path / "masks", tmp_path / "masks", folder_labels(3))


def test_linked_folders_are_read(tmp_path):
    make_folders(tmp_path / "elsewhere", 2)
    for kind in KINDS:
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "more").symlink_to(tmp_path / "elsewhere" / kind)
    assert len(pairs_of(tmp_path)) == 2


@pytest.mark.parametrize("empty", ["images", "masks"])
def test_empty_and_missing_folders_are_named(tmp_path, empty):
    make_folders(tmp_path)
    for file in (tmp_path / empty).iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=rf"folder '.*{empty}' must have {empty} \("):
        pairs_of(tmp_path)
    (tmp_path / empty).rmdir()
    with pytest.raises(FileNotFoundError, match=rf"folder '.*{empty}'; correct the path"):
        pairs_of(tmp_path)


def test_class_names_come_from_a_text_file(tmp_path):
    path = tmp_path / "classes.txt"
    options = {"num_classes": None, "class_names_file": "classes.txt"}
    path.write_text("sky\n tree \n\nroad\n", encoding="utf-8-sig")
    assert own_data(tmp_path, **options).class_names == THREE
    path.write_text("sky\ntree\nsky\n")
    with pytest.raises(ValueError, match="given twice: sky"):
        own_data(tmp_path, **options)
    path.write_bytes("Straße".encode("latin-1"))
    with pytest.raises(ValueError, match="classes.txt' is text in an encoding other than UTF-8"):
        own_data(tmp_path, **options)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="classes.txt"):
        own_data(tmp_path, **options)


# Masks


@pytest.mark.parametrize("depth", [2, 4])
def test_grey_masks_of_few_bits_are_not_stretched(tmp_path, depth):
    file = tmp_path / "m.png"
    file.write_bytes(png_of_depth(depth, 3))
    assert np.asarray(Image.open(file)).tolist() != [[3]]
    assert read_mask(file, folder_labels(4)).tolist() == [[3]]


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_images_are_turned_as_their_exif_data_say(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    file = tmp_path / "images" / f"a.{suffix}"
    save(file, colours(40, 48), exif=exif)
    assert read_image(file).shape == (48, 40, 3)
    save(tmp_path / "masks" / "a.png", labels(48, 40))
    pairs = check_pairs(pairs_of(tmp_path))[0]
    item = SegmentationDataset(pairs, val_transform())[0]
    assert item["image"].shape[1:] == item["mask"].shape == (48, 40)


def test_images_that_exif_data_turn_in_their_size_are_named(tmp_path, caplog):
    exif = Image.Exif()
    for name, turned in (("a", 3), ("b", 6), ("c", 1)):
        exif[0x0112] = turned
        save(tmp_path / "images" / f"{name}.jpg", colours(40, 48), exif=exif)
        sides = (48, 40) if turned == 6 else (40, 48)  # which shows that the mask is turned, too
        save(tmp_path / "masks" / f"{name}.png", labels(*sides))
    check_pairs(pairs_of(tmp_path))
    assert "1 images are turned" in caplog.text
    assert "a.jpg" in caplog.text


# Bad files


def truncate(path, part=0.5):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])


BAD = [
    (
        lambda r: (r / "masks/1.png").unlink(),
        r"image '.*images/1.png' has no mask '.*masks/1.png'; add that file",
    ),
    (
        lambda r: save(r / "masks/1.png", labels(20, 24)),
        r"mask '.*masks/1.png' is 24x20 pixels, its image '.*1.png' 48x40 .*EXIF",
    ),
    (
        lambda r: save(r / "masks/1.png", labels(top=4)),
        r"mask '.*masks/1.png' has undefined labels: 3: .*; allowed are 0, 1, 2, 255; correct",
    ),
    (
        lambda r: save(r / "masks/1.png", labels().astype(np.uint16) * 500),
        r"mask '.*masks/1.png' has undefined labels(?=.*1000: )(?=.*500: ).*; allowed",
    ),
    (
        lambda r: save(r / "masks/1.png", colours()),
        r"mask '.*masks/1.png' has colours: .*: 1 pixels.*--data.colors.* save it as a grey",
    ),
    (
        lambda r: (r / "images/1.png").write_text("no image"),
        r"image '.*images/1.png' cannot be read .*; replace",
    ),
    (
        lambda r: truncate(r / "masks/1.png"),
        r"mask '.*masks/1.png' cannot be read .*; replace",
    ),
]
BAD_IDS = ["no mask", "size", "label", "16-bit label", "rgb", "no image", "truncated"]


@pytest.mark.parametrize(("spoil", "message"), BAD, ids=BAD_IDS)
def test_a_bad_pair_stops_the_check_and_the_reading(tmp_path, spoil, message, caplog):
    pairs = pairs_of(make_folders(tmp_path))
    spoil(tmp_path)
    with pytest.raises(UserError, match=message):
        check_pairs(pairs)
    data = SegmentationDataset(pairs, val_transform())
    assert data[0]["name"] == "0"
    with pytest.raises(UserError, match=message):
        data[1]
    good, _ = check_pairs(pairs, skip_bad=True)
    assert [p.name for p in good.images] == ["0.png", "2.png", "3.png"]
    assert [p.name for p in good.masks] == ["0.png", "2.png", "3.png"]
    assert "1 of the 4 pairs are bad: 1.png; the first problem" in caplog.text


def test_a_truncated_image_is_found_when_it_is_read(tmp_path):
    """The check reads headers, unless files are to be skipped or everything is to be checked."""
    data = own_data(make_folders(tmp_path), skip_bad=True)
    pairs = pairs_of(tmp_path)
    truncate(tmp_path / "images" / "1.png")
    assert check_pairs(pairs)[0] == pairs
    with pytest.raises(UserError, match=r"image '.*images/1.png' cannot be read .*truncated"):
        SegmentationDataset(pairs, val_transform())[1]
    with pytest.raises(UserError, match=r"image '.*images/1.png' cannot be read .*truncated"):
        check_pairs(pairs, everything=True)
    data.setup("fit")
    assert [item["name"] for item in data.train_set] == ["0", "2", "3"]
    assert len(data.val_set) == 3


def test_many_bad_pairs_are_counted_and_the_first_eight_named(tmp_path, caplog):
    pairs = pairs_of(make_folders(tmp_path, 12))
    for k in range(10):
        (tmp_path / "masks" / f"{k}.png").unlink()
    names = "0.png, 1.png, 10.png, 11.png, 2.png, 3.png, 4.png, 5.png, ..."
    (tmp_path / "masks" / "10.png").unlink()
    (tmp_path / "masks" / "11.png").unlink()
    save(tmp_path / "masks" / "9.png", labels())
    with pytest.raises(ValueError, match=f"has no mask.*; 11 of the 12 pairs are bad: {names}"):
        check_pairs(pairs)
    assert len(check_pairs(pairs, skip_bad=True)[0]) == 1
    assert f"skipped: 11 of the 12 pairs are bad: {names}" in caplog.text
    (tmp_path / "masks" / "9.png").unlink()
    with pytest.raises(ValueError, match="12 of the 12 pairs are bad"):
        check_pairs(pairs, skip_bad=True)


def test_of_many_masks_only_a_sample_is_decoded(tmp_path, monkeypatch):
    pairs = pairs_of(make_folders(tmp_path, 6))
    save(tmp_path / "masks" / "1.png", labels(top=9))
    monkeypatch.setattr(dataset_module, "MASKS_DECODED", 3)
    assert check_pairs(pairs)[0] == pairs
    save(tmp_path / "masks" / "2.png", labels(top=9))
    with pytest.raises(ValueError, match="masks/2.png' has undefined labels"):
        check_pairs(pairs)


# One worker: torch waits five seconds for each when a loader has raised.
@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_raises_the_same_error(tmp_path, workers):
    data = own_data(make_folders(tmp_path), num_workers=workers)
    data.setup("fit")
    truncate(tmp_path / "images" / "1.png")
    with pytest.raises(UserError, match=r"image '.*images/1.png' cannot be read .*; replace"):
        list(data.train_dataloader())
    with pytest.raises(UserError, match=r"image '.*images/1.png' cannot be read .*; replace"):
        list(data.val_dataloader())


# Transforms


def stack(mask):
    """Return an image whose three channels are its mask, and the mask."""
    mask = torch.as_tensor(mask, dtype=torch.uint8)
    return tv_tensors.Image(mask.expand(3, *mask.shape).clone()), tv_tensors.Mask(mask)


def blocks(height=60, width=80, side=20):
    """Return a mask of flat blocks of labels 0 to 5, each block next to others."""
    rows, columns = torch.arange(height)[:, None] // side, torch.arange(width) // side
    return ((rows * 3 + columns) % 6) * 40


def test_image_and_mask_move_together():
    """The image is its mask painted: they agree after every transform, but for blurred edges."""
    transform = train_transform(48, photometric=False, mean=MEAN, std=STD)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    for _ in range(10):
        image, mask = transform(*stack(blocks()))
        assert image.shape == (3, 48, 48)
        assert mask.shape == (48, 48)
        seen = mask != IGNORE
        painted = ((image * std + mean) * 255)[0]
        difference = (painted - mask).abs()[seen].mean()
        assert difference < 6
        for moved in (mask.flip(-1), torch.roll(mask, 2, 0), torch.roll(mask, 2, 1)):
            assert (painted - moved).abs()[seen].mean() > 1.5 * difference
        assert (image[:, ~seen].abs() < 0.02).all()  # the mean


def test_mirroring_happens_to_both_at_its_rate():
    row = torch.arange(8).repeat(8, 1)
    for flip in (0.0, 1.0):
        transform = train_transform(8, scale_range=(1, 1), flip=flip, photometric=False)
        image, mask = transform(*stack(row))
        assert torch.equal(mask, row.flip(-1) if flip else row)
        assert torch.equal(image[0].argsort(dim=-1)[0], mask[0].long().argsort())


def test_small_images_are_padded_with_the_mean_and_the_ignored_label():
    transform = train_transform(48, scale_range=(1, 1), flip=0, photometric=False)
    image, mask = transform(*stack(torch.full((20, 30), 2)))
    assert image.shape == (3, 48, 48)
    assert image.dtype == torch.float32
    inside = mask == 2
    assert inside.sum() == 20 * 30
    assert (mask[~inside] == 255).all()
    assert (image[:, ~inside].abs() < 0.02).all()  # zero is the mean
    assert (image[:, inside].abs() > 1).all()


def test_scale_jitter_keeps_the_aspect_and_its_range():
    sizes = {tuple(resize(*stack(blocks(60, 120)), (0.5, 2.0))[1].shape) for _ in range(50)}
    assert len(sizes) > 20
    for height, width in sizes:
        assert 30 <= height <= 120
        assert abs(width - 2 * height) <= 1


@pytest.mark.parametrize("scale", [0.75, 1.5, 1.9])
def test_masks_are_not_shifted_against_images_when_resized(scale):
    """An edge in the middle stays in the middle of both; torchvision's own "nearest" moves it."""
    image, mask = resize(*stack((torch.arange(40) // 20 * 200).repeat(40, 1)), (scale, scale))
    middle = mask.shape[1] // 2
    assert mask.shape[1] % 2 == 0
    assert (mask[:, :middle] == 0).all()
    assert (mask[:, middle:] == 200).all()
    assert (image[0, :, middle - 1] < 100).all()
    assert (image[0, :, middle] > 100).all()


def test_photometric_changes_images_only():
    picture = tv_tensors.Image(torch.from_numpy(colours(16, 16)).permute(2, 0, 1))
    mask = tv_tensors.Mask(torch.from_numpy(labels(16, 16)))
    transform = train_transform(16, scale_range=(1, 1), flip=0, photometric=True)
    seen = [transform(picture, mask) for _ in range(8)]
    assert all(torch.equal(m, mask) for _, m in seen)
    assert not torch.equal(seen[0][0], seen[1][0])
    plain = train_transform(16, scale_range=(1, 1), flip=0, photometric=False)
    assert torch.equal(plain(picture, mask)[0], val_transform()(picture, mask)[0])


def test_validation_normalises_and_leaves_the_size():
    image, mask = val_transform(mean=MEAN, std=STD)(*stack(torch.full((5, 7), 255)))
    assert image.shape == (3, 5, 7)
    assert mask.shape == (5, 7)
    wanted = [(1 - m) / s for m, s in zip(MEAN, STD, strict=True)]
    torch.testing.assert_close(image[:, 2, 2].as_subclass(torch.Tensor), torch.tensor(wanted))


def test_the_short_side_resizes_training_images_and_leaves_those_of_validation(tmp_path):
    data = own_data(make_folders(tmp_path), short_side=20, scale_range=(1, 1), flip=0.0)
    data.setup()
    item = data.train_set[0]
    # 40 x 48 resized to 20 x 24; the rest of the crop is padding.
    assert (item["mask"] != IGNORE).sum() == 20 * 24
    item = data.val_set[0]
    assert item["image"].shape[1:] == item["mask"].shape == (40, 48)


MODULE = """
import numpy as np

def mirrored(image, mask):
    return image[:, ::-1], mask[:, ::-1]

class Doubled:
    def __call__(self, image, mask):
        return image.repeat(2, 0), mask.repeat(2, 0)

def grey(image, mask):
    return image[..., 0], mask

def floats(image, mask):
    return image / 255, mask

def image_alone(image, mask):
    return image

number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module of callables, and return its name; `tmp_path` is the current folder."""
    name = f"augmentation_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield name
    sys.modules.pop(name, None)


def test_ones_own_augmentation_takes_the_place_of_ours(tmp_path, module):
    root = make_folders(tmp_path / "data")
    cases = {f"{module}:mirrored": labels()[:, ::-1], f"{module}.Doubled": labels().repeat(2, 0)}
    for path, wanted in cases.items():
        data = own_data(root, augmentation=path, crop_size=80, scale_range=(2, 2), num_workers=1)
        data.setup("fit")
        mask = data.train_set[0]["mask"]
        assert (mask[mask != IGNORE].view(wanted.shape).numpy() == wanted).all()
        batch = next(iter(data.train_dataloader()))  # of a process of its own
        assert ((batch["mask"] != IGNORE).sum((1, 2)) == wanted.size).all()


@pytest.mark.parametrize("name", ["grey", "floats", "image_alone", "number", "missing"])
def test_an_augmentation_that_cannot_be_used_is_named(tmp_path, module, name):
    data = own_data(make_folders(tmp_path / "data"), augmentation=f"{module}:{name}")

    def first_item():
        data.setup("fit")
        return data.train_set[0]

    with pytest.raises(UserError, match=f"{module}:{name}"):
        first_item()


def test_classes_are_balanced_by_their_pixels(tmp_path):
    data = own_data(make_folders(tmp_path))
    trainer = train_segmenter(data, loss="ce", class_weights="balanced")
    pixels = np.bincount(np.concatenate([labels(seed=k).ravel() for k in range(4)]))
    wanted = pixels.sum() / (len(pixels) * pixels)
    assert trainer.lightning_module.loss.class_weights == pytest.approx(wanted.tolist())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (123.7, 116.3, 103.5)}, "divide numbers for"),
        ({"std": (1.0, 0.0, 1.0)}, "std must be 3 numbers"),
        ({"mean": (0.5,)}, "std must be 3 numbers .* or 1"),
        ({"mean": (0.5, 0.5), "std": (0.5, 0.5)}, "mean must be 3 numbers"),
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        own_data(tmp_path, **options)


# The data module


def test_classes_are_known_before_setup(demo, tmp_path):
    data = SegmentationData("ade20k", str(demo.root / "semantic"))
    assert data.num_classes == 6
    assert data.class_names[5] == "background"
    assert SegmentationData("cityscapes", str(tmp_path)).num_classes == 19
    assert own_data(tmp_path).class_names == ("class 0", "class 1", "class 2")
    (tmp_path / "names.txt").write_text("sky\ntree\nroad\n")
    named = own_data(tmp_path, num_classes=None, class_names_file="names.txt")
    assert named.class_names == THREE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "cityscapes"}, "layout 'cityscapes' needs root"),
        (
            {"layout": "cityscapes", "root": ".", "num_classes": 34},
            "num_classes must be 19.* got 34",
        ),
        (
            {"layout": "cityscapes", "root": ".", "train_images": "a", "class_names_file": "b"},
            "has no train_images, class_names_file; .* layout 'folder'",
        ),
        ({"layout": "folder", "train_images": "a"}, "needs train_masks, val_images, val_masks"),
    ],
)
def test_arguments_that_do_not_fit_together_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SegmentationData(**options)


@pytest.mark.parametrize("word", ["no", "~", "1.5"])
def test_a_name_that_yaml_takes_for_another_value_is_refused(word, tmp_path):
    given = [f"--data.{part}_{kind}={kind}" for part in ("train", "val") for kind in KINDS]
    given += ["--check_data", "--output", str(tmp_path), "--data.layout", "folder"]
    with pytest.raises(UserError, match=r"--data.label_map .* quotes, got (False|None|1.5)"):
        build([*given, "--data.label_map", f"{{0: background, 1: {word}, 2: nut}}"])


def test_a_tilde_is_the_home_folder(demo, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(make_folders(tmp_path)))
    data = SegmentationData(**{**own_data(tmp_path).hparams, "root": "~"})
    data.setup()
    assert len(data.train_set) == 4
    monkeypatch.setenv("HOME", str(demo.root))
    data = SegmentationData("ade20k", "~/semantic")
    data.setup("validate")
    assert data.num_classes == 6


def test_a_folder_dataset_needs_its_number_of_classes(tmp_path):
    with pytest.raises(ValueError, match="needs num_classes .*class_names_file"):
        own_data(tmp_path, num_classes=None)
    with pytest.raises(ValueError, match="num_classes from 1 to 255, .* got num_classes 256"):
        own_data(tmp_path, num_classes=256)


def test_arguments_are_kept_as_plain_values_for_checkpoints(tmp_path):
    data = own_data(tmp_path, scale_range=(0.75, 1.5), short_side=20)
    assert data.hparams["root"] == str(tmp_path)
    assert (data.hparams["val_masks"], data.hparams["num_classes"]) == ("masks", 3)
    assert (data.hparams["scale_range"], data.hparams["short_side"]) == ((0.75, 1.5), 20)
    assert own_data(tmp_path, val_masks=Path("masks")).hparams["val_masks"] == "masks"
    again = SegmentationData(**data.hparams)
    assert dict(again.hparams) == dict(data.hparams)
    # A model has arguments of the same names, which loggers would mix up.
    assert data.hparams_initial
    assert not data._log_hyperparams


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_have_the_shapes_and_types_of_the_contract(demo, workers):
    data = SegmentationData(
        "ade20k", str(demo.root / "semantic"), crop_size=48, batch_size=4, num_workers=workers
    )
    data.setup("fit")
    train = data.train_dataloader()
    assert (train.persistent_workers, train.drop_last) == (workers > 0, True)
    assert train.pin_memory == torch.cuda.is_available()
    (batch,) = list(train)  # four of six: the rest of two is dropped
    assert batch["image"].shape == (4, 3, 48, 48)
    assert batch["image"].dtype == torch.float32
    assert batch["mask"].shape == (4, 48, 48)
    assert batch["mask"].dtype == torch.int64
    assert type(batch["image"]) is type(batch["mask"]) is torch.Tensor
    assert set(batch["mask"].unique().tolist()) <= {0, 1, 2, 3, 4, 5, 255}
    assert len(batch["name"]) == 4
    val = list(data.val_dataloader())
    assert [b["name"] for b in val] == [["000000"], ["000001"], ["000002"]]
    assert val[0]["image"].shape == (1, 3, 64, 64)


def test_validation_alone_needs_no_training_files(tmp_path):
    data = own_data(make_folders(tmp_path), train_images="gone", train_masks="gone")
    data.setup("validate")
    assert len(data.val_dataloader()) == 4
    with pytest.raises(FileNotFoundError, match="no mask folder '.*gone'"):
        data.setup("fit")


def test_a_batch_larger_than_the_dataset_is_refused(tmp_path):
    data = own_data(make_folders(tmp_path), batch_size=5)
    data.setup("fit")
    with pytest.raises(ValueError, match="at most 4 .training images.*, got 5"):
        data.train_dataloader()


@pytest.mark.parametrize(("processes", "share"), [(1, 4), (2, 2), (4, 1)])
def test_a_batch_is_shared_out_among_processes(processes, share, tmp_path):
    data = own_data(make_folders(tmp_path), batch_size=4)
    data.setup("fit")
    data.trainer = SimpleNamespace(world_size=processes, global_rank=0)
    assert data.train_dataloader().batch_size == share
    data.trainer.world_size = 3
    with pytest.raises(UserError, match="a multiple of 3 .processes.*, got 4"):
        data.train_dataloader()


def same_images(tmp_path, count=8):
    """Make copies of one image, so that batches differ by augmentation alone."""
    for k in range(count):
        save(tmp_path / "images" / f"{k}.png", colours(64, 64, seed=0))
        save(tmp_path / "masks" / f"{k}.png", labels(64, 64, seed=0))
    return tmp_path


def epochs(root, workers, count=2):
    data = own_data(root, num_workers=workers)
    data.setup("fit")
    loader = data.train_dataloader()
    found = []
    for epoch in range(count):
        loader.sampler.set_epoch(epoch)  # as Lightning does
        found.append(torch.cat([batch["image"] for batch in loader]))
    return found


def test_augmentation_differs_by_image_and_epoch_and_follows_the_seed(tmp_path):
    same_images(tmp_path)
    runs = []
    for seed, workers in ((3, 2), (3, 0), (4, 0)):
        lightning.seed_everything(seed, workers=True, verbose=False)
        runs.append(torch.cat(epochs(tmp_path, workers)))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert len(runs[0]) == 16
    for k, image in enumerate(runs[0]):
        assert not any(torch.equal(image, other) for other in runs[0][k + 1 :])


class Counter(lightning.LightningModule):
    """Write down the names that each process trains on."""

    def __init__(self, folder):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.folder = folder

    def training_step(self, batch, index):
        with (self.folder / f"rank{self.global_rank}.txt").open("a") as file:
            file.write("".join(f"{name}\n" for name in batch["name"]))
        return self.weight * batch["image"].mean()

    def validation_step(self, batch, index):
        assert batch["mask"].shape == batch["image"].shape[:1] + batch["image"].shape[2:]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(root, folder, **options):
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(Counter(folder), datamodule=own_data(root))


@pytest.mark.filterwarnings("ignore")
def test_lightning_trains_and_splits_the_data_over_processes(tmp_path, caplog):
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    make_folders(tmp_path, 8)
    fit(tmp_path, tmp_path)
    assert sorted((tmp_path / "rank0.txt").read_text().split()) == [str(k) for k in range(8)]
    (tmp_path / "rank0.txt").unlink()
    options = {"strategy": "ddp_fork", "devices": 2}
    # Torch cannot train in a fork of a process in which threads have trained.
    run = forking_context().Process(target=fit, args=(tmp_path, tmp_path), kwargs=options)
    run.start()
    run.join()
    assert run.exitcode == 0
    shares = [(tmp_path / f"rank{rank}.txt").read_text().split() for rank in (0, 1)]
    assert [len(share) for share in shares] == [4, 4]
    assert sorted(shares[0] + shares[1]) == [str(k) for k in range(8)]
