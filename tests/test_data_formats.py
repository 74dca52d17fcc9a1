"""YOLO, Pascal VOC and labelme as COCO jsons: the same objects, as supervision reads them."""

import json
import os
import shutil
import warnings
from pathlib import Path

import labelled_folders as folders
import numpy as np
import pytest
from labelled_folders import HEIGHT, OBJECTS, TRIANGLE, WIDTH, shape

from regnet_backbones.cli.main import main
from regnet_backbones.data.formats import READERS
from regnet_backbones.data.sources import Source, parse_source, read_parts, to_coco
from regnet_backbones.errors import MissingFileError, UserError

WRITERS = {
    "yolo": folders.write_yolo,
    "voc": folders.write_voc,
    "labelme": folders.write_labelme,
}


def read(text, part="train"):
    """Return a dataset as a COCO json."""
    return read_parts({part: parse_source(text)})[part].content


def objects_of(content):
    """Return class name, box and polygons of each object, by the name of the image file."""
    names = {c["id"]: c["name"] for c in content["categories"]}
    found = {image["id"]: (Path(image["file_name"]).stem, []) for image in content["images"]}
    for entry in content["annotations"]:
        item = (names[entry["category_id"]], entry["bbox"], entry.get("segmentation"))
        found[entry["image_id"]][1].append(item)
    return dict(found.values())


def snapshot(folder):
    """Return the content and the times of all files below a folder."""
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_boxes_and_is_left_as_it_is(name, tmp_path):
    root = tmp_path / "data"
    path = WRITERS[name](root)
    before = snapshot(root)
    content = read(f"{name}:{path}")
    assert snapshot(root) == before
    found = objects_of(content)
    assert found.keys() == OBJECTS.keys()
    for image, objects in OBJECTS.items():
        assert [label for label, *_ in found[image]] == [label for label, _ in objects]
        for (_, box, _), (_, (x0, y0, x1, y1)) in zip(found[image], objects, strict=True):
            assert box == pytest.approx([x0, y0, x1 - x0, y1 - y0])
    sizes = {(image["width"], image["height"]) for image in content["images"]}
    assert sizes == {(WIDTH, HEIGHT)}
    # The order of a file, or else of the alphabet.
    order = ["screw", "nut", "bolt"] if name == "yolo" else ["bolt", "nut", "screw"]
    assert [c["name"] for c in content["categories"]] == order
    assert [c["id"] for c in content["categories"]] == [1, 2, 3]


@pytest.mark.parametrize("name", WRITERS)
def test_boxes_and_classes_are_those_of_supervision(name, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from supervision import DetectionDataset
    path = WRITERS[name](tmp_path)
    if name == "yolo":
        images, labels = tmp_path / "images" / "train", tmp_path / "labels" / "train"
        theirs = DetectionDataset.from_yolo(str(images), str(labels), str(path))
    elif name == "voc":
        parts = (str(tmp_path / "JPEGImages"), str(tmp_path / "Annotations"))
        theirs = DetectionDataset.from_pascal_voc(*parts)
    else:
        theirs = DetectionDataset.from_labelme(str(tmp_path), str(tmp_path))
    ours = objects_of(read(f"{name}:{path}"))
    assert len(theirs.image_paths) == len(ours)
    for image, found in theirs.annotations.items():
        objects = ours[Path(image).stem]
        names = [theirs.classes[k] for k in found.class_id] if len(found) else []
        assert names == [label for label, *_ in objects]
        boxes = np.array([box for _, box, _ in objects]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        np.testing.assert_allclose(boxes, found.xyxy.reshape(-1, 4), atol=1e-4)


def test_polygons_are_kept(tmp_path):
    points = [list(p) for p in zip(TRIANGLE[::2], TRIANGLE[1::2], strict=True)]
    data = folders.write_yolo(tmp_path / "yolo")
    parts = [value / (HEIGHT if i % 2 else WIDTH) for i, value in enumerate(TRIANGLE)]
    folders.write(tmp_path / "yolo/labels/train/a_1.txt", f"1 {' '.join(map(str, parts))}")
    folders.write_labelme(tmp_path / "labelme")
    text = folders.labelme_text("a_1", [shape("nut", points, "polygon")])
    folders.write(tmp_path / "labelme/a_1.json", text)
    folders.write_voc(tmp_path / "voc")
    corners = [(f"{'yx'[i % 2]}{(i + 1) // 2}", v + 1) for i, v in enumerate(TRIANGLE, 1)]
    outline = "".join(f"<{tag}>{value}</{tag}>" for tag, value in corners)
    text = folders.voc_text("a_1", [("nut", (10, 10, 42, 40))])
    text = text.replace("</object>", f"<polygon>{outline}</polygon></object>")
    folders.write(tmp_path / "voc/Annotations/a_1.xml", text)
    for source in (f"yolo:{data}", f"labelme:{tmp_path}/labelme", f"voc:{tmp_path}/voc"):
        content = read(source)
        ((label, box, (polygon,)),) = objects_of(content)["a_1"]
        assert label == "nut"
        assert box == pytest.approx([10, 10, 32, 30])
        assert polygon == pytest.approx(TRIANGLE)
        first = next(e for e in content["annotations"] if "segmentation" in e)
        # Half of the cross product of two sides.
        assert first["area"] == pytest.approx(abs(32 * 30 - 12 * 4) / 2)


def test_labelme_rectangles_are_polygons_and_groups_are_one_object(tmp_path):
    folders.draw(tmp_path / "x.png")
    shapes = [
        shape("nut", [[4, 4], [12, 10]], group_id=7),
        shape("nut", [[20, 20], [30, 20], [30, 30]], "polygon", group_id=7),
        shape("bolt", [[1, 1], [5, 6]], group_id=7),
    ]
    folders.write(tmp_path / "x.json", folders.labelme_text("x", shapes))
    nut, bolt = objects_of(read(f"labelme:{tmp_path}"))["x"]
    assert (nut[0], nut[1], len(nut[2])) == ("nut", [4, 4, 26, 26], 2)
    assert nut[2][0] == [4, 4, 12, 4, 12, 10, 4, 10]
    assert (bolt[0], bolt[1]) == ("bolt", [1, 1, 4, 5])


@pytest.mark.parametrize("name", ["voc", "labelme"])
def test_a_file_names_the_classes_in_their_order(name, tmp_path):
    WRITERS[name](tmp_path)
    folders.write(tmp_path / "labels.txt", "__ignore__\n_background_\nscrew\nnut\nbolt\nwasher\n")
    content = read(f"{name}:{tmp_path}")
    assert [c["name"] for c in content["categories"]] == ["screw", "nut", "bolt", "washer"]
    folders.write(tmp_path / "labels.txt", "screw\nnut\n")
    with pytest.raises(UserError, match=r"bolt.*labels.txt"):
        read(f"{name}:{tmp_path}")


def test_lists_of_voc_and_entries_of_yolo_are_the_parts(tmp_path):
    lists = {"train": ["a_1", "a_2"], "val": ["b_1"], "mine": ["b_2"]}
    voc = folders.write_voc(tmp_path / "voc", lists=lists)
    both = read_parts({part: parse_source(f"voc:{voc}") for part in ("train", "val")})
    assert {part: len(d.content["images"]) for part, d in both.items()} == {"train": 2, "val": 1}
    # The classes of the folder, though "val" has no bolt.
    assert both["train"].content["categories"] == both["val"].content["categories"]
    assert [*objects_of(read(f"voc:{voc},mine"))] == ["b_2"]
    data = folders.write_yolo(tmp_path / "yolo", ("train", "test"))
    assert len(read(f"yolo:{data},test")["images"]) == 4
    with pytest.raises(UserError, match="'val'"):
        read(f"yolo:{data}", "val")


def test_two_folders_without_lists_have_the_classes_of_both(tmp_path):
    for part, label in (("train", "nut"), ("val", "axle")):
        folders.draw(tmp_path / part / "x.png")
        text = folders.labelme_text("x", [shape(label, [[1, 1], [9, 9]])])
        folders.write(tmp_path / part / "x.json", text)
    both = {part: Source("labelme", tmp_path / part) for part in ("train", "val")}
    for dataset in read_parts(both).values():
        assert [c["name"] for c in dataset.content["categories"]] == ["axle", "nut"]


def test_roboflows_and_listed_images_of_yolo(tmp_path):
    """Folders one level too high, names by number, and a text file of images."""
    folders.write_yolo(tmp_path / "data")
    root = tmp_path / "data"
    shutil.move(root / "images/train", root / "train/images")
    shutil.move(root / "labels/train", root / "train/labels")
    names = "names: {0: screw, 1: nut, 2: bolt}\n"
    data = folders.write(
        root / "data.yaml", f"train: ../train/images\nval: val.txt\nnc: 3\n{names}"
    )
    folders.write(root / "val.txt", "./train/images/a_2.png\n\n")
    assert objects_of(read(f"yolo:{data}")).keys() == OBJECTS.keys()
    assert [*objects_of(read(f"yolo:{data}", "val"))] == ["a_2"]


def test_images_turned_by_exif_are_read_upright(tmp_path):
    from PIL import Image

    data = folders.write_yolo(tmp_path)
    path = tmp_path / "images/train/a_1.png"
    image = Image.open(path)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(path, exif=exif)
    (entry,) = (i for i in read(f"yolo:{data}")["images"] if i["file_name"].startswith("a_1"))
    assert (entry["width"], entry["height"]) == (HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("3 0.5 0.5 0.1 0.1", "class 3"),
        ("-1 0.5 0.5 0.1 0.1", "class -1"),
        ("0.5 0.5 0.5 0.1 0.1", "class 0.5"),
        ("0 0.5 0.5 nan 0.1", "finite"),
        ("0 0.5 0.5 0.1 x", "finite"),
        ("0 0.5 0.5 0.1", "4 columns"),
        ("0 0.5 0.5 0.1 0.1 0.9", "6 columns"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "8 columns"),
        ("0 0.5 0.5 0.1 0", "no area"),
        ("0 0.5 0.5 -0.1 0.1", "no area"),
        ("0 1.5 0.5 0.1 0.1", "outside"),
        ("0 0.95 0.5 0.2 0.1", "outside"),
        ("0 320 240 100 100", "outside"),
    ],
)
def test_a_bad_line_of_yolo_is_named(line, match, tmp_path):
    data = folders.write_yolo(tmp_path)
    path = tmp_path / "labels/train/a_2.txt"
    folders.write(path, f"0 0.5 0.5 0.1 0.1\n{line}\n")
    with pytest.raises(UserError, match=rf"a_2.txt', line 2: .*{match}"):
        read(f"yolo:{data}")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("names: [a, b]\n", "'train'"),
        ("train: images/train\n", "'names'"),
        ("train: images/train\nnames: [a, a]\n", "twice"),
        ("train: images/train\nnames: {0: a, 2: b}\n", "numbers"),
        ("train: images/train\nnames: [a]\nnc: 2\n", "nc must be 1.* got 2"),
        ("train: images/none\nnames: [a]\n", "does not exist"),
        ("train: labels/train\nnames: [a]\n", "no images"),
        ("train: images/train\nnames: [a]\nkpt_shape: [17, 3]\n", "keypoints"),
        ("train: images/train\nnames: [yes, no]\n", "quotes.* got True"),
        ("train: images/train\nnames: {0: a, 1: ~}\n", "quotes.* got None"),
        ("train: images/train\nnames: [a, '']\n", "got ''"),
        ("- a\n", "needs 'names' and"),
    ],
)
def test_a_bad_data_yaml_is_named(text, match, tmp_path):
    data = folders.write_yolo(tmp_path)
    folders.write(data, text)
    with pytest.raises(UserError, match=match):
        read(f"yolo:{data}")


def test_yolo_without_any_label_files_is_an_error(tmp_path):
    data = folders.write_yolo(tmp_path)
    shutil.rmtree(tmp_path / "labels")
    with pytest.raises(UserError, match="label file"):
        read(f"yolo:{data}")


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("<xmin>11</xmin>", "<xmin>nan</xmin>", "xmin"),
        ("<xmin>11</xmin>", "", "xmin"),
        ("<xmin>11</xmin>", "<xmin>40</xmin>", "no area"),
        ("<xmax>26</xmax>", "<xmax>80</xmax>", "outside"),
        ("<name>nut</name>", "", "name"),
        ("<annotation>", "<!DOCTYPE a [<!ENTITY b 'c'>]><annotation>", "not an annotation"),
        ("</annotation>", "", "not an annotation"),
        ("a_2.png", "other.png", None),  # the image of the same name is found
    ],
)
def test_a_bad_annotation_of_voc_is_named(old, new, match, tmp_path):
    folders.write_voc(tmp_path)
    path = tmp_path / "Annotations/a_2.xml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    if match is None:
        assert "a_2" in objects_of(read(f"voc:{tmp_path}"))
        return
    with pytest.raises(UserError, match=rf"a_2.xml'.*{match}"):
        read(f"voc:{tmp_path}")


def test_images_that_voc_and_labelme_lack_are_named(tmp_path):
    for name in ("voc", "labelme"):
        root = WRITERS[name](tmp_path / name)
        next(root.rglob("a_2.png")).unlink()
        with pytest.raises(MissingFileError, match=r"a_2\.(xml|json)'.*a_2.png"):
            read(f"{name}:{root}")
    folders.write_voc(tmp_path / "lists", lists={"train": ["a_1", "c_1"]})
    with pytest.raises(MissingFileError, match=r"val.txt'.* one of: train"):
        read(f"voc:{tmp_path / 'lists'}", "val")
    with pytest.raises(UserError, match=r"train.txt', line 2: .*c_1"):
        read(f"voc:{tmp_path / 'lists'}")


def test_a_size_that_voc_does_not_have_is_that_of_the_image(tmp_path):
    folders.write_voc(tmp_path)
    path = tmp_path / "Annotations/a_2.xml"
    path.write_text(path.read_text().replace(f"<width>{WIDTH}</width>", "<width>0</width>"))
    sizes = {(image["width"], image["height"]) for image in read(f"voc:{tmp_path}")["images"]}
    assert sizes == {(WIDTH, HEIGHT)}


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (shape("nut", [[1, 1], [5, 5]], "circle"), "circle"),
        (shape("nut", [[1, 1], [5, 5]], "line"), "line"),
        (shape("nut", [[1, 1], [5, 5]], "polygon"), "3 points"),
        (shape("nut", [[1, 1]]), "3 points"),
        (shape("nut", [[1, 1], [5, float("nan")]]), "finite"),
        (shape("nut", [[1, 1], [5, "6"], 3]), "points"),
        (shape("nut", [[1, 1], [1, 9]]), "no area"),
        (shape("nut", [[100, 1], [120, 9]]), "outside"),
        ({"points": [[1, 1], [5, 5]]}, "label"),
        (shape(" ", [[1, 1], [5, 5]]), "label"),
    ],
)
def test_a_bad_shape_of_labelme_is_named(bad, match, tmp_path):
    folders.write_labelme(tmp_path)
    text = folders.labelme_text("a_2", [shape("nut", [[1, 1], [5, 5]]), bad])
    folders.write(tmp_path / "a_2.json", text)
    with pytest.raises(UserError, match=rf"a_2.json', shape 2.*{match}"):
        read(f"labelme:{tmp_path}")


def test_files_of_other_kinds_are_errors(tmp_path):
    for name in ("voc", "labelme"):
        with pytest.raises(UserError, match="no Pascal VOC|no labelme"):
            read(f"{name}:{tmp_path}")
        with pytest.raises(MissingFileError, match="nothing"):
            read(f"{name}:{tmp_path / 'nothing'}")
    folders.write_labelme(tmp_path)
    folders.write(tmp_path / "all.json", '{"images": []}')
    with pytest.raises(UserError, match=r"all.json.*shapes"):
        read(f"labelme:{tmp_path}")


@pytest.mark.parametrize(
    "text", ["data.yaml", "vok:folder", "yolo:", "coco:a.json", "coco:a.json,", "voc:x,../y", ""]
)
def test_a_source_that_cannot_be_read_is_an_error(text):
    with pytest.raises(UserError):
        parse_source(text)


@pytest.mark.parametrize("name", ["yolo", "labelme"])
def test_linked_folders_are_read_and_hidden_files_are_not(name, tmp_path):
    path = WRITERS[name](tmp_path / "data")
    images = next((tmp_path / "data").rglob("a_1.png")).parent
    for folder in {images, Path(str(images).replace("images", "labels"))}:
        elsewhere = tmp_path / "elsewhere" / folder.relative_to(tmp_path / "data")
        elsewhere.mkdir(parents=True)
        for file in folder.glob("a_*"):
            file.rename(elsewhere / file.name)
        (folder / "more").symlink_to(elsewhere)
        (folder / "loop").symlink_to(folder)
        folders.write(folder / "._b_1.png", "")
        folders.write(folder / "._b_1.json", "")
    assert objects_of(read(f"{name}:{path}")).keys() == OBJECTS.keys()


def test_labels_of_images_that_are_not_read_are_named(tmp_path, caplog):
    data = folders.write_yolo(tmp_path)
    read(f"yolo:{data}")
    assert not caplog.text
    (tmp_path / "images/train/a_1.png").rename(tmp_path / "images/train/a_1.heic")
    read(f"yolo:{data}")
    assert "1 label files" in caplog.text
    assert "a_1.txt" in caplog.text


def test_upper_case_suffixes_and_names_of_renamed_images(tmp_path):
    folders.write_voc(tmp_path)
    for name, suffix in (("a_1", "XML"), ("b_1", "xml")):
        path = tmp_path / f"Annotations/{name}.xml"
        path.write_text(path.read_text().replace(f"{name}.png", "a_2.png"))
        path.rename(path.with_suffix(f".{suffix}"))
    (tmp_path / "JPEGImages/b_1.png").rename(tmp_path / "JPEGImages/b_1.Png")
    found = objects_of(read(f"voc:{tmp_path}"))
    labels = {image: [label for label, *_ in objects] for image, objects in found.items()}
    assert labels == {image: [label for label, _ in of] for image, of in OBJECTS.items()}


def test_annotations_below_the_folder_of_voc_are_named(tmp_path, caplog):
    folders.write_voc(tmp_path)
    folders.write(tmp_path / "Annotations/more/c_1.xml", folders.voc_text("c_1", []))
    assert objects_of(read(f"voc:{tmp_path}")).keys() == OBJECTS.keys()
    assert "c_1.xml" in caplog.text


def test_blanks_around_a_label_are_not_its_name(tmp_path):
    folders.write_labelme(tmp_path)
    folders.write(
        tmp_path / "a_2.json", folders.labelme_text("a_2", [shape("nut ", [[1, 1], [5, 5]])])
    )
    assert [c["name"] for c in read(f"labelme:{tmp_path}")["categories"]] == [
        "bolt",
        "nut",
        "screw",
    ]


def test_a_comma_in_a_path(tmp_path):
    folder = tmp_path / "a,b"
    folder.mkdir()
    assert parse_source(f"voc:{folder}") == Source("voc", folder)
    assert parse_source(f"coco:{folder}/x.json,{folder}").detail == "b"
    assert parse_source("coco:~/x.json,images").path == Path(os.path.expanduser("~/x.json"))


def test_file_names_are_below_the_folder_that_all_images_share(tmp_path):
    folders.draw(tmp_path / "photos/x.png")
    folders.draw(tmp_path / "photos/more/y.png")
    for name in ("x", "more/y"):
        content = folders.labelme_text(f"../photos/{name}", [shape("nut", [[1, 1], [9, 9]])])
        folders.write(tmp_path / f"labels/{Path(name).name}.json", content)
    data = READERS["labelme"](tmp_path / "labels", "")
    dataset = to_coco(data, data.classes)
    assert dataset.images == tmp_path / "photos"
    assert {i["file_name"] for i in dataset.content["images"]} == {"x.png", "more/y.png"}


def test_convert_data_writes_what_pycocotools_reads(tmp_path, capsys):
    from pycocotools.coco import COCO

    data = folders.write_yolo(tmp_path / "data", ("train", "val"))
    before = snapshot(tmp_path / "data")
    output = tmp_path / "coco"
    assert main(["convert-data", f"yolo:{data}", "--output", str(output)]) == 0
    assert sorted(path.name for path in output.iterdir()) == ["train.json", "val.json"]
    printed = capsys.readouterr().out
    assert f"images in {tmp_path / 'data/images/train'}" in printed
    assert "screw" in printed
    dataset = COCO(output / "train.json")
    assert len(dataset.anns) == 5
    assert main(["convert-data", f"yolo:{data}", "--output", str(output)]) == 2
    assert "train.json" in capsys.readouterr().err
    assert snapshot(tmp_path / "data") == before


def test_convert_data_of_one_folder_and_of_a_split(tmp_path, capsys):
    root = folders.write_labelme(tmp_path / "data")
    assert main(["convert-data", f"labelme:{root}", "--output", str(tmp_path / "one")]) == 0
    assert len(json.loads((tmp_path / "one/instances.json").read_text())["images"]) == 4
    split = ["--val-fraction", "0.5", "--group", "^([ab])_"]
    source = f"coco:{tmp_path / 'one/instances.json'},{root}"
    assert main(["convert-data", source, "--output", str(tmp_path / "two"), *split]) == 0
    scenes = [
        {image["file_name"][0] for image in json.loads(path.read_text())["images"]}
        for path in sorted((tmp_path / "two").iterdir())
    ]
    assert sorted(map(tuple, scenes)) == [("a",), ("b",)]
    capsys.readouterr()
    assert main(["convert-data", source, "--output", str(tmp_path / "x"), *split[2:]]) == 2
    assert "--val-fraction" in capsys.readouterr().err
