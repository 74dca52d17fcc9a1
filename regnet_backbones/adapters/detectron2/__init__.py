"""The Detectron2 adapter: config node, builders, heads, checkpoints.

Light by itself: `compat/` is imported before detectron2 is, `builders` by it.
"""
