"""Detectron2's training, for runs that are stopped and resumed (the contract is `runs.resume`).

trainer.py     detectron2's DefaultTrainer with what follows
loader.py      batches that are a function of a seed and their number
mappers.py     what reads and augments an image
hooks.py       what is done before and after each step
checkpoint.py  whole and finite checkpoints, and what a resumed run is compared with
"""
