"""The kinds of defects of image files and of masks that are images, and what each does."""

from regnet_backbones.detection.data_checks.defects import error, note

UNLOADABLE = error("the dataset cannot be loaded", "correct what the message says")
TOO_MANY_CLASSES = error(
    "the dataset has more classes than the model: training takes the first of them for background, "
    "or stops",
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
CONVERTED = note("an image is not RGB", "detectron2 converts it")
TRANSPARENT = note("an image has transparency", "detectron2 leaves the transparency out")

MASK_SIZE = error(
    "a mask is not of the size of its image, which stops a training when it is drawn",
    "save both in one size, masks resized without interpolation",
)
MASK_COLOURS = error(
    "a mask's values are not its labels when it is read: detectron2 makes grey values of colours, "
    "palettes, 1, 2, 4 and 16 bits",
    "save it as grey PNG of 8 bits whose values are the labels",
)
MASK_LABELS = error(
    "a mask has labels that are neither classes nor the ignored one",
    "correct the mask, or MODEL.SEM_SEG_HEAD.NUM_CLASSES and IGNORE_VALUE",
)
