"""The kinds of defects of a dataset, and what each does.

Found by running detectron2: its loader of jsons (`detectron2/data/datasets/coco.py`) raises or
drops annotations when a run starts, its mapper (`detection_utils.py`) when an image is drawn, and
pycocotools after all images are evaluated. Wrong types of values are kinds of their own, see
`coco.KEYS`.
"""

from regnet_backbones.detection.data_checks.defects import error, note, repair

# Boxes beyond the border by up to this many pixels are rounded ones.
ROUNDING = 1.0

# Found in reading a json, see `coco`
BOM = repair(
    "the file begins with a byte order mark, which pycocotools does not read",
    "save it as UTF-8 without one",
    "a copy without it is used",
)
IMAGE_MISSING = error(
    "an image is not on the disk",
    "put it there or remove it from the json; a 'file_name' is relative to the image folder "
    "(--train-images, --val-images)",
)
OTHER_SPELLING = repair(
    "a 'file_name' has other slashes, composed accents or leading folders than the file",
    "write the name that the file has below the image folder",
    "the file on the disk is used",
)
DOUBLE_ID = error(
    "an id of images or categories is given twice", "give each an id of its own, and refer to that"
)
NUMBER_AS_TEXT = repair(
    "an id is a text in one place and a number in another",
    "write it as a number everywhere",
    "it is used as the number",
)
MIXED_IDS = error(
    "some ids of a list are texts and others numbers, which cannot be sorted",
    "write all as texts or all as numbers",
)
UNDEFINED_ID = error(
    "an annotation has an image_id or a category_id that the file does not define",
    "add the image or the category, correct the id, or remove the annotation",
)
ROOT = repair(
    "a category is only the 'supercategory' of all others and has no annotation",
    "remove it, or one class of the model stands for nothing",
    "it is left out",
    None,
)
NUMBER_THEM = "number the annotations from 1"
NUMBERED = "all annotations are numbered from 1 in the order of the file"
NO_ID = repair("an annotation has no id", NUMBER_THEM, NUMBERED)
ID_TWICE = repair("an id of annotations is given twice", NUMBER_THEM, NUMBERED, ("unique_ids",))
ZERO_ID = repair(
    "an annotation's id is 0 or not a number, and COCO's evaluation takes 0 for 'not found'",
    NUMBER_THEM,
    NUMBERED,
    ("test",),
)
BOX_AS_MASK = repair(
    "a 'segmentation' repeats the bbox, [[x, y, width, height]]",
    "leave it out, or write polygons [[x1, y1, x2, y2, x3, y3, ...], ...]",
    "the annotation has a bbox and no mask",
)
BOX = "write [x, y, width, height] in pixels"
NO_BOX = error("an annotation has no bbox", BOX)
BOX_OF_POLYGONS = repair(
    "an annotation has polygons and no bbox", BOX, "the box around the polygons is used"
)
EMPTY_OBJECT = repair(
    "an annotation is empty: its bbox has no width and no height, and it has no segmentation",
    "remove it",
    "it is left out",
    None,
)
NO_CROWD_FLAG = repair("an annotation has no iscrowd", "write 0", "0 is used", ("test", "crowds"))
AREA = "the area of the segmentation, or of the box, is used"
NO_AREA = repair("an annotation has no area", "write its pixels", AREA, ("test",))
ZERO_AREA = repair("an area is 0, and the bbox has one", "write its pixels", AREA, None)

# Found in comparing what a json says, see `annotations`
NOTHING = error(
    "there is nothing to train on: every annotation is a crowd region (iscrowd 1), has no box "
    "inside its image or no polygon of 3 points, or is of an image with too few keypoints",
    "set iscrowd 0 if an annotation is one object (CVAT's brush writes 1); to train boxes only, "
    "remove 'segmentation' and set MODEL.MASK_ON False",
)
NOTHING_TO_SCORE = note("there are no annotations", "the evaluation has nothing to score")
UNUSED_CLASS = note("a category has no annotation", "the class is not learnt, or not measured")
SAME_NAME = note("two categories have one name", "they are two classes all the same")
SAME_FILE = note("a file is listed as several images", "each counts, with its own annotations")
IN_BOTH = note(
    "a file is in the training and in the validation data",
    "results on it say nothing about new images",
)
REPEATED = note(
    "an annotation repeats another one: the same image, category and bbox",
    "both are used; evaluation counts two objects",
)
ONE_PIXEL = note("a bbox is one pixel or smaller", "check that it is [x, y, width, height]")
UNLIKE_MASK = note("the bbox and the polygons of an annotation do not fit", "one of them is wrong")
IGNORED = error(
    "an annotation has 'ignore', which detectron2 does not support",
    "remove the key, and mark regions that count nowhere with iscrowd 1",
)
DROPPED_BOX = note(
    "a bbox has no area inside its image", "detectron2 leaves the annotation out of training"
)
UNREACHABLE_BOX = note(
    "a bbox has no area inside its image",
    "evaluation counts it as an object, which no detection can find",
)
CLIPPED_BOX = note(
    f"a bbox is beyond the border of its image by more than {ROUNDING:.0f} pixel",
    "detectron2 clips it in training; evaluation compares with the whole box",
)
CROWD = note(
    "an annotation is a crowd region (iscrowd 1)",
    "detectron2 leaves it out of training, and evaluation ignores detections in it",
)
EMPTY_IMAGE = note(
    "an image has no annotations, or crowd regions only",
    "with DATALOADER.FILTER_EMPTY_ANNOTATIONS, detectron2's default, it is not trained on",
)
NO_MASK = error(
    "an annotation has no segmentation, and the config trains masks",
    "add it, remove the annotation, or train boxes only with MODEL.MASK_ON False",
)
SHORT_POLYGONS = "polygons of an annotation have fewer than 3 points or an odd number of values"
DROPPED_ANNOTATION = note(
    f"all {SHORT_POLYGONS}", "detectron2 leaves the annotation out of training, its box too"
)
DROPPED_POLYGON = note(f"some {SHORT_POLYGONS}", "detectron2 leaves these out of training")
NO_POLYGON = error(
    "evaluation cannot draw a mask: no polygon has 3 points, or the first one has 2, like a box",
    "correct the polygons, or remove them",
)
RLE_FOR_POLYGON = error(
    "a segmentation is an RLE, and the config trains polygons", "set INPUT.MASK_FORMAT bitmask"
)
RLE_SIZE = error(
    "an RLE is not of its image's size", "encode the mask in the size [height, width] of the image"
)
BROKEN_RLE = error(
    "the counts of an RLE cannot be decoded, or do not add up to height x width",
    "encode the mask again; evaluation can hang on it",
)
KEYPOINTS = error(
    "an annotation has another number of keypoints than the config, or no num_keypoints",
    "give [x, y, visibility] of each of MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS, zeros if invisible, "
    "and to evaluate the number of visible ones",
)

# Found in loading a dataset and opening its files, see `datasets` and `images`
UNLOADABLE = error("the dataset cannot be loaded", "correct what the message says")
TOO_MANY_CLASSES = error(
    "the dataset has more classes than the model, which takes the next one for background or stops",
    "set the number of classes",
)
UNREADABLE_FILE = error(
    "a file cannot be read to its end, which stops a training when it is drawn",
    "fetch it again, or remove it from the dataset",
)
WRONG_SIZE = error(
    "an image is not of the size that its annotations say, which stops a training when it is drawn",
    "correct width and height of the annotations, or the image (turned as its EXIF data say)",
)
DEEP_IMAGE = error("an image cannot be taken as it is", "correct it as the message says")
TURNED = note(
    "an image is turned by its EXIF data, and its size is that of the annotations",
    "check that these are of the turned image",
)
CONVERTED = note("an image is not RGB", "detectron2 converts it, and leaves out transparency")
MASK_SIZE = error(
    "a mask is not of the size of its image, which stops a training when it is drawn",
    "save both in one size, masks resized without interpolation",
)
MASK_COLOURS = error(
    "a mask's values are not its labels once detectron2 has made them grey values of 8 bits",
    "save it as grey PNG of 8 bits whose values are the labels",
)
MASK_LABELS = error(
    "a mask has labels that are neither classes nor the ignored one",
    "correct the mask, or MODEL.SEM_SEG_HEAD.NUM_CLASSES and IGNORE_VALUE",
)
