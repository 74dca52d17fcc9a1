"""Detectron2's training, for runs that are stopped and resumed (the contract is `runs.resume`)."""
