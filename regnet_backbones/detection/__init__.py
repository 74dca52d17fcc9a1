"""Training detectors in detectron2: config keys, datasets, trainer, pictures, the run itself."""
