"""Training detectors in detectron2: datasets, trainer, pictures, the run itself."""
