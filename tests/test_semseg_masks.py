"""Masks as people have them: read exactly as they were drawn, or refused in a line that helps."""

import numpy as np
import pytest
from PIL import Image

from regnet_backbones.errors import UserError
from regnet_backbones.semseg.datamodule import SegmentationData
from regnet_backbones.semseg.labels import IGNORE, LABEL_MAP, folder_labels, read_table
from regnet_backbones.semseg.layouts import folder_pairs

COLORS = np.array([(0, 0, 0), (128, 0, 0), (0, 128, 0), (130, 7, 255)], np.uint8)
NAMES = ("ground", "tree", "road", "car")
COUNT = 4  # images, of which the last one is for validation


class Folder:
    """Draw a dataset, and say how it is to be read.

    Args:
        root: an empty folder.
        rng: draws sizes, classes and the layout.
        classes: number of classes; None to draw it.
        void: whether some pixels are ignored.
    """

    def __init__(self, root, rng, *, classes=None, void=False):
        self.root, self.rng = root, rng
        self.classes = classes or int(rng.integers(2, 5))
        self.options = {"num_classes": self.classes}
        self.suffix, self.ending = "", ".png"
        self.truth = {}
        folder = ("", "site/", "a b/c/")[rng.integers(3)]
        for k in range(COUNT):
            height, width = (int(side) for side in rng.integers(9, 20, 2))
            mask = rng.integers(0, self.classes, (height, width)).astype(np.uint8)
            mask.flat[: self.classes] = range(self.classes)
            if void:
                mask[-2:] = IGNORE
            self.truth[f"{folder}{k:03}"] = mask

    def split_of(self, name):
        return "val" if name.endswith(f"{COUNT - 1}") else "train"

    def path(self, name, kind="masks"):
        suffix, ending = (self.suffix, self.ending) if kind == "masks" else ("", ".png")
        path = self.root / kind / self.split_of(name) / f"{name}{suffix}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write(self, encode, **save):
        """Write images of noise, and each mask as `encode` makes a picture of its classes."""
        for name, mask in self.truth.items():
            noise = self.rng.integers(0, 256, (*mask.shape, 3), dtype=np.uint8)
            Image.fromarray(noise).save(self.path(name, "images"))
            picture = encode(mask)
            picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
            picture.save(self.path(name), **save)
        return self

    def data(self):
        folders = {
            f"{s}_{kind}": f"{kind}/{s}" for s in ("train", "val") for kind in ("images", "masks")
        }
        options = {"crop_size": 16, "batch_size": 1, "num_workers": 0, **folders, **self.options}
        return SegmentationData("folder", str(self.root), **options)

    def read(self):
        """Return the classes of all masks by name, as both splits have them."""
        data = self.data()
        data.setup()
        found = {}
        for split in (data.train_set, data.val_set):
            split.transform = data.val_transform
            found |= {item["name"]: item["mask"].numpy() for item in split}
        return data, found


def text_file(folder, name, lines):
    (folder.root / name).write_text("\n".join(lines) + "\n")
    return name


def color_lines(folder, form="{name} {r} {g} {b}"):
    table = zip(NAMES, COLORS.tolist(), strict=True)
    lines = [form.format(name=name, r=r, g=g, b=b) for name, (r, g, b) in table]
    return lines[: folder.classes]


def palette(mask, colors):
    picture = Image.fromarray(mask)
    picture.putpalette([int(value) for color in colors for value in color])
    return picture


def with_alpha(mask, alpha):
    grey = Image.fromarray(mask)
    return Image.merge("LA", (grey, Image.fromarray(np.broadcast_to(alpha, mask.shape).copy())))


READ = {}


def read(**drawn):
    def register(make):
        READ[make.__name__] = (make, drawn)
        return make

    return register


@read(void=True)
def grey(folder):
    folder.write(lambda mask: mask)


@read(void=True)
def sixteen_bits(folder):
    folder.write(lambda mask: mask.astype(np.uint16))


@read(void=True)
def voc_palette(folder):
    folder.write(lambda mask: palette(mask, np.resize(COLORS, (256, 3))))


@read(void=True)
def grey_and_alpha(folder):
    folder.write(lambda mask: with_alpha(mask, np.uint8(255)))


@read()
def grey_saved_as_rgb(folder):
    folder.write(lambda mask: Image.fromarray(mask).convert("RGB"))


@read(void=True)
def grey_saved_as_rgba(folder):
    folder.write(lambda mask: Image.fromarray(mask).convert("RGBA"))


@read(void=True)
def tiff(folder):
    folder.ending = ".tif"
    folder.write(lambda mask: mask)


@read(void=True)
def tiff_of_sixteen_bits(folder):
    folder.ending = ".TIFF"
    folder.write(lambda mask: mask.astype(np.uint16), compression="tiff_lzw")


@read()
def tiff_of_32_bits(folder):
    folder.ending = ".tif"
    folder.write(lambda mask: mask.astype(np.int32))


@read()
def bmp(folder):
    folder.ending = ".bmp"
    folder.write(lambda mask: mask)


@read()
def gif_with_suffix(folder):
    folder.ending, folder.suffix = ".gif", "_mask"
    folder.options["mask_suffix"] = "_mask.gif"
    folder.write(lambda mask: palette(mask, COLORS))


@read(void=True)
def suffix(folder):
    folder.suffix = folder.options["mask_suffix"] = "-labels"
    folder.write(lambda mask: mask)


@read(classes=2)
def binary_of_255(folder):
    folder.options["num_classes"] = 1
    folder.write(lambda mask: mask * 255)


@read(classes=2)
def binary_of_1(folder):
    folder.options["num_classes"] = 1
    folder.write(lambda mask: mask)


@read(classes=2)
def bilevel(folder):
    folder.options["num_classes"] = 1
    folder.write(lambda mask: mask.astype(bool))


@read(classes=2)
def bilevel_tiff(folder):
    folder.ending = ".tiff"
    folder.options["num_classes"] = 1
    folder.write(lambda mask: Image.fromarray(mask.astype(bool)), compression="group4")


@read(classes=2)
def two_names(folder):
    names = text_file(folder, "names.txt", ["skin", "lesion"])
    folder.options |= {"num_classes": None, "class_names_file": names}
    folder.write(lambda mask: mask * 255)


@read(classes=2, void=True)
def binary_with_void(folder):
    folder.options |= {"num_classes": 1, "ignore_label": 255}
    folder.write(lambda mask: mask)


@read(classes=2)
def object_written_in_two_ways(folder):
    folder.options |= {"num_classes": 1, "label_map": {0: 0, 1: "object", 255: 1}}
    folder.write(lambda mask: mask * folder.rng.choice([1, 255], mask.shape).astype(np.uint8))


@read(void=True)
def camvids_void(folder):
    folder.options["ignore_label"] = 11
    folder.write(lambda mask: np.where(mask == IGNORE, np.uint8(11), mask))


@read()
def nothing_ignored(folder):
    folder.options["ignore_label"] = -1
    folder.write(lambda mask: mask)


@read(void=True)
def labels_from_1(folder):
    folder.options["label_map"] = {k + 1: k for k in range(folder.classes)} | {0: "ignore"}
    folder.write(lambda mask: mask + np.uint8(1))  # 255 becomes 0


@read(void=True)
def map_of_large_labels(folder):
    lines = ["# label, class", *(f"{1000 * k + 7}: {NAMES[k]}" for k in range(folder.classes))]
    folder.options |= {"num_classes": None, "label_map": text_file(folder, "map.txt", lines)}
    large = np.array([1000 * k + 7 for k in range(4)] + [0] * 251 + [IGNORE], np.uint16)
    folder.write(lambda mask: large[mask])


@read()
def colours(folder):
    folder.options |= {"colors": text_file(folder, "table.txt", color_lines(folder))}
    folder.write(lambda mask: COLORS[mask])


@read(void=True)
def colours_with_void(folder):
    lines = [*color_lines(folder, "{r},{g},{b},{name}"), "224 224 192 ignore"]
    folder.options |= {"num_classes": None, "colors": text_file(folder, "t.csv", lines)}
    every = np.concatenate([COLORS, np.tile(np.uint8([[224, 224, 192]]), (252, 1))])
    folder.write(lambda mask: Image.fromarray(every[mask]).convert("RGBA"))


@read()
def colours_of_a_palette(folder):
    folder.options["colors"] = color_lines(folder)
    order = np.arange(255, -1, -1, dtype=np.uint8)
    folder.write(lambda mask: palette(order[mask], np.resize(COLORS, (256, 3))[::-1]))


@read()
def cvat(folder):
    lines = ["# label:color_rgb:parts:actions", *color_lines(folder, "{name}:{r},{g},{b}::")]
    text_file(folder, "labelmap.txt", lines)
    folder.options |= {"num_classes": None, "colors": "labelmap.txt"}
    folder.write(lambda mask: COLORS[mask])


@read()
def listed(folder):
    """Both splits from one folder, by lists."""
    folder.split_of = lambda name: ""
    folder.write(lambda mask: mask)
    *train, val = folder.truth
    for split, names in (("train", train), ("val", [f"{val}.png"])):
        folder.options |= {f"{split}_images": "images", f"{split}_masks": "masks"}
        folder.options[f"{split}_list"] = text_file(folder, f"{split}.txt", names)


REFUSED = {}


def refused(said, **drawn):
    def register(make):
        REFUSED[make.__name__] = (make, said, drawn)
        return make

    return register


@refused("--data.num_classes 1", classes=2)
def two_classes_of_0_and_255(folder):
    folder.write(lambda mask: mask * 255)


@refused("--data.ignore_label 255", classes=2, void=True)
def binary_of_1_and_255(folder):
    folder.options["num_classes"] = 1
    folder.write(lambda mask: mask)


@refused("--data.label_map", void=True)
def all_void(folder):
    folder.write(lambda mask: np.full_like(mask, IGNORE))


@refused("classes have pixels", void=True)
def one_class_and_void(folder):
    folder.write(lambda mask: np.where(mask == IGNORE, mask, np.uint8(1)))


@refused("--data.label_map '{LABEL: CLASS")
def one_based(folder):
    folder.write(lambda mask: mask + np.uint8(1))


@refused("--data.label_map '{LABEL: CLASS", classes=2)
def two_odd_labels(folder):
    folder.write(lambda mask: mask * 100)


@refused("undefined labels: 255", void=True)
def void_of_255_that_is_none(folder):
    folder.options["ignore_label"] = -1
    folder.write(lambda mask: mask)


@refused("undefined labels: -1")
def negative_labels(folder):
    folder.ending = ".tif"
    folder.write(lambda mask: mask.astype(np.int32) - 1)


@refused(".png' is a JPEG file")
def jpeg_named_png(folder):
    folder.write(lambda mask: mask, format="JPEG")


@refused(".jpg' is a JPEG file")
def jpeg(folder):
    folder.ending = ".jpg"
    folder.write(lambda mask: mask)


@refused(".webp' is a WEBP file")
def webp(folder):
    folder.ending = ".webp"
    folder.write(lambda mask: Image.fromarray(mask).convert("RGB"), lossless=True)


@refused("Pillow's mode F")
def floats(folder):
    folder.ending = ".tif"
    folder.write(lambda mask: mask.astype(np.float32))


@refused("--data.colors")
def colours_without_a_table(folder):
    folder.write(lambda mask: COLORS[mask])


@refused("undefined colours: (130, 7, 255): ", classes=4)
def colours_that_the_table_lacks(folder):
    folder.options |= {"num_classes": None, "colors": color_lines(folder)[:-1]}
    folder.write(lambda mask: COLORS[mask])


@refused("num_classes must be 3, the class names, got 4", classes=3)
def a_table_of_other_classes(folder):
    folder.options |= {"num_classes": 4, "colors": color_lines(folder)}
    folder.write(lambda mask: COLORS[mask])


@refused("--data.colors cannot be combined with --data.label_map")
def a_table_and_a_map(folder):
    folder.options |= {"colors": color_lines(folder), "label_map": {0: 1}}
    folder.write(lambda mask: COLORS[mask])


@refused("nowhere.txt")
def no_table(folder):
    folder.options["colors"] = "nowhere.txt"
    folder.write(lambda mask: COLORS[mask])


@refused("'boat'")
def a_map_to_another_class(folder):
    names = text_file(folder, "names.txt", NAMES[: folder.classes])
    folder.options |= {"class_names_file": names, "label_map": {0: "ground", 1: "boat"}}
    folder.write(lambda mask: mask)


@refused("--data.mask_suffix")
def suffix_that_is_not_given(folder):
    folder.suffix = "_mask"
    folder.write(lambda mask: mask)


@refused("*_mask and ")
def suffix_that_is_another(folder):
    folder.suffix, folder.options["mask_suffix"] = "_label", "_mask"
    folder.write(lambda mask: mask)


@refused("has no mask '")
def a_missing_mask(folder):
    folder.write(lambda mask: mask)
    folder.path(next(iter(folder.truth))).unlink()


@refused("must have masks")
def no_masks(folder):
    folder.write(lambda mask: mask)
    for name in folder.truth:
        folder.path(name).unlink()


@refused("cannot be read")
def an_empty_mask(folder):
    folder.write(lambda mask: mask)
    folder.path(next(iter(folder.truth))).write_bytes(b"")


@refused("cannot be read")
def a_mask_that_is_cut_off(folder):
    folder.write(lambda mask: mask)
    path = folder.path(next(iter(folder.truth)))
    path.write_bytes(path.read_bytes()[:-40])


@refused("pixels, its image")
def a_mask_one_pixel_off(folder):
    folder.write(lambda mask: mask[:, 1:])


@refused("differ only by suffix")
def a_mask_in_two_formats(folder):
    folder.write(lambda mask: mask)
    name, mask = next(iter(folder.truth.items()))
    Image.fromarray(mask).save(folder.path(name).with_suffix(".tif"))


@refused("more than 8 bits per channel")
def images_of_sixteen_bits(folder):
    folder.write(lambda mask: mask)
    for name, mask in folder.truth.items():
        Image.fromarray(mask.astype(np.uint16)).save(folder.path(name, "images"))


@refused("only 0 of the 1 listed images")
def a_list_of_another_set(folder):
    folder.write(lambda mask: mask)
    folder.options["train_list"] = text_file(folder, "train.txt", ["900"])


@pytest.mark.parametrize("kind", READ)
def test_masks_are_read_as_they_were_drawn(kind, tmp_path):
    make, drawn = READ[kind]
    folder = Folder(tmp_path, np.random.default_rng(len(kind)), **drawn)
    make(folder)
    data, found = folder.read()
    truth = {name.rpartition("/")[2]: mask for name, mask in folder.truth.items()}
    assert found.keys() == truth.keys()
    assert all((found[name] == truth[name]).all() for name in truth)
    assert data.num_classes == len(data.class_names) == folder.classes
    # An evaluation reads them in the same way from the hyperparameters alone.
    for file in tmp_path.glob("*.txt"):
        if file.name in ("labelmap.txt", "map.txt", "table.txt"):
            file.unlink()
    again = SegmentationData(**data.hparams)
    again.setup("validate")
    name, mask = again.val_set[0]["name"], again.val_set[0]["mask"].numpy()
    assert (mask == truth[name]).all()
    assert dict(again.hparams) == dict(data.hparams)


@pytest.mark.parametrize("kind", REFUSED)
def test_masks_that_cannot_be_read_are_refused_in_a_line(kind, tmp_path):
    make, said, drawn = REFUSED[kind]
    folder = Folder(tmp_path, np.random.default_rng(len(kind)), **drawn)
    make(folder)
    with pytest.raises((UserError, FileNotFoundError)) as caught:
        folder.read()
    message = str(caught.value)
    assert said in message
    assert "\n" not in message
    assert len(message) < 1000


def test_classes_in_no_training_mask_are_named(tmp_path, caplog):
    folder = Folder(tmp_path, np.random.default_rng(0), classes=3)
    folder.options["num_classes"] = 5
    folder.write(lambda mask: mask)
    data, _ = folder.read()
    assert "2 of 5 classes are in none of the 3 training masks" in caplog.text
    assert "class 3, class 4" in caplog.text
    assert data.label_counts["train"].masks[2] == 3


def test_images_in_both_splits_are_counted(tmp_path, caplog):
    folder = Folder(tmp_path, np.random.default_rng(0)).write(lambda mask: mask)
    folder.options |= {"val_images": "images/train", "val_masks": "masks/train"}
    folder.read()
    assert "3 of the 3 validation images are also training images" in caplog.text


def test_masks_with_a_suffix_may_lie_with_their_images(tmp_path):
    folder = Folder(tmp_path, np.random.default_rng(0))
    folder.options |= {f"{s}_{k}": s for s in ("train", "val") for k in ("images", "masks")}
    folder.options["mask_suffix"] = "_mask"

    def path(name, kind="masks"):
        end = "_mask" if kind == "masks" else ""
        path = tmp_path / folder.split_of(name) / f"{name}{end}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    folder.path = path
    folder.write(lambda mask: mask)
    _, found = folder.read()
    assert len(found) == COUNT


def test_masks_may_lie_in_a_folder_of_the_images(tmp_path):
    images, masks = ".", "masks"
    for folder in (images, masks):
        for name in ("a", "b"):
            path = tmp_path / folder / f"{name}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.zeros((9, 9), np.uint8)).save(path)
    pairs = folder_pairs(tmp_path / images, tmp_path / masks, folder_labels(2))
    assert pairs.images == tuple(tmp_path / images / name for name in ("a.png", "b.png"))
    assert pairs.masks == tuple(tmp_path / masks / name for name in ("a.png", "b.png"))


def test_binary_segmentation_names_its_object():
    assert folder_labels(1).class_names == ("background", "object")
    assert folder_labels(None, ["crack"]).class_names == ("background", "crack")
    assert folder_labels(1, ["skin", "lesion"]).classes == {0: 0, 1: 1, 255: 1}
    assert folder_labels(2, ["skin", "lesion"]).classes == {0: 0, 1: 1, 255: IGNORE}


@pytest.mark.parametrize(
    ("line", "name", "color"),
    [
        ("road 128 64 128", "road", 0x804080),
        ("128, 64, 128, traffic light", "traffic light", 0x804080),
        ("lane 2 10 20 30", "lane 2", 0x0A141E),
        ("a.b:c:1,2,3:head,hand:run", "a.b:c", 0x010203),
    ],
)
def test_lines_of_colour_tables(line, name, color):
    assert read_table([line], "--data.colors") == {color: name}


@pytest.mark.parametrize(
    "lines", [["road 1 2"], ["road 1 2 256"], ["1 2 3"], ["a 1 2 3", "b 1 2 3"]]
)
def test_colour_tables_that_are_none(lines):
    with pytest.raises(ValueError, match="--data.colors"):
        read_table(lines, "--data.colors")


def test_lines_of_label_maps():
    wanted = {1: 0, 2: "traffic light", 7: "ignore"}
    assert read_table(["1 0", "2: traffic light", " 7 = ignore"], LABEL_MAP) == wanted


@pytest.mark.parametrize(
    ("line", "said"), [("-1: 0", "'-1: 0'"), ("0: -1", "got {0: -1"), ("road: 0", "'road: 0'")]
)
def test_label_maps_that_are_none(line, said):
    with pytest.raises(ValueError) as caught:
        folder_labels(4, label_map=read_table([line], LABEL_MAP))
    assert "--data.label_map" in str(caught.value)
    assert said in str(caught.value)


def test_a_map_to_classes_that_do_not_exist():
    with pytest.raises(ValueError, match="classes .0 to 1, .*, got {1: 2"):
        folder_labels(2, label_map={0: 0, 1: 2})
    with pytest.raises(ValueError, match="given twice: a"):
        folder_labels(None, ("a", "a", "b"))
