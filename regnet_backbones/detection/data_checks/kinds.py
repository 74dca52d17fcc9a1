"""The kinds of defects of a dataset: a row for each, what is wrong and what to do.

Found by running detectron2: its loader of jsons raises or drops annotations when a run starts, its
mapper when an image is drawn, and pycocotools after all images are evaluated. Wrong types of values
are kinds of their own, see `coco.TYPES`.
"""

from functools import partial

from regnet_backbones.detection.data_checks.defects import Kind

error, note, repair = partial(Kind, "error"), partial(Kind, "note"), partial(Kind, "repair")

# Found in reading a json, see `coco`
BOM = repair("the file begins with a byte order mark; save it as UTF-8 without one")
IMAGE_MISSING = error("an image is not on the disk; correct its 'file_name' or the image folder")
OTHER_SPELLING = repair("a 'file_name' is spelled differently from the file; write the file's name")
DOUBLE_ID = error("an id of images or categories is given twice; give each an id of its own")
NUMBER_AS_TEXT = repair("an id is text in one place and a number in another; write numbers")
MIXED_IDS = error("some ids of a list are text and others numbers; write all alike")
UNDEFINED_ID = error("an annotation has an image_id or category_id that the file does not define")
ROOT = repair("a category is only the others' 'supercategory' and is unused; remove it", None)
NO_ID = repair("an annotation has no id; number them from 1")
ID_TWICE = repair("an id of annotations is given twice; number them from 1", ("unique_ids",))
ZERO_ID = repair("an annotation's id is 0 or not a number; number them from 1", ("test",))
BOX_AS_MASK = repair("a 'segmentation' repeats the bbox; leave it out, or write polygons")
NO_BOX = error("an annotation has no bbox; write [x, y, width, height] in pixels")
BOX_OF_POLYGONS = repair("an annotation has polygons and no bbox; write the box around them")
EMPTY_OBJECT = repair("an annotation has an empty bbox and no segmentation; remove it", None)
NO_CROWD_FLAG = repair("an annotation has no iscrowd; write 0", ("test", "crowds"))
NO_AREA = repair("an annotation has no area; write that of its mask or bbox", ("test",))
ZERO_AREA = repair("an area is 0 and its bbox is not empty; write that of the mask or bbox", None)

# Found in comparing what a json says, see `annotations`
NOTHING = error(
    "there is nothing to train on: every annotation is a crowd region, has no box inside its image "
    "or no polygon of 3 points, or too few keypoints; set iscrowd 0 for single objects, or train "
    "boxes only (remove 'segmentation', set MODEL.MASK_ON False)"
)
NOTHING_TO_SCORE = note("there are no annotations; the evaluation has nothing to score")
UNUSED_CLASS = note("a category has no annotation; it is not learned, or not measured")
SAME_NAME = note("two categories have one name; they remain two classes")
SAME_FILE = note("a file is listed as several images; each counts, with its own annotations")
IN_BOTH = note("a file is in the training and in the validation data, whose results mislead then")
REPEATED = note("an annotation repeats another one (image, category, bbox); both are used")
ONE_PIXEL = note("a bbox is one pixel or smaller; check that it is [x, y, width, height]")
OTHER_FORM = error(
    "boxes or polygons are not written as COCO's, [x, y, width, height] and [x1, y1, x2, y2, ...] "
    "in pixels; correct the file, or what exported it"
)
UNLIKE_MASK = note("the bbox and the polygons of an annotation do not fit; one of them is wrong")
IGNORED = error("an annotation has 'ignore', which detectron2 does not support; use iscrowd 1")
DROPPED_BOX = note("a bbox has no area inside its image; detectron2 does not train on it")
UNREACHABLE_BOX = note("a bbox has no area inside its image; evaluation counts it as missed")
CLIPPED_BOX = note("a bbox is over 1 pixel beyond the border; it is clipped in training only")
CROWD = note("an annotation is a crowd region (iscrowd 1); training and evaluation ignore it")
EMPTY_IMAGE = note("an image has no objects; see DATALOADER.FILTER_EMPTY_ANNOTATIONS")
NO_MASK = error("an annotation has no segmentation; add it, or set MODEL.MASK_ON False")
DROPPED_ANNOTATION = note("no polygon has 3 points; detectron2 does not train on the annotation")
DROPPED_POLYGON = note("a polygon has no 3 points or odd values; detectron2 does not train on it")
NO_POLYGON = error("no polygon of 3 points, or the first one has 2; correct or remove them")
RLE_FOR_POLYGON = error("a segmentation is an RLE; set INPUT.MASK_FORMAT bitmask")
RLE_SIZE = error("an RLE is not of its image's size [height, width]; encode the mask again")
BROKEN_RLE = error("the counts of an RLE do not add up to height x width; encode the mask again")
KEYPOINTS = error(
    "an annotation has not MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS keypoints, or no num_keypoints; "
    "write [x, y, visibility] of each, and the number of visible ones"
)

# Found in loading a dataset and opening its files, see `datasets`
UNLOADABLE = error(
    "the dataset cannot be loaded; detectron2's own are looked for below DETECTRON2_DATASETS, else "
    "in the folder 'datasets'"
)
TOO_MANY_CLASSES = error("the dataset has more classes than the model; set the number of classes")
UNREADABLE_FILE = error("a file cannot be read to its end; fetch it again, or remove it")
WRONG_SIZE = error("an image is not of the size that its annotations say; correct one of them")
DEEP_IMAGE = error("an image cannot be used as it is")
TURNED = note("an image is turned by its EXIF data; check that its annotations are, too")
CONVERTED = note("an image is not RGB; detectron2 converts it, and ignores transparency")
MASK_SIZE = error("a mask is not of the size of its image; save both in one size")
MASK_COLOURS = error("a mask's values change when read as grey; save its labels as grey 8-bit PNG")
MASK_LABELS = error("a mask has labels beyond MODEL.SEM_SEG_HEAD.NUM_CLASSES and IGNORE_VALUE")
