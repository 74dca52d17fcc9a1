"""What is wrong with a dataset, found before a training.

datasets.py       the datasets of a config, and what it does with them
annotations.py    a COCO json against itself
segmentations.py  polygons and RLE of a COCO json
images.py         image files and masks, decoded
coco_kinds.py     every defect of a json, image_kinds.py every one of a file: what it does, and
                  what to do
defects.py        defects and the report of them
"""
