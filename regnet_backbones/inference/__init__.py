"""Evaluating and predicting with what was trained: detectors and segmenters alike."""
