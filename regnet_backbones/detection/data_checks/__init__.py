"""What is wrong with a dataset, found before a training.

datasets.py       the datasets of a config, and what it does with them
coco.py           a COCO json, read and corrected
annotations.py    its annotations against each other and their images
images.py         image files and masks, decoded
kinds.py          every kind of defect: what it does, and what to do
defects.py        defects and the report of them
"""
