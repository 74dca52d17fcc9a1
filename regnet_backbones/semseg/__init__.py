"""Training of semantic segmenters with Lightning: data, module, schedule, pictures."""
