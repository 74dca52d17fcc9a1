"""Detectron2's training, for runs that are stopped and resumed.

trainer.py        detectron2's DefaultTrainer with what follows
loader.py         batches that are a function of a seed and their number
mappers.py        what reads and augments an image; semantic.py that of a segmenter
continuation.py   what else a resumed run needs to go on exactly
checkpointer.py   checkpoints that are whole and finite
averaging.py      a running average of the weights
losses.py         what stops a training whose loss is not finite
stopping.py       what a signal ends with the training: evaluations, and not data workers
metrics.py        what a training logs, once for every iteration
"""
