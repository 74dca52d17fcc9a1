"""What is wrong with a dataset, found before a training.

datasets.py       the datasets of a config: their jsons, images and masks
coco.py           a COCO json, read and corrected
annotations.py    its annotations against each other and their images
kinds.py          defects, the report of them, and every kind of defect, a row each
"""
