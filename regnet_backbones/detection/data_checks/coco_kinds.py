"""The kinds of defects of a COCO json, and what each does.

Found by running detectron2: its loader of jsons (`detectron2/data/datasets/coco.py`) raises or
drops annotations when a run starts, its mapper (`detection_utils.py`) when an image is drawn, and
pycocotools after all images are evaluated.
"""

from regnet_backbones.detection.data_checks.defects import error, note

# Boxes beyond the border by up to this many pixels are rounded ones.
ROUNDING = 1.0

NOTHING = error("there are no annotations to train on", "give the json that has them")
INCOMPLETE_IMAGE = error(
    "an image has no id, file_name, width or height", "give all four: width and height in pixels"
)
INCOMPLETE_CATEGORY = error("a category has no id or name", "give both")
NAME_NO_TEXT = error("the name of a category is no text", "write it in quotes")
IMAGE_MISSING = error(
    "an image is not on the disk",
    "put it there or remove it from the json: a 'file_name' is relative to the image folder "
    "(--train-images, --val-images)",
)
IMAGE_TWICE = error(
    "an id of images is given twice",
    "give every image an id of its own, and its annotations that image_id",
)
CATEGORY_TWICE = error("an id of categories is given twice", "give every category an id of its own")
ANNOTATION_TWICE = error("an id of annotations is given twice", "number the annotations from 1")
NO_ID = error("an annotation has no id", "number the annotations from 1")
ZERO_ID = error(
    "an annotation's id is 0 or no number, and COCO's evaluation takes 0 for 'not found'",
    "number the annotations from 1",
)
NO_IMAGE = error(
    "an annotation has an image_id that the file does not define",
    "add the image to 'images', or remove the annotation",
)
NO_CATEGORY = error(
    "an annotation has a category_id that the file does not define",
    "add the category to 'categories', or correct the id",
)
IGNORED = error(
    "an annotation has 'ignore', which detectron2 does not support",
    "remove the key, and mark regions that count nowhere with iscrowd 1",
)
BAD_BOX = error("a bbox is not four numbers", "write it as [x, y, width, height] in pixels")
INFINITE_BOX = error(
    "a bbox has a number that is NaN or infinite: training loses or distorts it, evaluation "
    "finds it where it is not",
    "correct the box or remove the annotation",
)
NEGATIVE_BOX = error(
    "a bbox has a negative width or height: training turns it round, evaluation does not find it",
    "write it as [x, y, width, height], x and y of the upper left corner",
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
BAD_SEGMENTATION = error(
    "a segmentation is neither a list of polygons nor an RLE with 'size' and 'counts'",
    "write polygons as [[x1, y1, x2, y2, x3, y3, ...], ...], or remove the key and train boxes "
    "only with MODEL.MASK_ON False",
)
NO_MASK = error(
    "an annotation has no segmentation, and the config trains masks",
    "add it, remove the annotation, or train boxes only with MODEL.MASK_ON False",
)
INFINITE_POLYGON = error(
    "a polygon has a number that is NaN or infinite, which crashes the process when it is drawn",
    "correct the polygon or remove the annotation",
)
DROPPED_ANNOTATION = note(
    "all polygons of an annotation have fewer than 3 points or an odd number of values",
    "detectron2 leaves the annotation out of training, its box too",
)
NO_POLYGON = error(
    "all polygons of an annotation have fewer than 3 points or an odd number of values, which "
    "evaluation cannot draw",
    "correct them or remove the annotation",
)
BOX_FOR_POLYGON = error(
    "the first polygon of an annotation has two points, which evaluation takes for a box",
    "remove that polygon",
)
DROPPED_POLYGON = note(
    "some polygons of an annotation have fewer than 3 points or an odd number of values",
    "detectron2 leaves these polygons out of training",
)
RLE_FOR_POLYGON = error(
    "a segmentation is an RLE, and the config trains polygons", "set INPUT.MASK_FORMAT bitmask"
)
MIXED = note(
    "the file has both polygons and RLE", "with INPUT.MASK_FORMAT bitmask detectron2 reads both"
)
RLE_SIZE = error(
    "an RLE is not of its image's size", "encode the mask in the size [height, width] of the image"
)
BROKEN_RLE = error(
    "an RLE's counts cannot be decoded, or do not add up to height x width; evaluation can hang "
    "on it",
    "encode the mask again",
)
KEYPOINTS = error(
    "an annotation has not the number of keypoints of the config",
    "give [x, y, visibility] of each of MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS, zeros where not "
    "visible",
)
NOT_EVALUABLE = error(
    "an annotation lacks what the evaluation reads, which fails after all images are predicted",
    "add area (pixels), iscrowd (0) and, for keypoints, num_keypoints",
)
